"""What is assigned, joined with what is seen of it: the leader's raw material. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from formation.model import (
    App,
    Assignment,
    HostState,
    InstanceState,
    InstanceStatus,
    ProcessType,
    Slot,
)
from formation_coordinator import placement
from formation_coordinator.draft import zone_of
from formation_coordinator.world import HostEntry, World, is_current, is_healthy, is_over


@dataclass(slots=True, kw_only=True, eq=False)
class Stay:
    """One document entry with all that is known about it. Mutable: private to one pass."""

    assignment: Assignment
    entry: HostEntry
    state: HostState
    status: InstanceStatus | None
    healthy: bool

    @property
    def slot(self) -> Slot:
        return self.assignment.slot

    @property
    def host(self) -> str:
        return self.entry.name


# By app and type, then by ordinal: usually one stay a slot.
Index = dict[tuple[str, str], dict[int, list[Stay]]]


@dataclass(frozen=True, slots=True)
class OfType:
    """The stays of one type that remain wanted. `best`: the one of each slot that is kept."""

    app: App
    spec: ProcessType
    quantity: int
    slots: Mapping[int, Sequence[Stay]]
    best: Mapping[int, Stay]

    def hosts_of(self, ordinal: int) -> dict[str, str]:
        """Where the slot is already, which is no place to move to."""
        return dict.fromkeys((s.host for s in self.slots[ordinal]), "it is there already")


def index(world: World, states: Mapping[str, HostState]) -> Index:
    """Every document entry."""
    found: Index = {}
    for entry in world.hosts.values():
        observed = entry.observed()
        for item in entry.assigned:
            status = observed.get(item.uid)
            stay = Stay(
                assignment=item,
                entry=entry,
                state=states[entry.name],
                status=status,
                healthy=is_healthy(entry, status),
            )
            key = (item.slot.app, item.slot.type)
            found.setdefault(key, {}).setdefault(item.slot.ordinal, []).append(stay)
    return found


def better(app: App, found: Sequence[Stay], count: Callable[[str, str, str], int]) -> Stay:
    """The one to keep; of two good ones the better spread: a host that returns gets its instances
    back. `count(host, app, type)`: how many of the type are there."""

    def preference(stay: Stay) -> tuple[bool, bool, bool, bool, int, int, str]:
        current = is_current(app, stay.assignment)
        return (
            # What an older release has finished is no reason against what is to run again.
            stay.healthy and (current or not is_over(stay.status)),
            stay.state is not HostState.LOST,
            stay.entry.connected,
            current,
            len(stay.assignment.avoided_hosts),
            -count(stay.host, stay.slot.app, stay.slot.type),
            stay.assignment.uid,
        )

    return max(found, key=preference)


def left_behind(stay: Stay, best: Stay) -> bool:
    """Did `best` move away from this one, by a plan of which only a half was written?"""
    old, new = stay.assignment, best.assignment
    return (
        stay.host in new.avoided_hosts
        and len(old.avoided_hosts) < len(new.avoided_hosts)
        and (old.release, old.restart_mark) == (new.release, new.restart_mark)
    )


def surplus(best: Mapping[int, Stay], count: int) -> tuple[int, ...]:
    """The ordinals of those that go when so many are too many."""
    if count <= 0:
        return ()
    candidates = [
        placement.Candidate(
            host=stay.host, zone=zone_of(stay.entry), worth=_worth(stay), ordinal=ordinal
        )
        for ordinal, stay in best.items()
    ]
    return placement.choose_surplus(candidates, count)


def _worth(stay: Stay) -> placement.Worth:
    if not stay.healthy:
        return placement.Worth.UNHEALTHY
    finished = stay.status is not None and stay.status.state is InstanceState.FINISHED
    return placement.Worth.FINISHED if finished else placement.Worth.HEALTHY
