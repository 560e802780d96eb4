"""That a coordinator is there, and where: its own record in etcd, on its lease."""

from __future__ import annotations

import asyncio
import logging

from formation.model import Coordinator
from formation_coordinator.election import LeaseKeeper
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import ModRevision, Put, Store, StoreError
from formation_coordinator.store.mirror import Mirror

log = logging.getLogger(__name__)

RETRY_S = 1.0
# Longer than the lease of a coordinator that died and was started anew with the same id.
ID_TAKEN_AFTER_S = 8.0


class Presence:
    def __init__(self, store: Store, mirror: Mirror, lease: LeaseKeeper, me: Coordinator) -> None:
        self._store, self._mirror, self._lease, self._me = store, mirror, lease, me

    async def keep(self) -> str:
        """Level: coordinators/<id> is ours, on our present lease. Ends when that cannot be, with
        why."""
        refused_for_s = 0.0
        while refused_for_s <= ID_TAKEN_AFTER_S:
            try:
                lease = await self._lease.held()
                refused_for_s = 0.0 if await self._register(lease) else refused_for_s + RETRY_S
            except StoreError as error:
                log.warning("this coordinator is not registered: %s", error)
            await asyncio.sleep(RETRY_S)
        return f"another coordinator is called {self._me.id!r}; give this one another --id"

    async def _register(self, lease: int) -> bool:
        """False when another living coordinator has our id; a dead one's key soon runs out."""
        key = keys.coordinator(self._me.id)
        seen = self._mirror.records.get(key)
        if seen is not None and seen.lease == lease:
            return True
        if seen is not None:
            holder = codec.decode(key, seen.value)
            # Whoever had our address before us is dead: we listen on it now.
            if isinstance(holder, Coordinator) and holder.address != self._me.address:
                return False
        put = Put(key, codec.encode(self._me), lease=lease)
        compare = ModRevision(key, seen.mod_revision if seen else 0)
        await self._store.commit([compare], [put])
        return True
