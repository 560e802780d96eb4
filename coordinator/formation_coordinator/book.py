"""The world as columns, brought up to date by what changed: what makes a pass cost the change, not
the cluster. Pure, and mutable: private to whoever keeps it from one pass to the next.

A `World` is what is true; a `Book` only remembers sums over it. `look(world)` compares every host's
entry with the one it has counted (identity: entries are immutable), takes the old one out and the
new one in. A book that has seen nothing, or any other world, is right after one look, so losing it
costs time and nothing else.

A host has a row in every column. Of a type's stays the book knows how many each row has, where each
ordinal is, and which rows need a closer look: because something is not healthy, stale, doubled,
looping or being stopped there. Everything else is left as it is without being looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from formation.model import (
    Ability,
    App,
    Assignment,
    Bundle,
    InstanceState,
    ProcessType,
    Slot,
)
from formation_coordinator import timeline
from formation_coordinator.tallies import Flags, Ints, Row, RowType, TypeBook, TypeKey
from formation_coordinator.world import (
    BRAKE_HOSTS_MIN,
    GONE,
    HostEntry,
    World,
    departed,
    same_definition,
    says_the_same,
)

# One host's document and status must fit into a request to etcd.
HOST_INSTANCES_MAX = 5_000
MILLI = 1_000
# A host that does not say what it has is not short of it.
PLENTY = 2**60
_ABILITY_BITS = {ability: 1 << index for index, ability in enumerate(Ability)}
_GROWTH = 256
_COLUMNS = (
    "known", "connected", "departed", "cordoned", "abilities", "total", "limit", "cpus_milli",
    "cpus_used", "memory_bytes", "memory_used", "by_name",
)  # fmt: skip


class Book:
    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.names: list[str] = []
        self.data: list[Row | None] = []
        self.types: dict[TypeKey, TypeBook] = {}
        self.runs: dict[tuple[str, str], int] = {}
        self.known: Flags = np.zeros(0, dtype=bool)
        self.connected: Flags = np.zeros(0, dtype=bool)
        self.departed: Flags = np.zeros(0, dtype=bool)
        self.cordoned: Flags = np.zeros(0, dtype=bool)
        self.abilities: Ints = np.zeros(0, dtype=np.int64)
        self.total: Ints = np.zeros(0, dtype=np.int64)
        self.limit: Ints = np.zeros(0, dtype=np.int64)
        self.cpus_milli: Ints = np.zeros(0, dtype=np.int64)
        self.cpus_used: Ints = np.zeros(0, dtype=np.int64)
        self.memory_bytes: Ints = np.zeros(0, dtype=np.int64)
        self.memory_used: Ints = np.zeros(0, dtype=np.int64)
        self.by_name: Ints = np.zeros(0, dtype=np.int64)
        self.silent: set[int] = set()
        self.draining: set[int] = set()
        self.ahead: set[int] = set()
        self.behind: set[int] = set()
        self.incomplete: set[int] = set()
        self.labels_version = 0
        self._world: World | None = None
        self._cluster_epoch = 0
        self.braked_at_s = -math.inf
        self._braking = False
        self._free: list[int] = []
        self._codes: dict[str, tuple[Ints, list[str]]] = {}
        self._same: dict[tuple[str, str, int, int], bool] = {}
        self._numbers: dict[str, set[int]] = {}

    # ------------------------------------------------------------------ bringing it up to date

    def look(self, world: World) -> None:
        """From now on this is that world."""
        before, self._world = self._world, world
        epoch = world.cluster_epoch
        if epoch != self._cluster_epoch:
            self._cluster_epoch = epoch
            for row in self.rows.values():
                self._compare_epochs(row, self.entry(row))
        if before is None or before.releases is not world.releases:
            self._same.clear()
            self._numbers = {}
            for app_name, number in world.releases:
                self._numbers.setdefault(app_name, set()).add(number)
        if before is None or before.hosts is not world.hosts:
            self._look_at_hosts(world)
        elif self.incomplete:
            for row in tuple(self.incomplete):
                self._replace(row, world.hosts[self.names[row]])
        for name, app in world.apps.items():
            release = world.current_release(app)
            for spec in release.types if release else ():
                self._judge((name, spec.name), app)

    def _look_at_hosts(self, world: World) -> None:
        joined, data, rows = [], self.data, self.rows
        for name, entry in world.hosts.items():
            row = rows.get(name)
            if row is None:
                joined.append(name)
                continue
            known = data[row]
            if known is None or row in self.incomplete or not says_the_same(known.entry, entry):
                self._replace(row, entry)
            else:
                known.entry = entry
        if len(rows) > len(world.hosts) - len(joined):
            for name in [name for name in rows if name not in world.hosts]:
                self._forget(name)
            self._sort_names()
        if joined:
            self._make_room(len(joined))
            for name in joined:
                self._join(name, world.hosts[name])
            self._sort_names()

    def _make_room(self, number: int) -> None:
        missing = number - len(self._free)
        if missing <= 0:
            return
        old = len(self.names)
        size = old + max(missing, _GROWTH)
        for column in _COLUMNS:
            values = getattr(self, column)
            more = np.zeros(size - old, values.dtype)
            setattr(self, column, np.concatenate((values, more)))
        for of_type in self.types.values():
            of_type.count = np.concatenate((of_type.count, np.zeros(size - old, np.int64)))
        self.names += [""] * (size - old)
        self.data += [None] * (size - old)
        self._free += range(size - 1, old - 1, -1)
        self._codes.clear()
        self.labels_version += 1

    def _join(self, name: str, entry: HostEntry) -> None:
        row = self._free.pop()
        self.rows[name], self.names[row] = row, name
        self._replace(row, entry)

    def _forget(self, name: str) -> None:
        row = self.rows.pop(name)
        self._take_out(row)
        self.data[row], self.names[row] = None, ""
        self.known[row] = self.connected[row] = False
        self.total[row] = 0
        for rows in (self.silent, self.draining, self.ahead, self.behind, self.incomplete):
            rows.discard(row)
        self._free.append(row)
        self._relabel()

    def _sort_names(self) -> None:
        for rank, name in enumerate(sorted(self.rows)):
            self.by_name[self.rows[name]] = rank

    def _replace(self, row: int, entry: HostEntry) -> None:
        before = self.data[row]
        self._take_out(row)
        fresh = self.data[row] = self._counted(entry)
        self._put_in(row, fresh)
        if before is None or before.labels != fresh.labels:
            self._relabel()

    def _relabel(self) -> None:
        self._codes.clear()
        self.labels_version += 1

    # ------------------------------------------------------------------ one host's part

    def _counted(self, entry: HostEntry) -> Row:
        row = Row(entry=entry, labels=entry.labels)
        seen = entry.status.instances if entry.status else ()
        connected = entry.connected
        well = {
            s.uid
            for s in seen
            if s.state is InstanceState.FINISHED or (connected and s.state is InstanceState.HEALTHY)
        }
        assigned: set[str] = set()
        stopping = [s for s in seen if s.state not in GONE]
        for bundle in entry.bundles:
            uids = [bundle.uid(ordinal) for ordinal in bundle.ordinals]
            if stopping:
                assigned.update(uids)
            self._count(row, bundle, sum(uid in well for uid in uids) if well else 0)
        for status in seen:
            if status.crash_looping:
                row.looping.add((status.slot.app, status.slot.type))
        for status in stopping:
            if status.uid not in assigned:
                self._count_use(row, status.slot, status.release, "", (status.slot.ordinal,))
        return row

    def _count(self, row: Row, bundle: Bundle, healthy: int) -> None:
        number = len(bundle.ordinals)
        row.total += number
        slot = Slot(bundle.terms.app, bundle.terms.type, 0)
        self._count_use(row, slot, bundle.terms.release, bundle.terms.like, bundle.ordinals)
        if bundle.terms.run:
            row.runs.append(bundle)
            return
        of_type = row.types.setdefault((bundle.terms.app, bundle.terms.type), RowType())
        of_type.bundles.append(bundle)
        of_type.count += number
        of_type.healthy += healthy

    def _count_use(
        self, row: Row, slot: Slot, number: int, like: str, ordinals: tuple[int, ...]
    ) -> None:
        """Reservations and fixed ports, held until the process is gone."""
        assert self._world is not None
        release = self._world.releases.get((slot.app, number))
        if release is None:
            row.incomplete = True
            return
        spec = release.type_named(like or slot.type)
        if spec is None:
            return
        row.cpus_milli += round(spec.resources.cpus * MILLI) * len(ordinals)
        row.memory_bytes += spec.resources.memory_bytes * len(ordinals)
        if spec.port and not like:
            holders = row.ports.setdefault(spec.port, set())
            holders.update(Slot(slot.app, slot.type, ordinal) for ordinal in ordinals)

    def _put_in(self, row: int, fresh: Row) -> None:
        entry = fresh.entry
        self._set_flags(row, entry, fresh)
        self.total[row] = fresh.total
        self.cpus_used[row], self.memory_used[row] = fresh.cpus_milli, fresh.memory_bytes
        for bundle in fresh.runs:
            self.runs[bundle.terms.app, bundle.terms.run] = row
        for key, part in fresh.types.items():
            self._enter(row, key, part, key in fresh.looping)

    def _set_flags(self, row: int, entry: HostEntry, fresh: Row) -> None:
        status = entry.status
        self.known[row], self.connected[row] = entry.known, entry.connected
        self.departed[row], self.cordoned[row] = departed(entry), entry.cordoned
        _mark(self.silent, row, not entry.connected)
        _mark(self.draining, row, entry.draining)
        _mark(self.incomplete, row, fresh.incomplete)
        self._compare_epochs(row, entry)
        capacity = status.capacity if status else None
        instances_max = capacity.instances_max if capacity else 0
        self.limit[row] = min(instances_max or HOST_INSTANCES_MAX, HOST_INSTANCES_MAX)
        cpus = capacity.cpus if capacity else 0.0
        self.cpus_milli[row] = round(cpus * MILLI) or PLENTY
        self.memory_bytes[row] = (capacity.memory_bytes if capacity else 0) or PLENTY
        self.abilities[row] = ability_bits(status.abilities if status else ())

    def _compare_epochs(self, row: int, entry: HostEntry) -> None:
        _mark(self.ahead, row, timeline.is_ahead(entry, self._cluster_epoch))
        _mark(self.behind, row, timeline.is_behind(entry, self._cluster_epoch))

    def _enter(self, row: int, key: TypeKey, part: RowType, looping: bool) -> None:
        book = self.types.setdefault(key, self.of(key))
        book.count[row] = part.count
        book.total += part.count
        book.healthy += part.healthy
        for bundle in part.bundles:
            if bundle.terms.ending:
                book.ending.add(row)
                continue
            if bundle.terms.surge:
                book.surge.add(row)
            for ordinal in bundle.ordinals:
                book.enter(ordinal, row)
        _mark(book.unwell, row, part.healthy < part.count)
        _mark(book.looping, row, looping)
        if book.judged_by is not None and self._world is not None:
            app = self._world.apps.get(key[0])
            if app is not None:
                self._judge_row(row, key, book, part, app)

    def _take_out(self, row: int) -> None:
        before = self.data[row]
        if before is None:
            return
        for bundle in before.runs:
            if self.runs.get((bundle.terms.app, bundle.terms.run)) == row:
                del self.runs[bundle.terms.app, bundle.terms.run]
        for key, part in before.types.items():
            book = self.types[key]
            book.count[row] = 0
            book.total -= part.count
            book.healthy -= part.healthy
            for bundle in part.bundles:
                for ordinal in () if bundle.terms.ending else bundle.ordinals:
                    book.leave(ordinal, row)
            for rows in (
                book.unwell, book.stale, book.to_retry, book.looping, book.ending, book.surge,
            ):  # fmt: skip
                rows.discard(row)
            if not book.total:
                del self.types[key]

    # ------------------------------------------------------------------ what is out of date

    def _judge(self, key: TypeKey, app: App) -> None:
        """Which rows have stays that the app's word of today makes stale, or wants to retry."""
        book = self.types.get(key)
        if book is None:
            return
        name = key[1]
        marks = tuple((k, n) for k, n in app.restart_marks.items() if _is_about(k, name))
        retries = tuple((k, n) for k, n in app.retry_marks.items() if _is_about(k, name))
        judged_by = (app.release, self._numbers.get(app.name), marks, retries)
        if book.judged_by == judged_by:
            return
        book.judged_by = judged_by
        book.stale.clear()
        book.to_retry.clear()
        for row in np.flatnonzero(book.count).tolist():
            data = self.data[row]
            assert data is not None
            self._judge_row(row, key, book, data.types[key], app)

    def _judge_row(self, row: int, key: TypeKey, book: TypeBook, part: RowType, app: App) -> None:
        _mark(book.stale, row, any(self._has_stale(key, bundle, app) for bundle in part.bundles))
        retry = any(
            bundle.terms.retry_mark < app.retry_mark(key[1], ordinal)
            for bundle in part.bundles
            for ordinal in (bundle.ordinals if app.retry_marks else ())
        )
        _mark(book.to_retry, row, retry)

    def _has_stale(self, key: TypeKey, bundle: Bundle, app: App) -> bool:
        if not self.same(key, bundle.terms.release, app.release):
            return True
        name = key[1]
        if not app.restart_marks:
            return bundle.terms.restart_mark != 0
        return any(app.restart_mark(name, o) != bundle.terms.restart_mark for o in bundle.ordinals)

    def same(self, key: TypeKey, one: int, other: int) -> bool:
        """Do two releases say the same of a type?"""
        if one == other:
            return True
        assert self._world is not None
        question = (*key, one, other)
        if question not in self._same:
            self._same[question] = same_definition(self._world, *question)
        return self._same[question]

    def knows(self, app: str, number: int) -> bool:
        """False for a release of an earlier life of the app, which was deleted meanwhile."""
        assert self._world is not None
        release = self._world.releases.get((app, number))
        return release is not None and bool(release.types)

    def is_current(self, app: App, item: Assignment) -> bool:
        slot = item.slot
        return self.same(
            (slot.app, slot.type), item.release, app.release
        ) and item.restart_mark == app.restart_mark(slot.type, slot.ordinal)

    # ------------------------------------------------------------------ questions

    def of(self, key: TypeKey) -> TypeBook:
        """An empty one for a type that no host has."""
        return self.types.get(key) or TypeBook(count=np.zeros(len(self.names), dtype=np.int64))

    def brake(self, now_s: float) -> bool:
        """Is it on? `braked_at_s` is when it last was: who is still silent when the first ones are
        back is about to be back, too."""
        on = self._brake_is_on()
        if on or self._braking:
            self.braked_at_s = now_s
        self._braking = on
        return on

    def _brake_is_on(self) -> bool:
        """More than half of the hosts, and at least three, are silent: it is us who are cut off.

        A silent host whose instances were all replaced, or that said goodbye, is an old story.
        """
        silent = sum(bool(self.total[row]) and not self.departed[row] for row in self.silent)
        return silent >= BRAKE_HOSTS_MIN and silent > int(self.connected.sum())

    def entry(self, row: int) -> HostEntry:
        data = self.data[row]
        assert data is not None
        return data.entry

    def labels(self, row: int) -> Mapping[str, str]:
        data = self.data[row]
        return data.labels if data else {}

    def codes(self, label: str) -> tuple[Ints, list[str]]:
        """A number for each host's value of a label, and the values; 0 is not having it."""
        found = self._codes.get(label)
        if found is None:
            values: dict[str, int] = {"": 0}
            codes = np.zeros(len(self.names), dtype=np.int64)
            for row in self.rows.values():
                value = self.labels(row).get(label, "")
                codes[row] = values.setdefault(value, len(values))
            found = self._codes[label] = (codes, list(values))
        return found

    def held_ports(self, row: int) -> Mapping[int, set[Slot]]:
        data = self.data[row]
        return data.ports if data else {}

    def rows_with_ports(self, port: int) -> Iterator[tuple[int, set[Slot]]]:
        for row in self.rows.values():
            data = self.data[row]
            if data is not None and port in data.ports:
                yield row, data.ports[port]


def ability_bits(abilities: Iterable[Ability]) -> int:
    return sum(_ABILITY_BITS[ability] for ability in abilities)


def needs_milli(spec: ProcessType) -> int:
    return round(spec.resources.cpus * MILLI)


def _mark(rows: set[int], row: int, yes: bool) -> None:
    if yes:
        rows.add(row)
    else:
        rows.discard(row)


def _is_about(key: str, name: str) -> bool:
    """Marks are kept for a type (`web`) and for slots (`web.3`)."""
    return key == name or key.rpartition(".")[0] == name
