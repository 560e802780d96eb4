"""Coordinators and agents of ours: who measures, who may set what, and what others are shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from certified import Authority
from eventually import eventually
from hollow_agent import HollowAgent
from receiver import Receiver, receiving
from running import RunningCoordinator, coordinator
from secure_rig import Rig

from formation.identity import Role
from formation.model import Usage
from formation.v1 import control_pb2 as pb
from formation.v1 import control_pb2_grpc, types_pb2
from formation_coordinator.store import keys
from formation_coordinator.store.base import Put
from formation_coordinator.store.memory import MemoryStore

MEMORY = types_pb2.Measure(kind=types_pb2.MEASURE_KIND_MEMORY, target=50)
CPU = types_pb2.Measure(kind=types_pb2.MEASURE_KIND_CPU, target=50)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


def metric(url: str, target: float = 10) -> types_pb2.Measure:
    return types_pb2.Measure(kind=types_pb2.MEASURE_KIND_METRIC, target=target, url=url)


async def apply(c: RunningCoordinator, app: str = "shop") -> None:
    types = [
        types_pb2.ProcessType(
            name=name, command="true", resources=types_pb2.Resources(memory_bytes=1000)
        )
        for name in ("web", "worker")
    ]
    formation = {"web": 2, "worker": 1}
    await c.control.Apply(
        pb.ApplyRequest(app=app, types=types, formation=formation, workdir="/", who="ann")
    )


def rule(*measures: types_pb2.Measure, app: str = "shop", **more: Any) -> pb.SetAutoscaleRequest:
    return pb.SetAutoscaleRequest(
        app=app, type="web", maximum=9, measures=measures, every_s=5, **more
    )


async def views(c: RunningCoordinator) -> pb.ListAutoscaleResponse:
    return await c.control.ListAutoscale(pb.ListAutoscaleRequest())


async def test_memory_is_asked_of_the_hosts_that_run_the_type_and_every_coordinator_tells(
    store: MemoryStore, tmp_path: Path
) -> None:
    async with (
        coordinator(store, tmp_path, "c1") as c1,
        coordinator(store, tmp_path, "c2") as c2,
        HollowAgent(c1.address, "a") as a,
        HollowAgent(c2.address, "b") as b,
        HollowAgent(c1.address, "c") as c,
    ):
        agents = (a, b, c)
        await eventually(lambda: c1.service.election.leading)
        await apply(c1)
        await eventually(lambda: [len(agent.running) for agent in agents] == [1, 1, 1])
        for agent in agents:
            agent.usage = {uid: Usage(uid=uid, memory_bytes=800) for uid in agent.running}
        (idle,) = [agent for agent in agents if "worker" in "".join(agent.running)]
        await c1.control.SetAutoscale(rule(MEMORY))
        # 80 of 50 percent: 2 × 1.6
        await eventually(lambda: c1.service.live.world.apps["shop"].formation["web"] == 4)
        assert not idle.samples, "who runs only another type is not asked"
        assert {sample.app for agent in agents for sample in agent.samples} == {"shop"}
        await eventually(lambda: sum(len(agent.running) for agent in agents) == 5)
        for coordinator_ in (c1, c2):
            found = await views(coordinator_)
            (view,) = found.rules
            assert (view.quantity, view.sentence, found.note) == (
                4, "2 -> 4: memory 80 % of 50 %, 2 measured", "",
            )  # fmt: skip
            assert (view.measures[0].value, view.measures[0].measured) == (80.0, 2)
            assert view.next_look_ms - view.looked_at_ms == 5_000


async def test_a_leader_that_does_not_answer_is_a_note(store: MemoryStore, tmp_path: Path) -> None:
    async with coordinator(store, tmp_path, "c1") as c1:
        await eventually(lambda: c1.service.election.leading)
        await apply(c1)
        await c1.control.SetAutoscale(rule(CPU))
        ghost = types_pb2.Coordinator(id="c9", address=f"unix:{tmp_path}/nobody.sock")
        await store.commit([], [Put(keys.leader(), ghost.SerializeToString())])
        await eventually(lambda: (w := c1.service.live.world).leader and w.leader.id == "c9")
        found = await views(c1)
        if found.note:  # until c1 leads again
            assert found.note.startswith("the leader, c9: ")
            assert found.note.endswith("what it measures is missing")
        assert [view.rule.type for view in found.rules] == ["web"]


async def test_a_metric_from_none_and_back(
    store: MemoryStore, tmp_path: Path, receiver: Receiver
) -> None:
    body = b"31"
    receiver.answer = lambda _: web.Response(body=body)
    async with coordinator(store, tmp_path, "c1") as c1:
        await apply(c1)
        await c1.control.SetAutoscale(rule(metric(receiver.url), minimum=0, down_window_s=0))
        formation = c1.service.live.world.apps["shop"].formation
        assert formation["web"] == 2
        # No agent: nothing of it can be placed, so it does not ask for more.
        await eventually(lambda: ("shop", "web") in c1.service.automation.scaler.looks)
        async with HollowAgent(c1.address, "a") as a:
            await eventually(
                lambda: c1.service.live.world.apps["shop"].formation["web"] == 4, deadline_s=20
            )
            body = b"0"
            await eventually(
                lambda: c1.service.live.world.apps["shop"].formation["web"] == 0, deadline_s=20
            )
            await eventually(lambda: len(a.running) == 1)


async def test_who_may_set_what(tmp_path: Path, store: MemoryStore) -> None:
    authority = Authority()
    async with coordinator(store, tmp_path, authority=authority) as c1:
        rig = Rig(tmp_path, authority, c1)
        await apply(c1, "shop")
        await apply(c1, "blog")
        deployer = rig.somebody(Role.DEPLOYER, "dora", ("shop",))
        viewer = rig.somebody(Role.VIEWER, "vera")
        async with rig.channel(deployer) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            answer = await stub.SetAutoscale(rule(CPU))
            assert answer.rule.who == "dora"
            assert answer.rule.minimum == 1
            await refused(stub.SetAutoscale(rule(CPU, app="blog")), "PERMISSION_DENIED")
            said = await refused(
                stub.SetAutoscale(rule(metric("http://10.0.0.1/"))), "FAILED_PRECONDITION"
            )
            assert "only an operator may" in said
            assert await stub.SetAutoscale(pb.SetAutoscaleRequest(app="shop", type="web", off=True))
        async with rig.channel(viewer) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            await refused(stub.SetAutoscale(rule(CPU)), "PERMISSION_DENIED")
            assert not (await stub.ListAutoscale(pb.ListAutoscaleRequest())).rules
        await c1.control.SetAutoscale(rule(metric("http://10.0.0.1/")))


async def refused(call: object, code: str) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(10):
            await call  # type: ignore[misc]
    assert caught.value.code().name == code
    return caught.value.details() or ""
