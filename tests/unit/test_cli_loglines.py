"""Log lines on screen and in pipes: foreman's form, and no control of the terminal."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formctl.loglines import History, Line, Painter, clock, escaped, wants_colour


def line(name: str, text: bytes = b"hello", *, at_us: int = 0, sequence: int = 0) -> Line:
    return Line(at_us=at_us, sequence=sequence, name=name, text=text)


def test_names_are_padded_to_the_longest_one_known() -> None:
    painter = Painter(colour=False, terminal=False, names=["web.1", "worker.1"])
    time = clock(0).encode()
    assert painter.line(line("web.1")) == time + b" web.1    | hello\n"
    assert painter.line(line("worker.1")) == time + b" worker.1 | hello\n"
    assert painter.system(0, "up") == time + b" system   | up\n"


def test_a_type_has_one_colour_and_other_types_have_others() -> None:
    painter = Painter(colour=True, terminal=True, names=["web.1", "worker.1"])
    web, again, worker = (painter.line(line(name))[:6] for name in ("web.1", "web.9", "worker.1"))
    assert web == again != worker
    assert web.startswith(b"\x1b[")


def test_bytes_stay_bytes_in_a_pipe() -> None:
    painter = Painter(colour=True, terminal=False)
    raw = b"\xff\x00\x1b[2J\r"
    assert painter.line(line("web.1", raw)).endswith(raw + b"\n")


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (b"plain", b"plain"),
        (b"tab\there", b"tab\there"),
        (b"crlf\r", b"crlf"),
        (b"over\rwrite", b"over\\rwrite"),
        (b"\x1b]0;title\x07", b"\\x1b]0;title\\x07"),
        (b"\x1b[2Jcleared", b"\\x1b[2Jcleared"),
        (b"a\x00b\x08", b"a\\x00b\\x08"),
        (b"\xc2\x9b2J", b"\\x9b2J"),
        (b"\xff\xfe", b"\\xff\\xfe"),
        ("é 日本".encode(), "é 日本".encode()),
        (b"\x1b[31mred\x1b[0m", b"red"),
    ],
)
def test_on_a_terminal_control_characters_are_shown_instead_of_obeyed(
    raw: bytes, plain: bytes
) -> None:
    assert escaped(raw, colour=False) == plain


def test_on_a_terminal_colours_stay_and_end_with_the_line() -> None:
    assert escaped(b"\x1b[1;31mred", colour=True) == b"\x1b[1;31mred\x1b[0m"
    assert escaped(b"\x1b[31m\x1b[2J", colour=True) == b"\x1b[31m\\x1b[2J\x1b[0m"


@given(st.binary(max_size=60))
def test_no_bytes_reach_a_terminal_but_printable_ones(raw: bytes) -> None:
    shown = escaped(raw, colour=False).decode()
    assert all(character == "\t" or character.isprintable() for character in shown)


def test_a_line_that_goes_on_or_never_ended_is_marked_on_a_terminal_alone() -> None:
    cut = Line(at_us=0, sequence=0, name="web.1", text=b"prompt> ", partial=True)
    painted = [
        Painter(colour=colour, terminal=terminal).line(cut)
        for colour, terminal in ((False, True), (True, True), (False, False))
    ]
    assert painted[0].endswith("prompt> …\n".encode())
    assert painted[1].endswith("prompt> \x1b[2m…\x1b[0m\n".encode())
    assert painted[2].endswith(b"prompt> \n")


@pytest.mark.parametrize(
    ("choice", "terminal", "environ", "wanted"),
    [
        ("auto", True, {}, True),
        ("auto", False, {}, False),
        ("auto", True, {"NO_COLOR": "1"}, False),
        ("auto", True, {"NO_COLOR": ""}, True),
        ("auto", True, {"TERM": "dumb"}, False),
        ("always", False, {"NO_COLOR": "1"}, True),
        ("never", True, {}, False),
    ],
)
def test_colour_is_wanted_on_terminals_unless_said_otherwise(
    choice: str, terminal: bool, environ: dict[str, str], wanted: bool
) -> None:
    assert wants_colour(choice, terminal=terminal, environ=environ) is wanted


def test_history_is_the_last_lines_over_all_hosts_in_their_order() -> None:
    lines = [line("web.1", at_us=n // 2, sequence=n) for n in range(20)]
    mixed = random.Random(7).sample(lines, len(lines))
    history = History(5)
    for item in mixed:
        history.add(item)
    assert history.take() == lines[-5:]
    assert history.take() == []


def test_history_may_be_everything_or_nothing() -> None:
    everything, nothing = History(None), History(0)
    for number in range(10):
        everything.add(line("web.1", at_us=-number))
        nothing.add(line("web.1"))
    assert [item.at_us for item in everything.take()] == list(range(-9, 1))
    assert nothing.take() == []
