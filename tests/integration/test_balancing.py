"""Agents go where there is room, and nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from eventually import eventually
from hollow.host import HollowHost
from hollow.rooms import Behaviour
from running import RunningCoordinator, coordinator

from formation.v1 import control_pb2 as pb
from formation_coordinator import balancing
from formation_coordinator.registration import AgentSession
from formation_coordinator.store.memory import MemoryStore

HOSTS = 30


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancing, "SETTLED_S", 0.2)
    monkeypatch.setattr(balancing, "LOOKS_EVERY_S", 0.1)


@asynccontextmanager
async def hollow_hosts(addresses: tuple[str, ...]) -> AsyncIterator[list[HollowHost]]:
    hosts = [HollowHost(f"h{n:02d}", addresses, None, Behaviour()) for n in range(HOSTS)]
    running = [asyncio.create_task(host.begin(0.0)) for host in hosts]
    try:
        yield hosts
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def held(*coordinators: RunningCoordinator) -> list[int]:
    return [len(one.service.sessions.held) for one in coordinators]


def are_shared(*coordinators: RunningCoordinator) -> bool:
    """As evenly as is worth it: some may not have come there, and are not asked again soon."""
    found = dict(zip(("c1", "c2"), held(*coordinators), strict=True))
    settled = not any(balancing.moves(found, name) for name in found)
    return sum(found.values()) == HOSTS and settled


async def test_a_coordinator_that_comes_gets_its_share_and_no_host_is_silent(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    async with (
        coordinator(store, tmp_path, "c1") as first,
        hollow_hosts((first.address,)) as hosts,
    ):
        await eventually(lambda: held(first) == [HOSTS])
        seen: set[str] = set()
        watching = asyncio.create_task(seen_states(first, seen))
        async with coordinator(store, tmp_path, "c2") as second:
            await eventually(lambda: are_shared(first, second))
            both = {first.address, second.address}
            await eventually(lambda: {host.session.reached for host in hosts} == both)
            shared = held(first, second)
            await asyncio.sleep(0.5)
            assert held(first, second) == shared
            watching.cancel()
            assert seen == {"ready"}
        # It went: its agents come back, and who is alone keeps them all.
        await eventually(lambda: held(first) == [HOSTS])


async def seen_states(one: RunningCoordinator, seen: set[str]) -> None:
    """What anybody who looks all the time gets to see of hosts."""
    while True:
        answer = await one.control.ListHosts(pb.ListHostsRequest())
        names = (pb.HostState.Name(view.state) for view in answer.hosts)
        seen.update(name.removeprefix("HOST_STATE_").lower() for name in names)
        await asyncio.sleep(0.01)


async def test_a_host_that_somebody_follows_stays(tmp_path: Path) -> None:
    store = MemoryStore()
    async with coordinator(store, tmp_path, "c1") as first, hollow_hosts((first.address,)):
        await eventually(lambda: held(first) == [HOSTS])
        followed = {f"h{n:02d}" for n in range(3)}
        first.service.balancing._is_busy = followed.__contains__
        async with coordinator(store, tmp_path, "c2") as second:
            await eventually(lambda: are_shared(first, second))
            assert followed <= first.service.sessions.held.keys()


async def test_who_does_not_come_there_comes_back_and_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    async with coordinator(store, tmp_path, "c1") as first, hollow_hosts((first.address,)):
        await eventually(lambda: held(first) == [HOSTS])
        nowhere = f"unix:{tmp_path}/nobody"
        monkeypatch.setattr(AgentSession, "move", _mistaken(AgentSession.move, nowhere))
        async with coordinator(store, tmp_path, "c2") as second:
            await eventually(lambda: len(first.service.balancing._asked) >= HOSTS / 2)
            await eventually(lambda: sum(held(first, second)) == HOSTS)
            asked = dict(first.service.balancing._asked)
            await asyncio.sleep(1.0)
            assert first.service.balancing._asked.keys() >= asked.keys()
            assert sum(held(first, second)) == HOSTS


def _mistaken(
    move: Callable[[AgentSession, str], None], address: str
) -> Callable[[AgentSession, str], None]:
    def moved(session: AgentSession, _: str) -> None:
        move(session, address)

    return moved
