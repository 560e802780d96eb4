"""Who leads: this coordinator's lease, and the campaign for the `leader` key on it.

The lease is measured on our own clock from before each renewal was sent, so we stop acting before
etcd gives it away. That is courtesy; what makes it safe is that every write of a leader compares
the key's create_revision (its epoch). Knows nothing of what leading means.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence

from formation.model import Coordinator
from formation.runtime import monotonic_s
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import (
    CreateRevision,
    Delete,
    Event,
    LeaseLost,
    OutcomeUnknown,
    Put,
    Store,
    StoreError,
)
from formation_coordinator.store.mirror import Mirror

log = logging.getLogger(__name__)

LEASE_TTL_S = 3.0
_RENEW_RETRY_S = 0.1
_GRANT_RETRY_S_MAX = 1.0
_CLOSE_S = 2.0
# Leading ends this long before the lease does: time for a cancelled task to come to rest.
MARGIN_S = 0.5
# The safety net under the mirror's hints.
PERIOD_S = 2.0


class LeaseKeeper:
    """Holds one lease and keeps it alive while `run()` runs.

    While etcd is out of reach the lease is not lost, only not `valid`; when etcd is back and still
    has it, it goes on. It is lost when etcd says so: then `subscribe`rs are told, and a new one is
    granted as soon as possible. Look at `valid_until_s` before relying on it.
    """

    def __init__(
        self,
        store: Store,
        *,
        ttl_s: float = LEASE_TTL_S,
        clock: Callable[[], float] = monotonic_s,
    ) -> None:
        self.lease_id = 0
        self.valid_until_s = -math.inf
        self._store = store
        self._ttl_s = ttl_s
        self._clock = clock
        self._changed = asyncio.Event()
        self._closing = asyncio.Event()
        self._callbacks: list[Callable[[int], None]] = []

    def subscribe(self, callback: Callable[[int], None]) -> None:
        """Called with a lease that is lost, its keys gone; must neither block nor raise."""
        self._callbacks.append(callback)

    def remaining_s(self) -> float:
        """How much longer the lease surely lasts; not above 0: do not rely on it."""
        return self.valid_until_s - self._clock()

    async def held(self, *, for_s: float = 0.0) -> int:
        """The id of a lease valid for longer than that, as soon as there is one."""
        while not (self.lease_id and self.remaining_s() > for_s):
            await self._changed.wait()
        return self.lease_id

    async def run(self) -> None:
        """Until `close()` or cancelled."""
        while not self._closing.is_set():
            if not self.lease_id:
                await self._grant()
            else:
                await self._renew()

    async def close(self) -> None:
        """Gives the lease back, so that nobody waits for it to run out."""
        self._closing.set()
        lease, self.lease_id, self.valid_until_s = self.lease_id, 0, -math.inf
        if lease:
            await self._revoke(lease)

    async def _grant(self) -> None:
        sent_s = self._clock()
        try:
            lease = await self._store.grant_lease(self._ttl_s)
        except StoreError as error:
            # A grant that was carried out unheard of runs out by itself.
            log.debug("no lease yet: %s", error)
            await self._pause(random.uniform(0, _GRANT_RETRY_S_MAX))  # noqa: S311  jitter
            return
        if self._closing.is_set():
            await self._revoke(lease)
            return
        self._extend(lease, sent_s + self._ttl_s)
        await self._pause(self._ttl_s / 3)

    async def _renew(self) -> None:
        sent_s, lease = self._clock(), self.lease_id
        try:
            lasts_s = await self._store.keep_lease(lease)
        except LeaseLost:
            self._lose(lease)
        except StoreError as error:
            log.debug("lease %x is not renewed: %s", lease, error)
            await self._pause(_RENEW_RETRY_S)
        else:
            if self.lease_id == lease:
                self._extend(lease, sent_s + lasts_s)
            await self._pause(lasts_s / 3 - (self._clock() - sent_s))

    def _extend(self, lease: int, valid_until_s: float) -> None:
        self.lease_id = lease
        self.valid_until_s = max(valid_until_s, self.valid_until_s)
        self._changed.set()
        self._changed = asyncio.Event()

    def _lose(self, lease: int) -> None:
        if self.lease_id != lease:
            return  # closed meanwhile
        log.warning("our lease %x has run out; asking for another", lease)
        self.lease_id, self.valid_until_s = 0, -math.inf
        for callback in tuple(self._callbacks):
            callback(lease)

    async def _revoke(self, lease: int) -> None:
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._store.revoke_lease(lease)
        except (StoreError, TimeoutError) as error:
            log.info("our lease could not be given back and will run out by itself: %s", error)

    async def _pause(self, delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, delay_s)):
                await self._closing.wait()


class Election:
    """Campaigns while `run()` runs; while it leads, `lead(epoch)` runs as a task.

    `lead` is cancelled as soon as the lease is about to end, the key is gone or another's, or we
    close; the next one starts only after it has come to rest. After an outage that etcd did not
    see as one it is called again with the same epoch. If it ends by itself we resign.
    """

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        keeper: LeaseKeeper,
        me: Coordinator,
        lead: Callable[[int], Awaitable[None]],
        *,
        margin_s: float = MARGIN_S,
        period_s: float = PERIOD_S,
    ) -> None:
        self.epoch = 0  # 0 while not leading
        self._store = store
        self._mirror = mirror
        self._keeper = keeper
        self._me = me
        self._lead = lead
        self._margin_s = margin_s
        self._period_s = period_s
        self._hint = asyncio.Event()
        self._holds_key = 0  # the epoch of a key that is, as far as we know, still ours
        self._campaigns: asyncio.Task[None] | None = None

    @property
    def leading(self) -> bool:
        return self.epoch != 0

    async def run(self) -> None:
        """Until `close()` or cancelled; a cancelled one leaves the key to the lease's end."""
        unsubscribe = self._mirror.subscribe(self._look_at)
        self._keeper.subscribe(lambda _lease: self._hint.set())
        self._campaigns = asyncio.create_task(self._campaign_for_ever())
        try:
            await asyncio.wait([self._campaigns])
        finally:
            unsubscribe()
            await _at_rest(self._campaigns)
        if not self._campaigns.cancelled():
            self._campaigns.result()  # it ends by itself only when something is broken

    async def close(self) -> None:
        """Stops leading, then deletes the key, so that another leads at once."""
        if self._campaigns is not None:
            await _at_rest(self._campaigns)
        if self._holds_key:
            await self._resign()

    def _look_at(self, events: Sequence[Event]) -> None:
        if any(event.key == keys.LEADER for event in events):
            self._hint.set()

    async def _campaign_for_ever(self) -> None:
        while True:
            lease = await self._keeper.held(for_s=self._margin_s)
            self._hint.clear()
            try:
                epoch = await self._campaign(lease)
            except StoreError as error:
                log.debug("cannot campaign: %s", error)
                epoch = 0
            if epoch:
                await self._hold(epoch, lease)
            else:
                await self._until_hint(self._period_s * random.uniform(0.5, 1.0))  # noqa: S311

    async def _campaign(self, lease: int) -> int:
        """The epoch we lead in, or 0."""
        if await self._store.get(keys.LEADER) is None:
            try:
                outcome = await self._store.commit(
                    [CreateRevision(keys.LEADER, 0)],
                    [Put(keys.LEADER, codec.encode(self._me), lease)],
                )
                return outcome.revision if outcome.succeeded else 0
            except LeaseLost:
                return 0
            except OutcomeUnknown as error:
                log.debug("who leads is to be read: %s", error)
        item = await self._store.get(keys.LEADER)
        return item.create_revision if item is not None and item.lease == lease else 0

    async def _hold(self, epoch: int, lease: int) -> None:
        log.info("%s leads, epoch %d", self._me.id, epoch)
        self.epoch = self._holds_key = epoch
        leading = asyncio.create_task(_awaited(self._lead(epoch)))
        signs = {
            asyncio.create_task(self._lease_ends(lease)): "its lease could not be renewed in time",
            asyncio.create_task(self._key_is_gone(epoch, lease)): "the key is gone",
            asyncio.create_task(self._probe(epoch)): "the key is another's",
        }
        try:
            await asyncio.wait([leading, *signs], return_when=asyncio.FIRST_COMPLETED)
            seen = [sign for sign in signs if sign.done()]
            for sign in seen:
                sign.result()
            reasons = [signs[sign] for sign in seen]
        finally:
            self.epoch = 0
            await _at_rest(leading, *signs)
            _report(leading)
        log.info("%s leads no more: %s", self._me.id, ", ".join(reasons) or "it stopped by itself")
        if not reasons:
            # Somebody else shall try before we do again.
            await self._resign()
            await asyncio.sleep(self._period_s)

    async def _resign(self) -> None:
        epoch, self._holds_key = self._holds_key, 0
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._store.commit(
                    [CreateRevision(keys.LEADER, epoch)], [Delete(keys.LEADER)]
                )
        except (StoreError, TimeoutError) as error:
            log.info("could not resign; the lease's end will do it: %s", error)

    # Signs that we lead no more: each returns when it sees one.

    async def _lease_ends(self, lease: int) -> None:
        left_s = self._trusted_s(lease)
        while left_s > 0:
            await asyncio.sleep(left_s)
            left_s = self._trusted_s(lease)  # more, when it was renewed meanwhile

    def _trusted_s(self, lease: int) -> float:
        is_held = self._keeper.lease_id == lease
        return self._keeper.remaining_s() - self._margin_s if is_held else 0.0

    async def _key_is_gone(self, epoch: int, lease: int) -> None:
        while self._keeper.lease_id == lease:
            item = self._mirror.records.get(keys.LEADER)
            # A mirror that has not come to our own write yet knows nothing.
            if self._mirror.revision >= epoch and (item is None or item.create_revision != epoch):
                return
            await self._hint.wait()
            self._hint.clear()

    async def _probe(self, epoch: int) -> None:
        """Asks etcd itself now and then: a mirror can be stuck, and a restored etcd is younger."""
        while True:
            await asyncio.sleep(self._period_s)
            with contextlib.suppress(StoreError):
                item = await self._store.get(keys.LEADER)
                if item is None or item.create_revision != epoch:
                    return

    async def _until_hint(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._hint.wait()


async def _awaited(awaitable: Awaitable[None]) -> None:
    await awaitable


def _report(leading: asyncio.Task[None]) -> None:
    error = None if leading.cancelled() else leading.exception()
    if isinstance(error, StoreError):
        log.warning("leading ended: %s", error)
    elif error is not None:
        log.error("leading failed", exc_info=error)


async def _at_rest(*tasks: asyncio.Task[None]) -> None:
    """Cancelled and really over, also when we are cancelled meanwhile."""
    for task in tasks:
        task.cancel()
    cancelled = False
    while any(not task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
