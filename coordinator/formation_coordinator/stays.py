"""The stays of one type that need a closer look, and verdicts on them. Pure.

A stay joins what a document says with what its host is and says. Only stays of rows that the book
points at are made: a type of a million instances with one that crashed has one host's here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from formation.model import Assignment, HostState, InstanceState, InstanceStatus, Slot
from formation.rules import ZONE_LABEL, Keep
from formation_coordinator import placement
from formation_coordinator.book import Book
from formation_coordinator.draft import Wish
from formation_coordinator.tallies import TypeBook
from formation_coordinator.world import HostEntry, is_healthy, is_over


@dataclass(slots=True, kw_only=True, eq=False)
class Stay:
    """One document entry with all that is known about it. Mutable: private to one pass.

    `healthy_since_s` None: it is not healthy, or nobody needs to know since when.
    """

    assignment: Assignment
    row: int
    entry: HostEntry
    state: HostState
    status: InstanceStatus | None
    healthy: bool
    current: bool

    @property
    def slot(self) -> Slot:
        return self.assignment.slot

    @property
    def waits(self) -> str:
        """Why its process is not even started, such as that its code does not come; or ""."""
        status = self.status
        if status is None or status.state is not InstanceState.WAITING or not status.reason:
            return ""
        return f"{self.slot.short} on {self.host}: {status.reason}"

    @property
    def ordinal(self) -> int:
        return self.assignment.slot.ordinal

    @property
    def host(self) -> str:
        return self.entry.name

    def broken(self, *, alone: bool) -> str:
        """Why it will not come to work: it ended for good; it crashed again and again, and once
        more on another host, if it is not `alone` on one; its code cannot be built there."""
        if (status := self.status) is None or not self.current:
            return ""
        where, said = f"on {self.host}", status.last_exit or status.reason
        if status.unbuildable:
            return f"{self.slot.short} {where}: {status.unbuildable}"
        again = bool(self.assignment.avoided_hosts) and status.state is InstanceState.BACKOFF
        if again or (alone and status.crash_looping):
            return f"{self.slot.short} keeps crashing {where}: {said}"
        failed = status.state is InstanceState.FAILED
        return f"{self.slot.short} failed {where}: {said}" if failed else ""

    def steady_at_s(self, healthy_s: float) -> float | None:
        """When it has been healthy for so long without a break; None: it is not healthy."""
        if not self.healthy:
            return None
        if is_over(self.status):
            return 0.0
        return self.entry.healthy_since_s.get(self.assignment.uid, -healthy_s) + healthy_s

    def steady(self, now_s: float, healthy_s: float) -> bool:
        at_s = self.steady_at_s(healthy_s)
        return at_s is not None and at_s <= now_s


class OfType:
    """One type in one pass: what is wanted of it, and the stays that were looked at."""

    def __init__(
        self, wish: Wish, quantity: int, book: Book, states: Mapping[int, HostState]
    ) -> None:
        self.wish, self.quantity = wish, quantity
        self.app, self.spec, self.key = wish.app, wish.spec, wish.key
        self._book, self._states = book, states
        self._by_row: dict[int, list[Stay]] = {}
        self.gone: set[str] = set()  # uids that this pass has dropped, or told to end

    @property
    def book(self) -> TypeBook:
        return self._book.of(self.key)

    @property
    def rows(self) -> Mapping[str, int]:
        """Of all hosts, by name."""
        return self._book.rows

    def at(self, row: int) -> list[Stay]:
        """All on this host, those that are ending too."""
        found = self._by_row.get(row)
        if found is None:
            found = self._by_row[row] = list(self._look_at(row))
        return [stay for stay in found if stay.assignment.uid not in self.gone]

    def on(self, rows: Iterable[int]) -> list[Stay]:
        """Those that are not ending on these hosts, in order of their ordinals."""
        found = [stay for row in rows for stay in self.at(row) if not stay.assignment.ending]
        return sorted(found, key=lambda stay: (stay.ordinal, stay.host))

    def all(self) -> list[Stay]:
        return self.on(row for row in range(len(self._book.data)) if self._has(row))

    def _has(self, row: int) -> bool:
        data = self._book.data[row]
        return data is not None and self.key in data.types

    def of_slot(self, ordinal: int) -> list[Stay]:
        return [s for s in self.on(set(self.book.rows_of(ordinal))) if s.ordinal == ordinal]

    def _look_at(self, row: int) -> Iterator[Stay]:
        data = self._book.data[row]
        if data is None or self.key not in data.types:
            return
        entry, observed = data.entry, data.entry.observed()
        for bundle in data.types[self.key].bundles:
            for ordinal in bundle.ordinals:
                item = bundle.stay(ordinal)
                status = observed.get(item.uid)
                yield Stay(
                    assignment=item,
                    row=row,
                    entry=entry,
                    state=self._states.get(row, HostState.READY),
                    status=status,
                    healthy=is_healthy(entry, status),
                    current=self._book.is_current(self.app, item),
                )


def better(found: Sequence[Stay], keep: Keep, count: Callable[[int], int]) -> Stay:
    """The one of a slot's stays to keep; of two good ones the one that was moved, or else the
    better spread: a host that returns gets its instances back. `count(row)`: how many of the type
    are there.
    """

    def favoured(stay: Stay) -> bool:
        follows = any(follows_on(stay, other) for other in found)
        if any(other.assignment.after_loss for other in found):
            return follows if keep is Keep.REPLACEMENT else keep is Keep.ORIGINAL and not follows
        return follows

    def preference(stay: Stay) -> tuple[object, ...]:
        return (
            # What an older release has finished is no reason against what is to run again.
            stay.healthy and (stay.current or not is_over(stay.status)),
            stay.state is not HostState.LOST,
            stay.entry.connected,
            stay.current,
            not stay.entry.draining,
            favoured(stay),
            len(stay.assignment.avoided_hosts),
            -count(stay.row),
            stay.assignment.uid,
        )

    return max(found, key=preference)


def follows_on(stay: Stay, other: Stay) -> bool:
    """Was it moved away from this one? Not when that one has come from here since."""
    new, old = stay.assignment, other.assignment
    return new.moved_from == other.host and new.revision > old.revision


def left_behind(stay: Stay, best: Stay) -> bool:
    """Did `best` move away from this one, by a plan of which only a half was written?"""
    old, new = stay.assignment, best.assignment
    return (
        stay.host in new.avoided_hosts
        and len(old.avoided_hosts) < len(new.avoided_hosts)
        and (old.release, old.restart_mark) == (new.release, new.restart_mark)
        and old.revision <= new.revision
    )


def surplus(kept: Sequence[Stay], count: int) -> tuple[int, ...]:
    """The ordinals of those that go when so many are too many."""
    if count <= 0:
        return ()
    candidates = [
        placement.Candidate(
            host=stay.host,
            zone=stay.entry.labels.get(ZONE_LABEL, ""),
            worth=_worth(stay),
            ordinal=stay.ordinal,
        )
        for stay in kept
    ]
    return placement.choose_surplus(candidates, count)


def _worth(stay: Stay) -> placement.Worth:
    if not stay.healthy:
        return placement.Worth.UNHEALTHY
    if stay.status is not None and stay.status.state is InstanceState.FINISHED:
        return placement.Worth.FINISHED
    return placement.Worth.SURGE if stay.assignment.surge else placement.Worth.HEALTHY
