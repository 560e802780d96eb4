"""Log lines on screen and in pipes: foreman's form, and no control of the terminal."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation.gaps import Gap, words
from formctl.loglines import History, Line, Painter, clock, escaped
from formctl.settings import wants_colour


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
        ("auto", False, {"FORCE_COLOR": "1"}, True),
        ("auto", False, {"FORCE_COLOR": ""}, False),
        ("auto", True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ("auto", True, {"FORCE_COLOR": "1", "TERM": "dumb"}, True),
        ("never", True, {"FORCE_COLOR": "1"}, False),
        ("always", False, {"NO_COLOR": "1"}, True),
        ("never", True, {}, False),
    ],
)
def test_colour_is_wanted_on_terminals_unless_said_otherwise(
    choice: str, terminal: bool, environ: dict[str, str], wanted: bool
) -> None:
    assert wants_colour(choice, terminal=terminal, environ=environ) is wanted


def test_history_is_the_last_lines_over_all_hosts_in_their_order() -> None:
    lines = [line(f"web.{n % 3}", at_us=n // 2, sequence=n) for n in range(20)]
    streams = [deque(lines[n::3]) for n in range(3)]
    dice, history = random.Random(7), History(5)
    while left := [stream for stream in streams if stream]:
        history.add(dice.choice(left).popleft())
    assert history.take() == lines[-5:]
    assert history.take() == []


def test_history_may_be_everything_or_nothing() -> None:
    everything, nothing = History(None), History(0)
    for number in range(10):
        everything.add(line("web.1", at_us=-number))
        nothing.add(line("web.1"))
    assert [item.at_us for item in everything.take()] == list(range(-9, 1))
    assert nothing.take() == []


def test_a_clock_set_back_a_little_leaves_the_lines_of_an_instance_in_their_order() -> None:
    history = History(None)
    times_s = (100, 101, 99, 100, 102)
    lines = [
        line("web.1", b"%d" % n, at_us=at_s * 1_000_000, sequence=n)
        for n, at_s in enumerate(times_s)
    ]
    other = line("web.2", b"other", at_us=101_500_000, sequence=9)
    for item in (*lines, other):
        history.add(item)
    assert [item.text for item in history.take()] == [b"0", b"1", b"2", b"3", b"other", b"4"]


def test_a_clock_far_ahead_for_a_while_does_not_hold_later_lines_behind_all_others() -> None:
    history = History(2)
    for number, at_s in enumerate((9_000, 100, 101)):
        history.add(line("web.1", b"%d" % number, at_us=at_s * 1_000_000, sequence=number))
    assert [item.text for item in history.take()] == [b"2", b"0"]


def test_what_is_missing_of_a_host_stands_behind_the_history_and_takes_no_lines_place() -> None:
    history = History(1)
    history.add(Line(at_us=5, sequence=1, name="", text=b"host b ...", host="b", gap=Gap.HOST_LOST))
    history.add(line("web.1", b"kept", at_us=1, sequence=2))
    assert [item.text for item in history.take()] == [b"kept", b"host b ..."]


def test_a_gap_of_a_host_is_shown_as_the_systems_word_and_one_of_an_instance_as_its_own() -> None:
    painter = Painter(colour=False, terminal=True, names=["web.1"])
    lost = Line(at_us=0, sequence=0, name="", text=b"host b\x1b[2J", host="b", gap=Gap.HOST_LOST)
    assert painter.line(lost) == clock(0).encode() + b" system | host b\\x1b[2J\n"
    plain = Painter(colour=False, terminal=False, prefix=False)
    assert plain.line(line("web.1", b"just this")) == b"just this\n"


@pytest.mark.parametrize("missing", [0, 1, 12_345])
def test_how_many_lines_are_missing_is_said_when_it_is_known(missing: int) -> None:
    said = words(Gap.ROTATED, missing=missing)
    begin = {0: "some lines are", 1: "1 line is", 12_345: "12,345 lines are"}[missing]
    assert said == f"{begin} missing here: rotated away before they could be read"
