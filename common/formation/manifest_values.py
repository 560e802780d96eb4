"""One table of formation.toml and the kinds of values in it: each is right, or a problem. Pure.

A part of `formation.manifest`, through which everybody else comes. A reader gives the value, or
the default after it has noted what is wrong, so that all problems of a file are told at once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TypeGuard, TypeVar

DURATION_MAX_S = 24 * 3600.0
BYTES_MAX = 2**60
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(B|kB|MB|GB|KiB|MiB|GiB)")
_UNIT_BYTES = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_DURATION_EXAMPLES = 'seconds or text such as "500ms", "30s", "5min"'
_BYTES_EXAMPLES = 'bytes or text such as "512MiB", "2GiB"'

Table = Mapping[str, object]
Word = TypeVar("Word", bound=StrEnum)


class Section:
    """One table, at `path`; `problems` is shared by all sections of a file."""

    def __init__(self, table: Table, path: str, problems: list[tuple[str, str]]) -> None:
        self.table = table
        self.path = path
        self._problems = problems

    def __contains__(self, key: str) -> bool:
        return key in self.table

    def problem(self, key: str, what: str) -> None:
        """About this key; "" for the table itself."""
        self._problems.append((join(self.path, key) if key else self.path, what))

    def known_only(self, known: Sequence[str], elsewhere: Iterable[str] = ()) -> None:
        """`elsewhere`: dotted keys of other tables that may have been meant."""
        for key in self.table:
            if key not in known:
                inside = [dotted for dotted in elsewhere if dotted.rpartition(".")[2] == key]
                near = difflib.get_close_matches(key, [*known, *elsewhere], n=1) or inside
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                self.problem(key, f"unknown key; {hint}")

    def section(self, key: str) -> Section:
        """The table below this key; an empty one when there is none."""
        value = self.table.get(key, {})
        if not isinstance(value, dict):
            self.problem(key, f"must be a table, not {kind(value)}")
        return Section(
            value if isinstance(value, dict) else {}, join(self.path, key), self._problems
        )

    def text(self, key: str, default: str = "") -> str:
        value = self.table.get(key, default)
        if not isinstance(value, str):
            self.problem(key, f"must be a string, not {kind(value)}")
            return default
        if "\0" in value:
            self.problem(key, "holds a NUL character")
        return value

    def matching(self, key: str, is_right: Callable[[str], object], what: str) -> str:
        """A text that has a form; "" when the key is not there or wrong."""
        value = self.text(key)
        if not isinstance(self.table.get(key), str) or is_right(value):
            return value
        self.problem(key, f"{value!r} {what}")
        return ""

    def word(self, key: str, default: Word) -> Word:
        value = self.table.get(key, default.value)
        words = [word.value for word in type(default)]
        if isinstance(value, str) and value in words:
            return type(default)(value)
        self.problem(key, f"must be one of {quoted(words)}")
        return default

    def words(self, key: str, kinds: type[Word]) -> tuple[Word, ...]:
        value = self.table.get(key, [])
        known = [word.value for word in kinds]
        if not isinstance(value, list) or any(item not in known for item in value):
            self.problem(key, f"must be an array of some of {quoted(known)}")
            return ()
        if len(set(value)) < len(value):
            self.problem(key, "names something twice")
        return tuple(kinds(item) for item in value)

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of texts; none when it is not there or wrong."""
        value = self.table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.problem(key, "must be an array of strings")
            return ()
        return tuple(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.table.get(key, default)
        if isinstance(value, bool):
            return value
        self.problem(key, "must be true or false")
        return default

    def unknown(self, key: str, what: str, given: str, known: Iterable[str]) -> None:
        """A name that should be one of `known`: with the nearest of them."""
        names = list(known)
        near = difflib.get_close_matches(given, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
        self.problem(key, f"{what}; {hint}")

    def switch(self, key: str) -> bool:
        """`key = true`; whoever does not want it leaves it out."""
        if key in self.table and self.table[key] is not True:
            self.problem(key, "must be true, or left out")
        return self.table.get(key) is True

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        if key not in self.table:
            return default
        value = self.table[key]
        if is_whole(value) and low <= value <= high:
            return value
        self.problem(key, f"must be a whole number from {low} to {high}")
        return default

    def number(self, key: str, default: float, low: float, high: float) -> float:
        if key not in self.table:
            return default
        value = self.table[key]
        if (isinstance(value, float) or is_whole(value)) and low <= value <= high:
            return float(value)
        self.problem(key, f"must be a number from {low:g} to {high:g}")
        return default

    def duration(self, key: str, default: float, low_s: float = 0.0) -> float:
        if key not in self.table:
            return default
        seconds = duration_s(self.table[key])
        if seconds is not None and low_s <= seconds <= DURATION_MAX_S:
            return seconds
        least = f', at least "{low_s * 1000:g}ms"' if low_s else ""
        self.problem(key, f'must be {_DURATION_EXAMPLES}{least}, at most "24h"')
        return default

    def bytes(self, key: str, default: int, low: int = 0) -> int:
        if key not in self.table:
            return default
        size = size_bytes(self.table[key])
        if size is not None and low <= size <= BYTES_MAX:
            return size
        least = f", at least {show_bytes(low)}" if low else ""
        self.problem(key, f"must be {_BYTES_EXAMPLES}{least}")
        return default


def env_of(env: Section) -> dict[str, str]:
    for name in env.table:
        if not name or "=" in name or "\0" in name:
            env.problem(name, "no name for an environment variable")
    return {name: env.text(name) for name in env.table}


def duration_s(value: object) -> float | None:
    """Seconds of `1.5`, `"500ms"`, `"30s"`, `"5min"`, `"1h"`; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _float(value) if value >= 0 else None
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    return float(match[1]) * _UNIT_S[match[2]] if match else None


def size_bytes(value: object) -> int | None:
    """Bytes of `1048576`, `"512MiB"`, `"1.5GiB"`, `"20kB"`; None for anything else."""
    if is_whole(value):
        return value if value >= 0 else None
    match = _BYTES.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or not math.isfinite(number := float(match[1])):
        return None
    return int(number * _UNIT_BYTES[match[2]])


def show_bytes(size: int) -> str:
    """`1MiB`: the largest unit that leaves a whole number."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _UNIT_BYTES[unit] == 0:
            return f"{size // _UNIT_BYTES[unit]}{unit}"
    return f"{size}B"


def is_whole(value: object) -> TypeGuard[int]:
    """TOML's booleans are integers to Python, and never meant as one."""
    return isinstance(value, int) and not isinstance(value, bool)


def join(path: str, key: str) -> str:
    shown = key if _BARE_KEY.fullmatch(key) else repr(key)
    return f"{path}.{shown}" if path else shown


def quoted(words: Iterable[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def kind(value: object) -> str:
    """The name that TOML's own documentation gives to this value."""
    names = {bool: "a boolean", int: "an integer", float: "a float", list: "an array"}
    names |= {dict: "a table", str: "a string"}
    return names.get(type(value), "a date or time")


def _float(value: int | float) -> float | None:
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
