"""How many stays are as wanted, by host and by app.

Lists ask for these numbers all the time, and a cluster has many more instances than changes: what
a host's entry adds is counted once, and again when it runs, or says, something else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from formation_coordinator.world import HostEntry, World, is_healthy, says_the_same


@dataclass(frozen=True, slots=True)
class HostCount:
    """`healthy`: of all stays here. `by_app`: without runs, and without what is surplus to the
    quantity for a change under way."""

    entry: HostEntry
    healthy: int
    by_app: Mapping[str, int]


class HealthyCounts:
    """Of one world after the other; any of them, but quick for those that differ in little."""

    def __init__(self) -> None:
        self._hosts: dict[str, HostCount] = {}
        self._apps: Counter[str] = Counter()
        self._world: World | None = None

    def of_app(self, world: World, app: str) -> int:
        """FINISHED ones count: a batch type that is done is not short of any."""
        self._look(world)
        return self._apps[app]

    def of_host(self, world: World, name: str) -> int:
        self._look(world)
        found = self._hosts.get(name)
        return found.healthy if found else 0

    def catch_up(self, world: World) -> Iterator[None]:
        """What the next question would count at once, a host at each step: of a million instances
        that are seen for the first time it would be seconds."""
        for name, entry in world.hosts.items():
            if not self._knows(name, entry):
                self._take(name, entry)
                yield

    def _look(self, world: World) -> None:
        if world is self._world:
            return
        for name in self._hosts.keys() - world.hosts.keys():
            self._apps.subtract(self._hosts.pop(name).by_app)
        for name, entry in world.hosts.items():
            if not self._knows(name, entry):
                self._take(name, entry)
        self._world = world

    def _knows(self, name: str, entry: HostEntry) -> bool:
        found = self._hosts.get(name)
        return found is not None and says_the_same(found.entry, entry)

    def _take(self, name: str, entry: HostEntry) -> None:
        self._world = None
        before = self._hosts.get(name)
        if before is not None:
            self._apps.subtract(before.by_app)
        self._hosts[name] = after = _count(entry)
        self._apps.update(after.by_app)


def _count(entry: HostEntry) -> HostCount:
    observed = entry.observed()
    by_app: Counter[str] = Counter()
    healthy = 0
    for bundle in entry.bundles:
        terms = bundle.terms
        found = sum(is_healthy(entry, observed.get(bundle.uid(o))) for o in bundle.ordinals)
        healthy += found
        if not terms.run and not terms.surge:
            by_app[terms.app] += found
    return HostCount(entry, healthy, by_app)
