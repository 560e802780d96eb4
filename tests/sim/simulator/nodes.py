"""A coordinator as it is, over a link to the store that is slow, lossy, cut or all of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from store_link import StoreLink

from formation.model import Coordinator
from formation_coordinator.config import CoordinatorConfig
from formation_coordinator.service import Service
from formation_coordinator.store.base import Compare, Event, Operation, Outcome, OutcomeUnknown
from formation_coordinator.store.memory import MemoryStore
from simulator.autoscaling import Number
from simulator.wires import Network

LATENCY_S = (0.0003, 0.004)
PATIENCE_S = 0.5


class Etcd(MemoryStore):
    """Tells at once what is written, before anybody else hears of it."""

    def __init__(self, clock: Callable[[], float], told: Callable[[Sequence[Event]], None]) -> None:
        super().__init__(clock=clock)
        self._told = told

    def _publish(self, revision: int, events: Sequence[Event]) -> None:
        super()._publish(revision, events)
        if events:
            self._told(events)


class Link(StoreLink):
    """`slow_s`: how long a request may be under way; `lost`: the share of writes whose request, or
    whose answer, is lost."""

    def __init__(self, store: MemoryStore, dice: random.Random) -> None:
        super().__init__(store, patience_s=PATIENCE_S)
        self._dice = dice
        self.slow_s = 0.0
        self.lost = 0.0

    async def _pass(self) -> None:
        await asyncio.sleep(self._dice.uniform(*LATENCY_S))
        await super()._pass()
        if self.slow_s:
            # Under way for long, and not called back by who has sent it.
            await asyncio.sleep(self._dice.uniform(0.0, self.slow_s))

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Outcome:
        if self._dice.random() < self.lost / 2:
            await self._pass()
            raise OutcomeUnknown("the request was lost")
        # As on a wire: who gives up waiting does not undo what is under way.
        under_way = asyncio.ensure_future(super().commit(compares, operations))
        under_way.add_done_callback(lambda done: done.cancelled() or done.exception())
        outcome = await asyncio.shield(under_way)
        if self._dice.random() < self.lost / 2:
            raise OutcomeUnknown("the answer was lost")
        return outcome


class Node:
    """One coordinator's place: it crashes, stops, and is started anew under the same name."""

    def __init__(
        self,
        name: str,
        *,
        store: MemoryStore,
        network: Network,
        dice: random.Random,
        failed: Callable[[asyncio.Task[Any]], None],
        metric: Number | None = None,
    ) -> None:
        self._metric = metric
        self.name, self.address = name, f"{name}:7100"
        self._store, self._network, self._dice, self._failed = store, network, dice, failed
        self.link = Link(store, dice)
        self.service: Service | None = None
        self.others: Callable[[], Sequence[Node]] = tuple
        self._work: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        return self.service is not None

    @property
    def leads(self) -> bool:
        return self.service is not None and self.service.election.leading

    def start(self) -> None:
        self.link = Link(self._store, self._dice)
        config = CoordinatorConfig(listen=self.address, advertise=self.address, id=self.name)
        self.service = Service(config, self.link, has_store=self._has_store)
        if self._metric is not None:
            self.service.automation.scaler._outside = self._metric  # type: ignore[assignment]
        # It looks at a real disk, in real threads; no release here brings code.
        self.service.artifacts.run = asyncio.Event().wait  # type: ignore[assignment,method-assign]
        self._network.handlers[self.address] = self.service.sessions.Session
        self._work = asyncio.create_task(self.service.work())
        self._work.add_done_callback(self._failed)

    async def _has_store(self, other: Coordinator) -> bool:
        await asyncio.sleep(0.002)
        return any(
            node.name == other.id
            and node.service is not None
            and node.service.lease.remaining_s() > 0
            for node in self.others()
        )

    def crash(self) -> None:
        """Nothing of it reaches anybody any more."""
        if self.service is None or self._work is None:
            return
        self.link.patience_s, self.link.cut = 0.0, True
        self.service = None
        del self._network.handlers[self.address]
        self._network.break_coordinator(self.address, "the coordinator died")
        self._work.cancel()

    async def stop(self) -> None:
        """As a service manager stops it: leadership and sessions are handed over at once."""
        service, work = self.service, self._work
        if service is None or work is None:
            return
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await service.close()
        if self.service is service:
            self.crash()
