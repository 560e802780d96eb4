"""What was found in a file of somebody else's. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from formation.model import ProcessType

_ODD = re.compile(r"[^A-Za-z0-9_-]+")
_NAME_MAX = 63
# Also of minutes and hours: `1m30s`.
_SPAN = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")
SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL", "WINCH")


class ForeignError(ValueError):
    """`problems`: one line each, with the file and the place."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`notes`: what was not taken over, and what to do about it. `secrets`: names to be set."""

    types: tuple[ProcessType, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    quantities: Mapping[str, int] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def type_name(name: str) -> str:
    """As near as a type's can be; "" when there is nothing left."""
    return _ODD.sub("-", name).strip("-")[:_NAME_MAX]


def twins(types: Sequence[ProcessType], source: str) -> list[str]:
    """Problems: names that differ there, and would be the same here."""
    counted = Counter(spec.name for spec in types)
    return [f"{source}: several would be called {name}" for name in counted if counted[name] > 1]


def seconds(text: object) -> float | None:
    """`90`, `10s`, `1m30s`; None for what is none."""
    match = _SPAN.fullmatch(str(text).strip())
    if not match or not any(match.groups()):
        return None
    hours, minutes, rest = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + rest


def signal_name(text: object) -> str | None:
    name = str(text).strip().upper().removeprefix("SIG")
    return name if name in SIGNALS else None
