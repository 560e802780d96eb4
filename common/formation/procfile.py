"""Procfile text → process types, or all of its problems with their lines. Pure.

The grammar is foreman's: `name: command` per line, anything else is no definition. What other
readers drop in silence (a merge marker, a name with a space) is a warning here, with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from formation.names import TYPE_NAME

_DEFINITION = re.compile(r"([A-Za-z0-9_-]+):\s*(\S.*)")
_SHOWN_MAX = 60


class ProcfileError(ValueError):
    """`problems`: one line each, `source:line: what is wrong`."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Entry:
    """One definition; `command` is verbatim, `line` counts from 1."""

    name: str
    command: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    types: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()


def parse(text: str, *, source: str = "Procfile", strict: bool = False) -> Parsed:
    """`strict`: a line that is no definition is an error instead of a warning."""
    entries: list[Entry] = []
    strays: list[str] = []
    for number, line in _lines(text):
        match = _DEFINITION.fullmatch(line)
        if match:
            entries.append(Entry(match[1], match[2], number))
        else:
            strays.append(f"{source}:{number}: not a process (name: command): {_shown(line)}")
    problems = list(_problems(entries, source))
    if strays and (strict or not entries):
        problems = strays + problems
    if not entries:
        problems.append(f"{source}: no processes defined; add a line such as: web: ./server")
    if problems:
        raise ProcfileError(tuple(problems))
    return Parsed(types=tuple(entries), warnings=tuple(strays))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that should say something. Only `\\n` ends a line: a command may hold the others."""
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        stripped = line.removesuffix("\r")
        if stripped.strip() and not stripped.lstrip().startswith("#"):
            yield number, stripped


def _problems(entries: list[Entry], source: str) -> Iterator[str]:
    first: dict[str, int] = {}
    for entry in entries:
        place = f"{source}:{entry.line}: "
        if entry.name in first:
            yield f"{place}{entry.name} is defined twice, first on line {first[entry.name]}"
        first.setdefault(entry.name, entry.line)
        if not TYPE_NAME.fullmatch(entry.name):
            yield f"{place}{_shown(entry.name)} is too long for a name: at most 63 characters"
        if "\0" in entry.command:
            yield f"{place}the command of {entry.name} holds a NUL character"


def _shown(line: str) -> str:
    return repr(line if len(line) <= _SHOWN_MAX else line[: _SHOWN_MAX - 1] + "…")
