"""The kinds of values that formation.toml has, as data. Pure; a part of `formation.manifest`.

A kind says what is right and what stands for it when it is left out, and nothing of what it is
for. `manifest_keys` lists all keys with their kinds, `manifest_values` reads them, and
`manifest_schema` writes them down for editors: none of them has a list of its own.

Patterns match the whole text, and mean the same in Python and in ECMAScript.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

DURATION_MAX_S = 24 * 3600.0
BYTES_MAX = 2**60
DURATION_PATTERN = r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|h)"
BYTES_PATTERN = r"([0-9]+(?:\.[0-9]+)?)\s*(B|kB|MB|GB|KiB|MiB|GiB)"
PERCENT_PATTERN = r"(100(?:\.0+)?|[0-9]{1,2}(?:\.[0-9]+)?)\s*%"
VARIABLE_PATTERN = r"[^=\0]+"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """`rule` goes on after the text: `'a b'` is no name of a user. `example`: for who forgets
    that it is a text."""

    pattern: str
    rule: str
    example: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A default that cannot be written, here and below, means that there is none."""

    low: int
    high: int
    default: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    low: float
    high: float
    default: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Seconds, or text with a unit."""

    low_s: float = 0.0
    default_s: float = -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Bytes, or text with a unit."""

    low: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OneWord:
    default: StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class SomeWords:
    words: type[StrEnum]


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """`key = true`; whoever does not want it leaves it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class YesNo:
    default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueOrText:
    """`rule`: what it must be."""

    pattern: str
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalName:
    """One of `names`, also with SIG before it, also in lower case."""

    names: tuple[str, ...]
    default: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CountOrPercent:
    """A number of instances, or text such as "25%"; the default depends on the type."""

    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rlimit:
    """What setrlimit(2) takes, in its units; or "unlimited"."""

    value: Size | Whole | Duration
    per_second: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """An array of texts, each once. `rule` goes on after a bad one. `one_alone`: a text alone is
    an array of it."""

    pattern: str
    rule: str
    one_alone: bool = False
    default: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Variables:
    """A table of texts: an environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubTable:
    keys: Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A table of tables that are alike; `rule`: what is wrong with a name."""

    keys: Keys
    pattern: str
    rule: str


Kind = (
    Text | Whole | Number | Duration | Size | OneWord | SomeWords | Switch | YesNo | TrueOrText
    | SignalName | CountOrPercent | Rlimit | Texts | Variables | SubTable | Named
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """`meaning`: what it is for, in a line that editors show."""

    kind: Kind
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """At most one of `keys` stands in a table. It is told at the key `at` ("": the table) in the
    words of `why` ("": that they exclude each other)."""

    keys: tuple[str, ...]
    at: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Each of `keys` means something only beside one of `beside`; `what`: how that is called."""

    keys: tuple[str, ...]
    beside: tuple[str, ...]
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """All that one table may say. `required`: what must be there → what is told after "missing"."""

    keys: Mapping[str, Key]
    required: Mapping[str, str] = field(default_factory=dict)
    exclusions: tuple[Exclusion, ...] = ()
    needs: tuple[Need, ...] = ()
