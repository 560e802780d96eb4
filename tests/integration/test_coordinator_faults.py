"""What a coordinator does when its store, its streams or its operator misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from eventually import eventually
from hollow_agent import HollowAgent
from running import RunningCoordinator, coordinator
from store_link import StoreLink

from formation.model import Cluster, Session
from formation.v1 import agent_pb2, types_pb2
from formation.v1 import control_pb2 as pb
from formation_coordinator.control_store import SCHEMA_VERSION
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Delete, Put, Span
from formation_coordinator.store.memory import MemoryStore

SET = pb.QuantityChange.KIND_SET


async def apply(c: RunningCoordinator, quantity: int, command: str = "true") -> pb.ApplyResponse:
    spec = types_pb2.ProcessType(name="web", command=command)
    request = pb.ApplyRequest(
        app="shop", types=[spec], formation={"web": quantity}, who="ann", workdir="/"
    )
    response: pb.ApplyResponse = await c.control.Apply(request)
    return response


async def session_key(store: MemoryStore, host: str) -> Session | None:
    item = await store.get(keys.session(host))
    record = codec.decode(item.key, item.value) if item else None
    return record if isinstance(record, Session) else None


async def test_an_agent_that_died_while_etcd_was_away_is_replaced(tmp_path: Path) -> None:
    """Its session key stays on our living lease: nobody else would ever take it away."""
    store = MemoryStore()
    async with coordinator(store, tmp_path) as c1, HollowAgent(c1.address, "b") as b:
        a = await HollowAgent(c1.address, "a").__aenter__()
        await apply(c1, 2)
        await a.wait_for(lambda: len(a.running) == 1)
        store.unavailable = True
        await a.hang_up()
        await eventually(lambda: "a" not in c1.service.sessions.held)
        store.unavailable = False
        await b.wait_for(lambda: len(b.running) == 2)


async def test_a_session_never_stands_on_no_lease(tmp_path: Path) -> None:
    store = MemoryStore()
    async with coordinator(store, tmp_path) as c1, HollowAgent(c1.address, "a"):
        item = await store.get(keys.session("a"))
        assert item is not None
        assert item.lease == c1.service.lease.lease_id != 0


async def test_a_lingering_session_never_steals_from_a_newer_one(tmp_path: Path) -> None:
    store = MemoryStore()
    async with (
        coordinator(store, tmp_path, "c1") as c1,
        coordinator(store, tmp_path, "c2") as c2,
        HollowAgent(c1.address, "a") as lingering,
        HollowAgent(c2.address, "a") as newer,
    ):
        assert newer.welcome is not None
        await store.revoke_lease(c1.service.lease.lease_id)  # c1 gets another lease
        await lingering.wait_for(lambda: lingering.refusal is not None)
        found = await session_key(store, "a")
        assert found is not None
        assert found.session_id == newer.welcome.session_id
        await apply(c1, 1)
        await newer.wait_for(lambda: len(newer.running) == 1)


async def test_a_session_key_that_vanished_is_put_back(tmp_path: Path) -> None:
    store = MemoryStore()
    async with coordinator(store, tmp_path) as c1, HollowAgent(c1.address, "a"):
        await store.commit([], [Delete(keys.session("a"))])

        async def back() -> bool:
            return await session_key(store, "a") is not None

        await eventually(back)


async def test_a_forgotten_host_that_returns_stops_its_old_instances_and_is_used_again(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    async with coordinator(store, tmp_path) as c1, HollowAgent(c1.address, "b") as b:
        a = await HollowAgent(c1.address, "a").__aenter__()
        await apply(c1, 2)
        await a.wait_for(lambda: len(a.running) == 1)
        ran, followed = dict(a.running), a.generation
        await a.hang_up()
        await eventually(lambda: not c1.service.live.world.hosts["a"].connected)
        await c1.control.ForgetHost(pb.ForgetHostRequest(host="a", who="ann"))
        await b.wait_for(lambda: len(b.running) == 2)
        assert [h.status.host for h in (await hosts(c1))] == ["b"]

        returned = HollowAgent(c1.address, "a")
        returned.running, returned.generation = ran, followed
        async with returned:
            await returned.wait_for(lambda: not returned.running)
            assert returned.generation > followed
            change = pb.QuantityChange(type="web", kind=SET, quantity=4)
            await c1.control.Scale(pb.ScaleRequest(app="shop", changes=[change]))
            await returned.wait_for(lambda: len(returned.running) == 2)


async def hosts(c: RunningCoordinator) -> list[pb.HostView]:
    return list((await c.control.ListHosts(pb.ListHostsRequest())).hosts)


async def test_an_app_deleted_and_applied_again_at_once_runs_the_new_command(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    async with coordinator(store, tmp_path) as c1, HollowAgent(c1.address, "a") as a:
        await apply(c1, 1, "old-command")
        await a.wait_for(lambda: len(a.running) == 1)
        (old,) = a.running
        await c1.control.DeleteApp(pb.DeleteAppRequest(app="shop", who="ann"))
        await apply(c1, 1, "new-command")
        await a.wait_for(lambda: len(a.running) == 1 and old not in a.running)
        releases = [r for order in a.orders for r in order.releases]
        assert releases[-1].types[0].command == "new-command"


async def test_a_coordinator_cut_off_from_etcd_sends_its_agents_to_one_that_is_not(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    link = StoreLink(store)
    async with (
        coordinator(store, tmp_path, "c1"),
        coordinator(link, tmp_path, "c2") as c2,
        HollowAgent(c2.address, "a") as a,
    ):
        await eventually(lambda: len(c2.service.live.world.coordinators) == 2)
        link.cut = True
        await a.wait_for(lambda: a.refusal is not None)
        assert a.refusal is not None
        assert "c2 is cut off from etcd, c1 is not" in (a.refusal.details() or "")


async def test_when_nobody_has_etcd_the_agents_stay(tmp_path: Path) -> None:
    store = MemoryStore()
    async with (
        coordinator(store, tmp_path, "c1") as c1,
        coordinator(store, tmp_path, "c2") as c2,
        HollowAgent(c2.address, "a") as a,
    ):
        await eventually(lambda: len(c2.service.live.world.coordinators) == 2)
        store.unavailable = True
        await eventually(lambda: c2.service.lease.remaining_s() < -1.5)
        assert a.refusal is None
        store.unavailable = False
        await apply(c1, 1)
        await a.wait_for(lambda: len(a.running) == 1)


async def test_a_second_coordinator_of_the_same_id_is_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    async with coordinator(store, tmp_path, "c1"):
        (tmp_path / "other").mkdir()
        with pytest.raises(Exception, match="another coordinator is called 'c1'"):
            async with coordinator(store, tmp_path / "other", "c1") as twin:
                await twin.failed()


async def test_a_store_of_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    store = MemoryStore()
    newer = codec.encode(Cluster(id="c", schema_version=SCHEMA_VERSION + 1))
    await store.commit([], [Put(keys.cluster(), newer)])
    with pytest.raises(Exception, match="this coordinator knows 1; upgrade it"):
        async with coordinator(store, tmp_path) as c1:
            await c1.failed()
    left = await store.ranges([Span.prefix("")])
    assert [(item.key, item.value) for item in left.items] == [(keys.cluster(), newer)]


async def test_what_a_newer_coordinator_wrote_into_an_app_outlives_our_changes(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    async with coordinator(store, tmp_path) as c1, HollowAgent(c1.address, "a") as a:
        await apply(c1, 2)
        strange = b"\xfa\x7f\x03new"  # a field that only it knows
        for key in ("apps/shop", "hosts/a", "assignments/a"):
            await a.wait_for(lambda: len(a.running) == 2)
            item = await store.get(key)
            assert item is not None
            outcome = await store.commit([], [Put(key, item.value + strange)])
        await c1.service.mirror.wait_for(outcome.revision, 5.0)
        await apply(c1, 2)
        change = pb.QuantityChange(type="web", kind=pb.QuantityChange.KIND_ADD, quantity=1)
        await c1.control.Scale(pb.ScaleRequest(app="shop", changes=[change], who="ann"))
        await c1.control.SetHost(pb.SetHostRequest(host="a", labels={"x": "y"}, who="ann"))
        await a.wait_for(lambda: len(a.running) == 3)
        for key in ("apps/shop", "hosts/a", "assignments/a"):
            item = await store.get(key)
            assert item is not None
            assert strange in item.value, key


async def test_a_release_that_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    async with coordinator(store, tmp_path) as c1, HollowAgent(c1.address, "a") as a:
        await apply(c1, 2)
        await a.wait_for(lambda: len(a.running) == 2)
        outcome = await store.commit([], [Put(keys.release("shop", 1), b"\xff\xff")])
        await c1.service.mirror.wait_for(outcome.revision, 5.0)
        orders = len(a.orders)
        change = pb.QuantityChange(type="web", kind=SET, quantity=1)
        with pytest.raises(Exception, match="release"):
            await c1.control.Scale(pb.ScaleRequest(app="shop", changes=[change]))
        a.send(agent_pb2.AgentMessage(resend=agent_pb2.ResendAssignments()))
        await a.wait_for(lambda: len(a.orders) > orders)
        assert len(a.running) == 2


async def test_a_demand_beyond_all_room_neither_blocks_the_loop_nor_other_apps(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    async with coordinator(store, tmp_path) as c1, HollowAgent(c1.address, "a") as a:
        await apply(c1, 1_000_000)
        async with asyncio.timeout(20):
            await a.wait_for(lambda: len(a.running) == 5_000)
        assert c1.service.election.leading
        epoch = c1.service.election.epoch
        change = pb.QuantityChange(type="web", kind=SET, quantity=1)
        await c1.control.Scale(pb.ScaleRequest(app="shop", changes=[change]))
        async with asyncio.timeout(20):
            await a.wait_for(lambda: len(a.running) == 1)
        assert c1.service.election.epoch == epoch


async def test_a_follower_of_logs_hears_a_coordinator_that_comes_later(tmp_path: Path) -> None:
    store = MemoryStore()
    async with coordinator(store, tmp_path, "c1") as c1:
        call = c1.control.Logs(pb.LogsRequest(app="shop", tail_lines=10, follow=True))
        async with coordinator(store, tmp_path, "c2") as c2, HollowAgent(c2.address, "b") as b:
            await b.wait_for(lambda: bool(b.open_logs))
            assert b.open_logs[0].follow
        call.cancel()


async def test_logs_are_whole_when_a_host_is_called_like_a_coordinator(tmp_path: Path) -> None:
    store = MemoryStore()
    async with (
        coordinator(store, tmp_path, "c1") as c1,
        coordinator(store, tmp_path, "a") as c2,
        HollowAgent(c1.address, "a") as a,
    ):
        await eventually(lambda: len(c1.service.live.world.coordinators) == 2)
        assert c2.service.me.id == a.host
        call = c1.control.Logs(pb.LogsRequest(app="shop", tail_lines=10))
        await a.wait_for(lambda: bool(a.open_logs))
        line = agent_pb2.LogLine(app="shop", type="web", ordinal=1, host="a", text=b"x")

        async def pushes() -> AsyncIterator[agent_pb2.LogPush]:
            request_id = a.open_logs[0].request_id
            yield agent_pb2.LogPush(request_id=request_id, lines=[line])
            yield agent_pb2.LogPush(request_id=request_id, history_done=True)

        pushing = asyncio.create_task(a.stub.PushLogs(pushes()).wait_for_connection())
        texts = [line.text async for response in call for line in response.lines]
        await pushing
        assert texts == [b"x"]
