"""An etcd in memory for tests and simulations: same Protocol, same contract tests.

Time is an argument: leases run out when `clock` says so, at the next call or `tick()`. Faults are
switches. May not be used by a program that serves anybody: nothing is kept.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from formation.runtime import monotonic_s
from formation_coordinator.store.base import (
    Compacted,
    Compare,
    CreateRevision,
    Delete,
    Event,
    Health,
    KeyValue,
    LeaseLost,
    Operation,
    Outcome,
    OutcomeUnknown,
    Put,
    Snapshot,
    Span,
    StoreError,
    StoreUnavailable,
    UnchangedSince,
    WatchBatch,
    check,
)

# etcd's least, with its default election timeout.
TTL_MIN_S = 2


@dataclass(slots=True, kw_only=True)
class _Lease:
    ttl_s: float
    expires_s: float
    keys: set[str] = field(default_factory=set)


class _Watcher:
    """What one watch was told and has not taken yet."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._batches: deque[WatchBatch] = deque()
        self._error: StoreError | None = None
        self._told = asyncio.Event()

    def tell(self, batch: WatchBatch) -> None:
        events = tuple(event for event in batch.events if event.key in self._span)
        if events:
            self._batches.append(WatchBatch(batch.revision, events))
            self._told.set()

    def end(self, error: StoreError) -> None:
        self._error = error
        self._told.set()

    async def next(self) -> WatchBatch:
        while not self._batches:
            if self._error is not None:
                raise self._error
            self._told.clear()
            await self._told.wait()
        return self._batches.popleft()


class MemoryStore:
    def __init__(self, *, clock: Callable[[], float] = monotonic_s) -> None:
        self.lose_next_reply = False  # the next write is done, and nobody hears of it
        self.lose_next_request = False  # the next write is not done, and nobody hears of it
        self._clock = clock
        self._unavailable = False
        self._revision = 1  # as a fresh etcd's
        self._compacted = 0
        self._records: dict[str, KeyValue] = {}
        self._history: list[WatchBatch] = []
        self._leases: dict[int, _Lease] = {}
        self._lease_ids = itertools.count(7_000_001)
        self._watchers: list[_Watcher] = []

    @property
    def unavailable(self) -> bool:
        return self._unavailable

    @unavailable.setter
    def unavailable(self, value: bool) -> None:
        """While true every call fails and no watch lives."""
        self._unavailable = value
        if value:
            self.break_watches(StoreUnavailable("memory: switched off"))

    @property
    def revision(self) -> int:
        return self._revision

    def compact(self, revision: int) -> None:
        """Forgets what happened up to and including this revision, as etcd does."""
        assert self._compacted < revision <= self._revision
        self._compacted = revision
        self._history = [batch for batch in self._history if batch.revision > revision]

    async def health(self) -> Health:
        await self._enter()
        return Health(revision=self._revision)

    async def forget(self, revision: int) -> None:
        await self._enter()
        if self._compacted < revision <= self._revision:
            self.compact(revision)

    def tick(self) -> None:
        """Lets leases run out whose time is over."""
        now_s = self._clock()
        for lease in [key for key, held in self._leases.items() if held.expires_s <= now_s]:
            self._end_lease(lease)

    def backup(self) -> Snapshot:
        return Snapshot(self._revision, tuple(self._records.values()))

    def restore(self, backup: Snapshot) -> None:
        """Goes back in time, as an etcd restored from a backup: revisions are given out again."""
        self._revision = self._compacted = backup.revision
        self._records = {item.key: item for item in backup.items}
        self._history, self._leases = [], {}
        for item in backup.items:
            if item.lease:
                expires_s = self._clock() + TTL_MIN_S
                lease = _Lease(ttl_s=TTL_MIN_S, expires_s=expires_s)
                self._leases.setdefault(item.lease, lease).keys.add(item.key)
        self.break_watches(StoreUnavailable("memory: restored from a backup"))

    def break_watches(self, error: StoreError) -> None:
        """Ends every open watch, after what it has already been told."""
        for watcher in self._watchers:
            watcher.end(error)

    async def ranges(self, spans: Sequence[Span], *, timeout_s: float = 30.0) -> Snapshot:
        assert timeout_s > 0
        await self._enter()
        keys = sorted(self._records)
        items = [self._records[key] for span in spans for key in keys if key in span]
        return Snapshot(self._revision, tuple(items))

    async def get(self, key: str, *, timeout_s: float = 5.0) -> KeyValue | None:
        assert timeout_s > 0
        await self._enter()
        return self._records.get(key)

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Outcome:
        check(compares, operations)
        await self._enter()
        if self.lose_next_request:
            self.lose_next_request = False
            raise OutcomeUnknown("memory: the request was lost")
        outcome = self._apply(compares, operations)
        if self.lose_next_reply:
            self.lose_next_reply = False
            raise OutcomeUnknown("memory: the reply was lost")
        return outcome

    async def watch(self, span: Span, from_revision: int) -> AsyncGenerator[WatchBatch, None]:
        await self._enter()
        if from_revision > self._revision + 1:
            raise StoreUnavailable(f"memory: at revision {self._revision}, not {from_revision}")
        if from_revision <= self._compacted:
            raise Compacted(f"memory: revision {from_revision} is compacted")
        watcher = _Watcher(span)
        first = bisect_left(self._history, from_revision, key=lambda batch: batch.revision)
        for batch in self._history[first:]:
            watcher.tell(batch)
        self._watchers.append(watcher)
        try:
            while True:
                yield await watcher.next()
        finally:
            self._watchers.remove(watcher)

    async def grant_lease(self, ttl_s: float) -> int:
        await self._enter()
        ttl_s = max(TTL_MIN_S, math.ceil(ttl_s))
        lease = next(self._lease_ids)
        self._leases[lease] = _Lease(ttl_s=ttl_s, expires_s=self._clock() + ttl_s)
        return lease

    async def keep_lease(self, lease: int) -> float:
        await self._enter()
        held = self._leases.get(lease)
        if held is None:
            raise LeaseLost(f"memory: lease {lease:x} is gone")
        held.expires_s = self._clock() + held.ttl_s
        return held.ttl_s

    async def revoke_lease(self, lease: int) -> None:
        await self._enter()
        if lease in self._leases:
            self._end_lease(lease)

    async def close(self) -> None:
        self.unavailable = True

    async def _enter(self) -> None:
        await asyncio.sleep(0)  # as a real call would, let others run
        if self._unavailable:
            raise StoreUnavailable("memory: switched off")
        self.tick()

    def _apply(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Outcome:
        if not all(map(self._holds, compares)):
            return Outcome(succeeded=False, revision=self._revision)
        for operation in operations:
            if isinstance(operation, Put) and operation.lease:
                self._require_lease(operation.lease)
        revision = self._revision + 1
        events = [self._change(operation, revision) for operation in operations]
        self._publish(revision, [event for event in events if event is not None])
        return Outcome(succeeded=True, revision=self._revision)

    def _holds(self, compare: Compare) -> bool:
        if isinstance(compare, UnchangedSince):
            inside = (item for key, item in self._records.items() if key in compare.span)
            return all(item.mod_revision <= compare.revision for item in inside)
        item = self._records.get(compare.key)
        if item is None:
            return compare.revision == 0
        is_create = isinstance(compare, CreateRevision)
        return compare.revision == (item.create_revision if is_create else item.mod_revision)

    def _require_lease(self, lease: int) -> None:
        if lease not in self._leases:
            raise LeaseLost(f"memory: lease {lease:x} is gone")

    def _change(self, operation: Operation, revision: int) -> Event | None:
        old = self._records.get(operation.key)
        if old is not None and old.lease:
            self._leases[old.lease].keys.discard(operation.key)
        if isinstance(operation, Delete):
            if self._records.pop(operation.key, None) is None:
                return None
            return Event(key=operation.key, value=None, revision=revision)
        item = KeyValue(
            key=operation.key,
            value=operation.value,
            create_revision=old.create_revision if old else revision,
            mod_revision=revision,
            lease=operation.lease,
        )
        self._records[item.key] = item
        if item.lease:
            self._leases[item.lease].keys.add(item.key)
        return Event(key=item.key, value=item, revision=revision)

    def _end_lease(self, lease: int) -> None:
        keys = sorted(self._leases[lease].keys)
        revision = self._revision + 1
        events = [self._change(Delete(key), revision) for key in keys]
        del self._leases[lease]
        self._publish(revision, [event for event in events if event is not None])

    def _publish(self, revision: int, events: Sequence[Event]) -> None:
        if events:
            self._revision = revision
            batch = WatchBatch(revision, tuple(events))
            self._history.append(batch)
            for watcher in self._watchers:
                watcher.tell(batch)
