"""What goes wrong when, from a seed. Pure: the same seed and length give the same faults."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

GAP_S = (1.0, 6.0)
# At the end nothing new goes wrong, so that all is healed before the last look.
CALM_S = 5.0
AT_ONCE_MAX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`kind` on `targets`, from `at_s` to `ends_s` after the beginning."""

    at_s: float
    ends_s: float
    kind: str
    targets: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.at_s:6.1f}–{self.ends_s:.1f} s {self.kind} {' '.join(self.targets)}"

    def touches(self, host: str, at_s: float, slack_s: float) -> bool:
        """Can it be why this host was silent then?"""
        return (
            host in self.targets
            and self.kind in SILENCING
            and self.at_s <= at_s <= self.ends_s + slack_s
        )


@dataclass(frozen=True, slots=True)
class Places:
    etcds: Sequence[str]
    coordinators: Sequence[str]
    agents: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Kind:
    """`longest_s`: of the fault itself; what was killed is started again then."""

    weight: int
    longest_s: float
    pick: Callable[[random.Random, Places], tuple[str, ...]]


def _one(of: str) -> Callable[[random.Random, Places], tuple[str, ...]]:
    return lambda dice, places: (dice.choice(getattr(places, of)),)


def _two_etcds(dice: random.Random, places: Places) -> tuple[str, ...]:
    return tuple(sorted(dice.sample(list(places.etcds), 2)))


def _agent_and_coordinator(dice: random.Random, places: Places) -> tuple[str, ...]:
    ends = [dice.choice(list(places.agents)), dice.choice(list(places.coordinators))]
    dice.shuffle(ends)
    return tuple(ends)


def _coordinator_and_etcds(dice: random.Random, places: Places) -> tuple[str, ...]:
    return (dice.choice(list(places.coordinators)), *places.etcds)


def _two_coordinators(dice: random.Random, places: Places) -> tuple[str, ...]:
    return tuple(dice.sample(list(places.coordinators), 2))


KINDS = {
    "isolate": _Kind(5, 20.0, _one("agents")),
    "isolate coordinator": _Kind(3, 12.0, _one("coordinators")),
    "isolate etcd": _Kind(3, 12.0, _one("etcds")),
    "cut": _Kind(4, 12.0, _agent_and_coordinator),
    "cut one way": _Kind(4, 12.0, _agent_and_coordinator),
    "cut from etcd": _Kind(3, 12.0, _coordinator_and_etcds),
    "cut coordinators": _Kind(2, 12.0, _two_coordinators),
    "kill coordinator": _Kind(5, 4.0, _one("coordinators")),
    "stop coordinator": _Kind(3, 3.0, _one("coordinators")),
    "freeze coordinator": _Kind(4, 10.0, _one("coordinators")),
    "kill etcd": _Kind(3, 5.0, _one("etcds")),
    "freeze etcd": _Kind(3, 8.0, _one("etcds")),
    "lose quorum": _Kind(2, 10.0, _two_etcds),
    "kill agent": _Kind(3, 2.0, _one("agents")),
    "kill brain": _Kind(4, 0.1, _one("agents")),
    "freeze brain": _Kind(2, 12.0, _one("agents")),
    # Shorter than the lease of exclusive instances: what is frozen cannot stop anything.
    "freeze host": _Kind(3, 10.0, _one("agents")),
    "power off": _Kind(3, 6.0, _one("agents")),
    "lose packets": _Kind(3, 15.0, _one("agents")),
    "narrow": _Kind(2, 15.0, _one("agents")),
    "fill disk": _Kind(3, 10.0, _one("agents")),
    "few descriptors": _Kind(2, 10.0, _one("agents")),
    "crash instance": _Kind(4, 0.1, _one("agents")),
}  # fmt: skip

# Those that can make a host silent for so long that its instances are replaced.
SILENCING = frozenset(
    {
        "isolate",
        "cut",
        "cut one way",
        "kill agent",
        "freeze brain",
        "freeze host",
        "power off",
        "lose packets",
        "narrow",
        "few descriptors",
        "fill disk",
    }
)


def schedule(seed: int, length_s: float, places: Places) -> list[Fault]:
    """In order of time; no machine is in two faults at once."""
    dice = random.Random(seed)
    names, weights = list(KINDS), [kind.weight for kind in KINDS.values()]
    found: list[Fault] = []
    at_s = dice.uniform(*GAP_S)
    while at_s < length_s - CALM_S:
        name = dice.choices(names, weights)[0]
        kind = KINDS[name]
        targets = kind.pick(dice, places)
        ends_s = min(at_s + dice.uniform(kind.longest_s / 3, kind.longest_s), length_s - 1.0)
        running = [fault for fault in found if fault.ends_s > at_s]
        busy = {target for fault in running for target in fault.targets}
        if len(running) < AT_ONCE_MAX and not busy & set(targets):
            found.append(Fault(at_s=at_s, ends_s=ends_s, kind=name, targets=targets))
        at_s += dice.uniform(*GAP_S)
    return found
