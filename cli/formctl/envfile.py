"""`.env` text → environment, in python-dotenv's dialect, or all of its problems with their lines.

Values come from the file alone: `${X}` sees the lines above it, never this
process's own environment, so that the same file means the same on every machine.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

from dotenv.parser import Binding, parse_stream
from dotenv.variables import Variable, parse_variables

_OURS = ("PORT", "PS")
_OUR_PREFIX = "FORMATION_"


class EnvFileError(ValueError):
    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvFile:
    values: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def parse(text: str, source: str = ".env") -> EnvFile:
    values: dict[str, str] = {}
    problems: list[str] = []
    warnings: list[str] = []
    for binding in parse_stream(io.StringIO(text, newline="")):
        place = f"{source}:{_line(binding)}"
        if problem := _problem(binding):
            problems.append(f"{place}: {problem}")
        elif binding.key is not None and binding.value is not None:
            value, unknown = _interpolated(binding.value, values)
            values[binding.key] = value
            warnings += [
                f"{place}: ${{{name}}} is not set above in this file and reads as empty"
                for name in unknown
            ]
    if problems:
        raise EnvFileError(tuple(problems))
    warnings += [f"{source}: {line}" for line in reserved_names(values)]
    return EnvFile(values=values, warnings=tuple(warnings))


def reserved_names(values: Mapping[str, str]) -> list[str]:
    """What a person should know about names that every instance gets from Formation."""
    return [
        f"{name} is set by Formation for each instance; the value here has no effect"
        for name in values
        if name in _OURS or name.startswith(_OUR_PREFIX)
    ]


def _line(binding: Binding) -> int:
    """dotenv counts the blank lines before a statement as part of it."""
    original = binding.original
    blank = original.string[: len(original.string) - len(original.string.lstrip())]
    return original.line + blank.count("\n")


def _problem(binding: Binding) -> str:
    if binding.error:
        return "not understood: write NAME=value, and end quotes that are opened"
    if binding.key is not None and binding.value is None:
        return f"{binding.key} has no value: write {binding.key}= for an empty one"
    if "\0" in (binding.key or "") + (binding.value or ""):
        return f"{binding.key!r} holds a NUL character"
    return ""


def _interpolated(value: str, values: Mapping[str, str]) -> tuple[str, list[str]]:
    atoms = list(parse_variables(value))
    unknown = [
        atom.name
        for atom in atoms
        if isinstance(atom, Variable) and atom.default is None and atom.name not in values
    ]
    return "".join(atom.resolve(values) for atom in atoms), unknown
