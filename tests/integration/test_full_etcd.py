"""An etcd whose database is full: what runs runs on, what is read is read, and people are told."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import grpc
import pytest
from etcd_server import EtcdServer, make_room
from eventually import eventually
from hollow.host import HollowHost
from hollow.rooms import Behaviour
from running import RunningCoordinator, coordinator
from store_backends import require_etcd

from formation.v1 import control_pb2 as pb
from formation.v1 import types_pb2
from formation_coordinator import housekeeping, registration
from formation_coordinator.store.base import Compacted, NoSpace, Put, Span
from formation_coordinator.store.etcd import EtcdStore

HOSTS = 3
QUOTA = ("--quota-backend-bytes", str(1024 * 1024))


@asynccontextmanager
async def hollow_hosts(address: str) -> AsyncIterator[list[HollowHost]]:
    made = [HollowHost(f"h{n}", (address,), None, Behaviour()) for n in range(HOSTS)]
    running = [asyncio.create_task(host.begin(0.0)) for host in made]
    try:
        yield made
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def apply(one: RunningCoordinator) -> None:
    spec = types_pb2.ProcessType(name="web", command="x", ready_after_s=0.0)
    request = pb.ApplyRequest(app="shop", types=[spec], workdir="/", formation={"web": HOSTS})
    await one.control.Apply(request)


async def scale(one: RunningCoordinator, quantity: int) -> None:
    change = pb.QuantityChange(
        type="web", kind=pb.QuantityChange.KIND_SET, quantity=quantity
    )  # fmt: skip
    await one.control.Scale(pb.ScaleRequest(app="shop", changes=[change]))


async def healthy(one: RunningCoordinator) -> int:
    answer = await one.control.ListApps(pb.ListAppsRequest())
    return answer.apps[0].healthy


async def note(one: RunningCoordinator) -> str:
    return (await one.control.ListHosts(pb.ListHostsRequest())).note


async def fill(server: EtcdServer) -> None:
    """With keys of somebody else."""
    others = EtcdStore(server.endpoint, prefix="/others/")
    with suppress(NoSpace):
        for _ in range(500):
            await others.commit([], [Put("a", bytes(100_000))])
        pytest.fail("etcd took 50 MB into 1 MiB")
    await others.close()


async def test_a_full_etcd_changes_nothing_that_runs_and_is_told_until_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(housekeeping, "LOOKS_EVERY_S", 0.1)
    monkeypatch.setattr(registration, "RETRY_FULL_S", 0.1)
    with EtcdServer(require_etcd("debian"), flags=QUOTA) as server:
        store = EtcdStore(server.endpoint)
        async with coordinator(store, tmp_path) as one, hollow_hosts(one.address) as agents:
            await apply(one)
            await eventually(partial(_is_up, one, HOSTS))
            await fill(server)

            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await scale(one, HOSTS + 2)
            assert "etcd's database is full" in (refused.value.details() or "")
            # How far above its quota etcd gets before it refuses is etcd's affair.
            await eventually(lambda: _says(one, r"etcd's database is full \([1-9]\.\d MiB\)"))
            assert await healthy(one) == HOSTS
            for agent in agents:
                agent.session._complain("its disk is full")
            await asyncio.sleep(1.5)
            view = (await one.control.ListHosts(pb.ListHostsRequest())).hosts[0]
            assert view.status.complaint == "its disk is full"
            unwritten = [r for r in caplog.records if "statuses are not written" in r.message]
            assert len(unwritten) == 1

            make_room(server.endpoint, one.service.housekeeping.health.revision)
            await eventually(partial(_is_silent, one))
            await scale(one, HOSTS + 2)
            await eventually(partial(_is_up, one, HOSTS + 2))
            over = {"statuses are written again", "etcd has no alarm any more"}
            await eventually(lambda: over <= {record.message for record in caplog.records})


async def _is_up(one: RunningCoordinator, quantity: int) -> bool:
    return await healthy(one) == quantity


async def _says(one: RunningCoordinator, pattern: str) -> bool:
    return re.search(pattern, await note(one)) is not None


async def _is_silent(one: RunningCoordinator) -> bool:
    return not await note(one)


async def test_the_leader_forgets_history_and_watches_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "LOOKS_EVERY_S", 0.05)
    with EtcdServer(require_etcd("debian")) as server:
        store = EtcdStore(server.endpoint)
        async with (
            coordinator(store, tmp_path, compact_every_s=0.2) as one,
            hollow_hosts(one.address),
        ):
            await apply(one)
            for quantity in range(1, 8):
                await scale(one, quantity)
                await eventually(partial(_is_up, one, quantity))
            await eventually(lambda: _has_forgotten(store))


async def _has_forgotten(store: EtcdStore) -> bool:
    """Nobody can follow from the beginning any more."""
    try:
        async with asyncio.timeout(0.2), aclosing(store.watch(Span.prefix(""), 2)) as watch:
            await anext(watch)
    except Compacted:
        return True
    except TimeoutError:
        pass
    return False
