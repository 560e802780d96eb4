"""Coordinators that do nothing but to lead, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from formation.model import Coordinator
from formation_coordinator.election import Election, LeaseKeeper
from formation_coordinator.store.base import Store
from formation_coordinator.store.mirror import Mirror

TTL_S = 3.0


@dataclass(slots=True)
class Stage:
    """Everybody's terms: (who, epoch), and who leads right now. Two at once is the failure."""

    now: list[str] = field(default_factory=list)
    terms: list[tuple[str, int]] = field(default_factory=list)


@dataclass(slots=True)
class Candidate:
    """One coordinator's keeper, mirror and election; leading is only being on the stage."""

    id: str
    store: Store
    keeper: LeaseKeeper
    mirror: Mirror
    election: Election
    tasks: list[asyncio.Task[None]]

    async def close(self) -> None:
        await self.election.close()
        await self.keeper.close()
        await self.die()

    async def die(self) -> None:
        """Nothing is given back: as a process that is killed."""
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


def candidate(
    name: str,
    store: Store,
    stage: Stage,
    *,
    clock: Callable[[], float],
    then: Callable[[int], None] = lambda _epoch: None,
) -> Candidate:
    async def lead(epoch: int) -> None:
        assert stage.now == [], f"{name} leads while {stage.now} does"
        stage.now.append(name)
        stage.terms.append((name, epoch))
        try:
            then(epoch)
            await asyncio.Event().wait()
        finally:
            stage.now.remove(name)

    mirror = Mirror(store)
    keeper = LeaseKeeper(store, ttl_s=TTL_S, clock=clock)
    me = Coordinator(id=name, address=f"{name}:1")
    election = Election(store, mirror, keeper, me, lead)
    tasks = [asyncio.create_task(part.run()) for part in (keeper, mirror, election)]
    return Candidate(name, store, keeper, mirror, election, tasks)
