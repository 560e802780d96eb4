"""etcd's database: looked at by every coordinator, its history forgotten by the leader.

A status is a new version of a document each time, and etcd keeps all versions until somebody
compacts. An etcd that is full refuses every write until a person has made room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from formation_coordinator.store.base import Health, Store, StoreError

log = logging.getLogger(__name__)

LOOKS_EVERY_S = 10.0
NO_SPACE = "NOSPACE"


def trouble(health: Health) -> str:
    """What etcd has raised an alarm for, for people; or ""."""
    said = []
    for alarm in health.alarms:
        if alarm == NO_SPACE:
            said.append(
                f"etcd's database is full ({_mib(health.size_bytes)}): nothing can be changed and "
                "no status is written, what runs runs on; make room with `etcdctl defrag` or a "
                "larger --quota-backend-bytes, then `etcdctl alarm disarm`"
            )
        else:
            said.append(f"etcd has raised the alarm {alarm}: see `etcdctl alarm list`")
    return "; ".join(said)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"


class Housekeeping:
    """`compact_every_s`: the leader forgets what is older than that, as often; 0: others do.
    `trouble` is for people, `health` of the last look."""

    def __init__(
        self,
        store: Store,
        *,
        leads: Callable[[], bool],
        compact_every_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._leads, self._clock = store, leads, clock
        self._compact_every_s = compact_every_s
        self.health = Health()
        self.trouble = ""
        self._then = (0, clock())  # a revision, and when it was the last one

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except StoreError as error:
                log.debug("etcd's health is not known: %s", error)
            await asyncio.sleep(LOOKS_EVERY_S)

    async def look(self) -> None:
        before, self.health = self.health, await self._store.health()
        self.trouble = trouble(self.health)
        if self.health.alarms != before.alarms:
            if self.trouble:
                log.error("%s", self.trouble)
            else:
                log.info("etcd has no alarm any more")
        await self._compact()

    async def _compact(self) -> None:
        """Up to where it was a while ago, so that whoever follows is not thrown back."""
        revision, at_s = self._then
        if not self._compact_every_s or self._clock() - at_s < self._compact_every_s:
            return
        self._then = self.health.revision, self._clock()
        if revision and self._leads():
            try:
                await self._store.forget(revision)
            except StoreError as error:
                log.warning("etcd's history was not compacted: %s", error)
