"""Procfile text → types: foreman's grammar, and every other reader's surprises named."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation import procfile
from formation.procfile import Entry, ProcfileError


def problems(text: str, *, strict: bool = False) -> tuple[str, ...]:
    with pytest.raises(ProcfileError) as caught:
        procfile.parse(text, strict=strict)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web: command\n", ("web", "command")),
        ("web: command", ("web", "command")),
        ("web:command", ("web", "command")),
        ("web:\tcommand", ("web", "command")),
        ("-foo_bar: x", ("-foo_bar", "x")),
        ("web2: x:y", ("web2", "x:y")),
        ("\ufeffweb: command\r\n", ("web", "command")),
        ('web: sh -c "echo $A" >/dev/null 2>&1', ("web", 'sh -c "echo $A" >/dev/null 2>&1')),
        ("web: echo a # b \\", ("web", "echo a # b \\")),
        ("web: a\u2028b\x0bc", ("web", "a\u2028b\x0bc")),
    ],
)
def test_a_line_is_a_type_and_its_command_verbatim(text: str, expected: tuple[str, str]) -> None:
    assert procfile.parse(text).types == (Entry(*expected, 1),)


def test_types_keep_their_order_and_comments_and_blanks_are_nothing() -> None:
    text = (
        "alpha: ./alpha\n\nbravo:\t./bravo\nfoo_bar:\t./foo_bar\nfoo-bar:\t./foo-bar\n"
        "# baz:\t./baz\n   # indented\n"
    )
    parsed = procfile.parse(text)
    assert [entry.name for entry in parsed.types] == ["alpha", "bravo", "foo_bar", "foo-bar"]
    assert [entry.line for entry in parsed.types] == [1, 3, 4, 5]
    assert parsed.warnings == ()


@pytest.mark.parametrize(
    "stray", ["+foo: x", "<<<<<<< HEAD", "  web: indented", "my app: x", "worker:", "worker:   "]
)
def test_a_line_that_defines_nothing_is_a_warning_with_its_number(stray: str) -> None:
    parsed = procfile.parse(f"web: x\n{stray}\n", source="Procfile")
    assert [entry.name for entry in parsed.types] == ["web"]
    (warning,) = parsed.warnings
    assert warning.startswith("Procfile:2: not a process")
    assert problems(f"web: x\n{stray}\n", strict=True) == (warning,)


def test_a_duplicate_is_refused_with_both_lines() -> None:
    assert problems("web: a\n\nweb: b\n") == ("Procfile:3: web is defined twice, first on line 1",)


@pytest.mark.parametrize("text", ["", "\n\n", "#c: x", "\ufeff"])
def test_without_any_process_it_says_so(text: str) -> None:
    (problem,) = problems(text)
    assert "no processes defined" in problem


def test_when_nothing_matched_the_strays_say_why() -> None:
    first, second = problems("+foo: x")
    assert "Procfile:1" in first
    assert "no processes defined" in second


def test_all_problems_are_told_at_once() -> None:
    found = problems(f"web: a\nweb: b\n{'x' * 64}: c\nz: \0\n<<<<\n", strict=True)
    assert [problem.split(": ")[0] for problem in found] == [
        "Procfile:5",
        "Procfile:2",
        "Procfile:3",
        "Procfile:4",
    ]


@given(st.text(max_size=300))
def test_any_text_is_parsed_or_refused_with_lines(text: str) -> None:
    with contextlib.suppress(ProcfileError):
        parsed = procfile.parse(text)
        assert len({entry.name for entry in parsed.types}) == len(parsed.types) > 0
        assert all(entry.command in text for entry in parsed.types)
