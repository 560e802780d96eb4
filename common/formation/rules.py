"""What a process type says about where, how and when its instances run, and how an app changes.

Frozen and without behaviour beyond matching, counting and naming. A part of `formation.model`'s
vocabulary, in a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

ZONE_LABEL = "zone"


class Operator(StrEnum):
    IN = "in"
    NOT_IN = "not in"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """On one label of a host: its value is like one of `patterns` (with `*`, `?`, `[…]`), or like
    none of them. Without patterns: the label is there at all, or (NOT_IN) is not.
    """

    label: str
    operator: Operator = Operator.IN
    patterns: tuple[str, ...] = ()

    def allows(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.label)
        if value is None or not self.patterns:
            found = value is not None
        else:
            found = any(fnmatchcase(value, pattern) for pattern in self.patterns)
        return found is (self.operator is Operator.IN)

    def __str__(self) -> str:
        """As it is written in formation.toml."""
        negated = self.operator is Operator.NOT_IN
        if not self.patterns:
            return f"!{self.label}" if negated else self.label
        if len(self.patterns) == 1:
            return f"{self.label}{'!=' if negated else '='}{self.patterns[0]}"
        return f"{self.label} {self.operator.value} ({', '.join(self.patterns)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """`require`: all of them, or the host takes none. `prefer`: the first weighs more than all that
    follow. `spread`: labels whose values are levelled, one after the other, before hosts are.
    `max_per_host` 0: any number. `apart_from`: types (`worker`, or `app/worker`) that share no host
    with this one.
    """

    require: tuple[Constraint, ...] = ()
    prefer: tuple[Constraint, ...] = ()
    spread: tuple[str, ...] = (ZONE_LABEL,)
    max_per_host: int = 0
    apart_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A number of instances, or a part of the quantity in percent."""

    count: int = 0
    percent: float = 0.0

    def of(self, quantity: int) -> int:
        """Rounded down, but at least one where there is any."""
        if self.percent <= 0:
            return self.count
        return max(1, int(quantity * self.percent / 100))

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.percent > 0 else str(self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRules:
    """`surge`: so many more may run meanwhile; `unavailable`: so many fewer. A new instance counts
    when it was healthy for `healthy_s` without a break. Without one more of them within
    `deadline_s` the change has failed: it goes back by itself where `rollback` is on.
    """

    surge: Share = Share(percent=25.0)
    unavailable: Share = Share()
    healthy_s: float = 10.0
    deadline_s: float = 300.0
    rollback: bool = True


def rollout_defaults(*, port: int, exclusive: bool, per_host: bool) -> RolloutRules:
    """What cannot be there twice (a fixed `port`, too) is replaced in its place, one by one."""
    if port or exclusive or per_host:
        return RolloutRules(surge=Share(), unavailable=Share(count=1))
    return RolloutRules()


class Overlap(StrEnum):
    """What a tick does while the run of an earlier one is not over."""

    SKIP = "skip"
    ALLOW = "allow"
    REPLACE = "replace"


class Missed(StrEnum):
    """What becomes of ticks that passed while nobody led: nothing, or one run for all of them."""

    SKIP = "skip"
    ONCE = "once"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """`cron`: five fields. `zone`: a name of the time zone database. `keep`: how many runs that
    are over stay known."""

    cron: str
    zone: str = "UTC"
    overlap: Overlap = Overlap.SKIP
    missed: Missed = Missed.SKIP
    keep: int = 10


class LossAction(StrEnum):
    REPLACE = "replace"
    WAIT = "wait"


class Keep(StrEnum):
    """Which copy stays when a host returns and its instance was replaced meanwhile."""

    BEST = "best"
    ORIGINAL = "original"
    REPLACEMENT = "replacement"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoss:
    """`after_s`: how long the host must be silent; the cluster's own time where that is longer."""

    action: LossAction = LossAction.REPLACE
    after_s: float = 0.0
    keep: Keep = Keep.BEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a host must have left for one instance; 0: nothing is kept for it."""

    cpus: float = 0.0
    memory_bytes: int = 0
