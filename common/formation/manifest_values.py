"""One table of formation.toml: each value is right, or a problem. Pure.

A part of `formation.manifest`, through which everybody else comes. What is right is looked up in
the table's `Keys`. A reader gives the value, or the default after it has noted what is wrong, so
that all problems of a file are told at once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TypeGuard, TypeVar

from formation.manifest_kinds import (
    BYTES_MAX,
    BYTES_PATTERN,
    DURATION_MAX_S,
    DURATION_PATTERN,
    PERCENT_PATTERN,
    VARIABLE_PATTERN,
    CountOrPercent,
    Duration,
    Keys,
    Kind,
    Named,
    Number,
    OneWord,
    Rlimit,
    SignalName,
    Size,
    SomeWords,
    SubTable,
    Switch,
    Text,
    Texts,
    TrueOrText,
    Variables,
    Whole,
    YesNo,
)
from formation.rules import Share

UNLIMITED = -1
_DURATION = re.compile(DURATION_PATTERN)
_UNIT_S = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_BYTES = re.compile(BYTES_PATTERN)
_UNIT_BYTES = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_PERCENT = re.compile(PERCENT_PATTERN)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_DURATION_EXAMPLES = 'seconds or text such as "500ms", "30s", "5min"'
_BYTES_EXAMPLES = 'bytes or text such as "512MiB", "2GiB"'

Table = Mapping[str, object]
Problems = list[tuple[str, str]]
Word = TypeVar("Word", bound=StrEnum)
SomeKind = TypeVar("SomeKind", bound=Kind)


class Section:
    """One table, at `path`; `problems` is shared by all sections of a file.

    `elsewhere`: dotted keys of other tables that may have been meant. `given`: the file has it.
    """

    def __init__(
        self,
        table: Table,
        path: str,
        problems: Problems,
        keys: Keys,
        *,
        elsewhere: Collection[str] = (),
        given: bool = True,
    ) -> None:
        self.table = table
        self.path = path
        self._problems = problems
        self._keys = keys
        if given:
            self._check_known(elsewhere)
            self._check_together()

    def __contains__(self, key: str) -> bool:
        assert key in self._keys.keys, f"{self.path} knows no {key}"
        return key in self.table

    def problem(self, key: str, what: str) -> None:
        """About this key; "" for the table itself."""
        self._problems.append((join(self.path, key) if key else self.path, what))

    def _check_known(self, elsewhere: Collection[str]) -> None:
        known = [*self._keys.keys]
        told = f"known are {', '.join(known)}"
        for key in self.table:
            if key not in known:
                # Who forgot the table is told where the key is.
                tabled = [dotted for dotted in elsewhere if dotted.endswith(f".{key}")]
                hint = f"did you mean {or_joined(tabled)}?" if tabled else ""
                hint = hint or did_you_mean(key, [*known, *elsewhere])
                self.problem(key, f"unknown key; {hint or told}")

    def _check_together(self) -> None:
        for key, what in self._keys.required.items():
            if key not in self.table:
                self.problem(key, f"missing; {what}")
        for rule in self._keys.exclusions:
            given = [key for key in rule.keys if key in self.table]
            if len(given) > 1:
                told = f"{' and '.join(given)} exclude each other: take one"
                self.problem(rule.at, rule.why or told)
        for need in self._keys.needs:
            if any(key in self.table for key in need.beside):
                continue
            for key in need.keys:
                if key in self.table:
                    self.problem(key, f"needs {need.what} beside it: {or_joined(need.beside)}")

    def _kind(self, key: str, kind: type[SomeKind]) -> SomeKind:
        found = self._keys.keys[key].kind
        assert isinstance(found, kind), f"{self.path}.{key} is no {kind.__name__}"
        return found

    # -- tables ------------------------------------------------------------------------------------

    def section(self, key: str) -> Section:
        """The table below this key; an empty one when there is none."""
        kind = self._kind(key, SubTable)
        given = isinstance(self.table.get(key), dict)
        table = self._subtable(key)
        return Section(table, join(self.path, key), self._problems, kind.keys, given=given)

    def names(self, key: str) -> tuple[str, ...]:
        """Of the tables in this one."""
        value = self.table.get(key)
        return tuple(value) if isinstance(value, dict) else ()

    def sections(self, key: str, elsewhere: Collection[str] = ()) -> Iterator[tuple[str, Section]]:
        """By their names, each checked when its turn comes; what is no table is told, left out."""
        kind, path = self._kind(key, Named), join(self.path, key)
        for name, value in self._subtable(key).items():
            where = join(path, name)
            if not re.fullmatch(kind.pattern, name):
                self._problems.append((where, kind.rule))
            if isinstance(value, dict):
                yield name, Section(value, where, self._problems, kind.keys, elsewhere=elsewhere)
            else:
                self._problems.append((where, f"must be a table, not {kind_of(value)}"))

    def variables(self, key: str) -> dict[str, str]:
        self._kind(key, Variables)
        found: dict[str, str] = {}
        for name, value in self._subtable(key).items():
            where = join(join(self.path, key), name)
            if not re.fullmatch(VARIABLE_PATTERN, name):
                self._problems.append((where, "no name for an environment variable"))
            found[name] = self._text(where, value)
        return found

    def _subtable(self, key: str) -> Table:
        value = self.table.get(key, {})
        if isinstance(value, dict):
            return value
        self.problem(key, f"must be a table, not {kind_of(value)}")
        return {}

    # -- texts and words ---------------------------------------------------------------------------

    def text(self, key: str) -> str:
        """ "" when the key is not there or wrong."""
        kind = self._kind(key, Text)
        if key not in self.table:
            return ""
        value = self._text(join(self.path, key), self.table[key], kind.example)
        if not isinstance(self.table[key], str) or re.fullmatch(kind.pattern, value):
            return value
        self.problem(key, f"{value!r} {kind.rule}")
        return ""

    def _text(self, where: str, value: object, example: str = "") -> str:
        if not isinstance(value, str):
            such = f" such as {example}" if example else ""
            self._problems.append((where, f"must be a string{such}, not {kind_of(value)}"))
            return ""
        if "\0" in value:
            self._problems.append((where, "holds a NUL character"))
        return value

    def true_or_text(self, key: str) -> str:
        """ "" for true."""
        kind, value = self._kind(key, TrueOrText), self.table[key]
        if isinstance(value, str) and re.fullmatch(kind.pattern, value):
            return value
        if value is not True:
            self.problem(key, f"must be {kind.rule}")
        return ""

    def texts(self, key: str) -> tuple[str, ...]:
        """The right ones of them."""
        kind = self._kind(key, Texts)
        if key not in self.table:
            return kind.default
        value = self.table[key]
        given = [value] if kind.one_alone and isinstance(value, str) else value
        if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
            alone = "a text or " if kind.one_alone else ""
            self.problem(key, f"must be {alone}an array of texts")
            return ()
        for item in given:
            if not re.fullmatch(kind.pattern, item):
                self.problem(key, f"{item!r} {kind.rule}")
        self._each_once(key, given)
        return tuple(item for item in given if re.fullmatch(kind.pattern, item))

    def word(self, key: str, words: type[Word], default: Word | None = None) -> Word:
        """`default`: where another one stands for what is left out."""
        usual = self._kind(key, OneWord).default
        assert isinstance(usual, words), f"{key} has other words"
        value = self.table.get(key, default or usual)
        known = [word.value for word in words]
        if isinstance(value, str) and value in known:
            return words(value)
        self.problem(key, f"must be one of {quoted(known)}")
        return default or usual

    def words(self, key: str, words: type[Word]) -> tuple[Word, ...]:
        assert self._kind(key, SomeWords).words is words
        value = self.table.get(key, [])
        known = [word.value for word in words]
        if not isinstance(value, list) or any(item not in known for item in value):
            self.problem(key, f"must be an array of some of {quoted(known)}")
            return ()
        self._each_once(key, value)
        return tuple(words(item) for item in value)

    def _each_once(self, key: str, items: Sequence[object]) -> None:
        if len(set(items)) < len(items):
            self.problem(key, "names something twice")

    def signal(self, key: str) -> str:
        kind, value = self._kind(key, SignalName), self.table.get(key)
        if key not in self.table:
            return kind.default
        name = value.upper().removeprefix("SIG") if isinstance(value, str) else ""
        if name in kind.names:
            return name
        if isinstance(value, str):
            self.problem(key, f"unknown signal {value!r}; known are {', '.join(kind.names)}")
        else:
            self.problem(key, f"must be a string, not {kind_of(value)}")
        return kind.default

    # -- switches and numbers ----------------------------------------------------------------------

    def switch(self, key: str) -> bool:
        self._kind(key, Switch)
        if key in self.table and self.table[key] is not True:
            self.problem(key, "must be true, or left out")
        return self.table.get(key) is True

    def yes_no(self, key: str) -> bool:
        kind = self._kind(key, YesNo)
        value = self.table.get(key, kind.default)
        if isinstance(value, bool):
            return value
        self.problem(key, "must be true or false")
        return kind.default

    def whole(self, key: str, default: int | None = None) -> int:
        kind = self._kind(key, Whole)
        usual = kind.default if default is None else default
        return self._whole(key, kind, usual) if key in self.table else usual

    def _whole(self, key: str, kind: Whole, default: int) -> int:
        value = self.table[key]
        if is_whole(value) and kind.low <= value <= kind.high:
            return value
        self.problem(key, f"must be a whole number from {kind.low} to {kind.high}")
        return default

    def number(self, key: str) -> float:
        kind = self._kind(key, Number)
        if key not in self.table:
            return kind.default
        value = self.table[key]
        if (isinstance(value, float) or is_whole(value)) and kind.low <= value <= kind.high:
            return float(value)
        self.problem(key, f"must be a number from {kind.low:g} to {kind.high:g}")
        return kind.default

    def duration(self, key: str, default: float | None = None) -> float:
        kind = self._kind(key, Duration)
        usual = kind.default_s if default is None else default
        return self._duration(key, kind, usual) if key in self.table else usual

    def _duration(self, key: str, kind: Duration, default: float) -> float:
        seconds = duration_s(self.table[key])
        if seconds is not None and kind.low_s <= seconds <= DURATION_MAX_S:
            return seconds
        least = f', at least "{kind.low_s * 1000:g}ms"' if kind.low_s else ""
        self.problem(key, f'must be {_DURATION_EXAMPLES}{least}, at most "24h"')
        return default

    def bytes(self, key: str) -> int:
        """0 when it is not there."""
        kind = self._kind(key, Size)
        return self._bytes(key, kind) if key in self.table else 0

    def _bytes(self, key: str, kind: Size) -> int:
        size = size_bytes(self.table[key])
        if size is not None and kind.low <= size <= BYTES_MAX:
            return size
        least = f", at least {show_bytes(kind.low)}" if kind.low else ""
        self.problem(key, f"must be {_BYTES_EXAMPLES}{least}")
        return 0

    def share(self, key: str, default: Share) -> Share:
        kind = self._kind(key, CountOrPercent)
        if key not in self.table:
            return default
        value = self.table[key]
        if is_whole(value) and 0 <= value <= kind.high:
            return Share(count=value)
        match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
        if match:
            return Share(percent=float(match[1]))
        self.problem(key, 'must be a whole number from 0, or text such as "25%", at most "100%"')
        return default

    def rlimit(self, key: str) -> int:
        """In setrlimit's units; it must be there."""
        kind = self._kind(key, Rlimit)
        if self.table[key] == "unlimited":
            return UNLIMITED
        if isinstance(kind.value, Size):
            return self._bytes(key, kind.value)
        if isinstance(kind.value, Whole):
            return self._whole(key, kind.value, 0)
        return math.ceil(self._duration(key, kind.value, 0.0) * kind.per_second)


# -- what stands in a value ------------------------------------------------------------------------


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


def or_joined(words: Sequence[str]) -> str:
    """`http, tcp or exec`"""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "" when nothing is near."""
    near = difflib.get_close_matches(word, [*known], n=1)
    return f"did you mean {near[0]}?" if near else ""


def kind_of(value: object) -> str:
    """The name that TOML's own documentation gives to this value."""
    names = {bool: "a boolean", int: "an integer", float: "a float", list: "an array"}
    names |= {dict: "a table", str: "a string"}
    return names.get(type(value), "a date or time")


def _float(value: int | float) -> float | None:
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
