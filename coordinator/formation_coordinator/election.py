"""Who leads: this coordinator's lease, and the campaign for the `leader` key on it.

The lease is measured on our own clock from before each renewal was sent, so we stop acting before
etcd gives it away. That is courtesy; what makes it safe is that every write of a leader compares
the key's create_revision (its epoch). Knows nothing of what leading means.
"""

from __future__ import annotations

import asyncio
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

    async def held(self) -> int:
        """The id of a valid lease, as soon as there is one."""
        while not (self.lease_id and self.remaining_s() > 0):
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
        if delay_s > 0:
            await asyncio.wait([asyncio.ensure_future(self._closing.wait())], timeout=delay_s)
