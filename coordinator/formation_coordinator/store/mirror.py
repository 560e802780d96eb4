"""A warm copy of the store's records, always of one revision, repaired whenever in doubt.

Lists at a revision, follows from the next one, and on any gap, compaction or broken stream lists
again and hands out the difference: subscribers see changes in the same form either way. Level, not
edge: what counts is `records`; events are hints. Reads the store only; decodes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from formation.runtime import monotonic_s
from formation_coordinator.store.base import (
    Event,
    KeyValue,
    Snapshot,
    Span,
    Store,
    StoreError,
    WatchBatch,
)
from formation_coordinator.store.keys import CLUSTER, MIRRORED

log = logging.getLogger(__name__)

Callback = Callable[[Sequence[Event]], None]

_EVERYTHING = Span.prefix("")
_RETRY_S_MAX = 2.0
# A watch that broke sooner than this is not asked again at once.
_STEADY_S = 5.0
_CONTACT_S = 2.0
# How long `wait_for` trusts the watch before it looks for itself.
_PATIENCE_S = 1.0


class Mirror:
    """Run `run()` in a task; `ready` is set after the first whole view."""

    def __init__(self, store: Store, spans: Sequence[Span] = MIRRORED) -> None:
        self.ready = asyncio.Event()
        self.connected = False
        self.failure = ""
        self.revision = 0
        self.went_back_at_s = -math.inf  # when etcd was last seen to be younger than before
        self._store = store
        self._spans = tuple(spans)
        self._records: dict[str, KeyValue] = {}
        self._callbacks: list[Callback] = []
        self._waiters: set[tuple[int, asyncio.Future[None]]] = set()
        self._listing = asyncio.Lock()

    @property
    def records(self) -> Mapping[str, KeyValue]:
        """As of `revision`. A live view: it changes with the next await."""
        return MappingProxyType(self._records)

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Called with each batch once `records` and `revision` hold it; must neither block nor
        raise. Gives the function that ends it."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def run(self) -> None:
        """For ever, until cancelled."""
        quick_breaks = 0
        while True:
            await self._list_until_it_works()
            started_s = monotonic_s()
            try:
                await self._follow()
            except StoreError as error:
                self._failed(error)
            steady = monotonic_s() - started_s > _STEADY_S
            quick_breaks = 0 if steady else quick_breaks + 1
            if quick_breaks > 1:
                delay_s = min(_RETRY_S_MAX, 0.05 * 2 ** min(quick_breaks, 10))
                await asyncio.sleep(random.uniform(0, delay_s))  # noqa: S311  jitter, no secret

    async def wait_for(self, revision: int, timeout_s: float) -> None:
        """Returns when the mirror holds that revision. Raises TimeoutError, one line."""
        deadline_s = monotonic_s() + timeout_s
        if await self._reaches(revision, min(_PATIENCE_S, timeout_s / 2)):
            return
        # The revision may be of another user of this etcd: no event of ours will ever bring it.
        try:
            async with asyncio.timeout(deadline_s - monotonic_s()):
                await self._look(revision)
        except (StoreError, TimeoutError):
            log.debug("mirror: could not look for revision %d", revision)
        if not await self._reaches(revision, max(0.0, deadline_s - monotonic_s())):
            why = f" ({self.failure})" if self.failure else ""
            raise TimeoutError(
                f"the view of etcd is at revision {self.revision}, not yet at {revision},"
                f" after {timeout_s:g} s{why}"
            )

    async def _list_until_it_works(self) -> None:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StoreError),
            wait=wait_random_exponential(multiplier=0.05, max=_RETRY_S_MAX),
            before_sleep=self._list_failed,
        ):
            with attempt:
                # Listing a large cluster may take long; whether etcd is there is known soon.
                await self._store.get(CLUSTER, timeout_s=_CONTACT_S)
                snapshot = await self._store.ranges(self._spans)
        if snapshot.revision < self.revision:
            self.went_back_at_s = monotonic_s()
            log.warning(
                "etcd went back from revision %d to %d: was it restored from a backup?",
                *(self.revision, snapshot.revision),
            )
        self.connected, self.failure = True, ""
        self._replace(snapshot)
        self.ready.set()

    def _list_failed(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert isinstance(error, StoreError)
        self._failed(error)

    def _failed(self, error: StoreError) -> None:
        if str(error) != self.failure:
            log.warning("the view of etcd is interrupted: %s", error)
        self.connected, self.failure = False, str(error)

    async def _follow(self) -> None:
        # The whole prefix: events outside the spans move `revision`, too.
        async with aclosing(self._store.watch(_EVERYTHING, self.revision + 1)) as batches:
            async for batch in batches:
                self._advance(batch)

    async def _look(self, revision: int) -> None:
        async with self._listing:
            if self.revision >= revision:
                return
            snapshot = await self._store.ranges(self._spans)
            # Older than what the watch has brought meanwhile, it would take changes back.
            if snapshot.revision > self.revision:
                self._replace(snapshot)

    def _replace(self, snapshot: Snapshot) -> None:
        items = {item.key: item for item in snapshot.items}
        events = list(_difference(self._records, items, snapshot.revision))
        self._records = items
        self._arrived(snapshot.revision, events)

    def _advance(self, batch: WatchBatch) -> None:
        # What a look already brought is not news.
        events = [
            event
            for event in batch.events
            if event.revision > self.revision and any(event.key in span for span in self._spans)
        ]
        for event in events:
            if event.value is None:
                self._records.pop(event.key, None)
            else:
                self._records[event.key] = event.value
        self._arrived(max(batch.revision, self.revision), events)

    def _arrived(self, revision: int, events: Sequence[Event]) -> None:
        self.revision = revision
        if events:
            for callback in tuple(self._callbacks):
                callback(events)
        for wanted, future in tuple(self._waiters):
            if wanted <= revision and not future.done():
                future.set_result(None)

    async def _reaches(self, revision: int, timeout_s: float) -> bool:
        if self.revision >= revision:
            return True
        waiter = (revision, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter[1]], timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)
        return waiter[1].done()


def _difference(
    old: Mapping[str, KeyValue], new: Mapping[str, KeyValue], revision: int
) -> Iterable[Event]:
    """What a watch would have said, but for what came and went in between."""
    for key in old.keys() - new.keys():
        yield Event(key=key, value=None, revision=revision)
    # Compared whole: a restored etcd gives the same revisions out again, with other values.
    changed = (item for key, item in new.items() if old.get(key) != item)
    for item in sorted(changed, key=lambda item: item.mod_revision):
        yield Event(key=item.key, value=item, revision=item.mod_revision)
