"""A whole coordinator over the in-memory store, with hollow agents on real streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import grpc
import pytest
from eventually import eventually
from hollow_agent import HollowAgent
from running import RunningCoordinator, coordinator

from formation.model import InstanceState
from formation.v1 import agent_pb2, types_pb2
from formation.v1 import control_pb2 as pb
from formation_coordinator.store.memory import MemoryStore

DEADLINE_S = 10.0
SET, SUBTRACT = pb.QuantityChange.KIND_SET, pb.QuantityChange.KIND_SUBTRACT


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def c1(store: MemoryStore, tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    async with coordinator(store, tmp_path) as running:
        yield running


def apply_request(quantities: Mapping[str, int], **fields: str) -> pb.ApplyRequest:
    types = [types_pb2.ProcessType(name=name, command="true") for name in quantities]
    return pb.ApplyRequest(
        app="shop", types=types, formation=quantities, who="ann", env=fields, workdir="/"
    )


async def instances(c: RunningCoordinator, app: str = "shop") -> list[pb.InstanceView]:
    call = c.control.WatchInstances(pb.WatchInstancesRequest(app=app, once=True))
    async for update in call:
        return list(update.changed)
    raise AssertionError("no first update")


async def test_an_app_is_placed_evenly_and_seen_healthy(c1: RunningCoordinator) -> None:
    async with HollowAgent(c1.address, "a") as a, HollowAgent(c1.address, "b") as b:
        response = await c1.control.Apply(apply_request({"web": 4}))
        assert response.release.number == 1
        await a.wait_for(lambda: len(a.running) == 2)
        await b.wait_for(lambda: len(b.running) == 2)
        call = c1.control.WatchInstances(
            pb.WatchInstancesRequest(app="shop", min_revision=response.revision)
        )
        healthy: set[str] = set()
        async with asyncio.timeout(DEADLINE_S):
            async for update in call:
                for view in update.changed:
                    if view.status.state == types_pb2.INSTANCE_STATE_HEALTHY and view.current:
                        healthy.add(f"{view.status.type}.{view.status.ordinal}")
                if len(healthy) == 4:
                    break
        call.cancel()
        assert healthy == {"web.1", "web.2", "web.3", "web.4"}


async def test_orders_after_the_first_are_incremental_and_carry_their_releases(
    c1: RunningCoordinator,
) -> None:
    async with HollowAgent(c1.address, "a") as a:
        await c1.control.Apply(apply_request({"web": 1}))
        await a.wait_for(lambda: len(a.running) == 1)
        change = pb.QuantityChange(type="web", kind=pb.QuantityChange.KIND_ADD, quantity=1)
        await c1.control.Scale(pb.ScaleRequest(app="shop", changes=[change], who="ann"))
        await a.wait_for(lambda: len(a.running) == 2)
        first, second = a.orders
        assert first.kind == agent_pb2.Assignments.KIND_COMPLETE
        assert second.kind == agent_pb2.Assignments.KIND_INCREMENTAL
        assert (second.applies_to, second.results_in) == (1, 2)
        assert [item.ordinal for item in second.instances] == [2]
        assert [r.number for r in second.releases] == [1]


async def test_an_agent_that_asks_again_gets_everything(c1: RunningCoordinator) -> None:
    async with HollowAgent(c1.address, "a") as a:
        await c1.control.Apply(apply_request({"web": 2}))
        await a.wait_for(lambda: len(a.running) == 2)
        seen = len(a.orders)
        a.send(agent_pb2.AgentMessage(resend=agent_pb2.ResendAssignments()))
        await a.wait_for(lambda: len(a.orders) > seen)
        assert a.orders[-1].kind == agent_pb2.Assignments.KIND_COMPLETE
        assert len(a.orders[-1].instances) == 2


async def test_a_lost_hosts_instances_move_and_its_surplus_goes_when_it_returns(
    c1: RunningCoordinator,
) -> None:
    async with HollowAgent(c1.address, "b") as b:
        a = await HollowAgent(c1.address, "a").__aenter__()
        await c1.control.Apply(apply_request({"web": 2}))
        await a.wait_for(lambda: len(a.running) == 1)
        await b.wait_for(lambda: len(b.running) == 1)
        left_running = dict(a.running)
        await a.hang_up()
        await b.wait_for(lambda: len(b.running) == 2)

        returned = HollowAgent(c1.address, "a")
        returned.running = left_running
        async with returned:
            await b.wait_for(lambda: len(b.running) == 1)  # the spread is even again
            kept = [item.slot.ordinal for x in (returned, b) for item in x.running.values()]
            assert sorted(kept) == [1, 2]


async def test_a_name_that_a_living_agent_has_is_refused(c1: RunningCoordinator) -> None:
    async with HollowAgent(c1.address, "a"):
        thief = HollowAgent(c1.address, "a", agent_id="somebody-else")
        await thief.dial()
        await thief.wait_for(lambda: thief.refusal is not None)
        await thief.hang_up()
        assert thief.refusal is not None
        assert thief.refusal.code() is grpc.StatusCode.ALREADY_EXISTS
        assert "'a' is taken by a living agent" in (thief.refusal.details() or "")


async def test_a_newer_session_of_the_same_agent_takes_over(c1: RunningCoordinator) -> None:
    async with HollowAgent(c1.address, "a") as old, HollowAgent(c1.address, "a") as new:
        await old.wait_for(lambda: old.refusal is not None)
        await c1.control.Apply(apply_request({"web": 1}))
        await new.wait_for(lambda: len(new.running) == 1)


async def test_an_agent_of_another_cluster_is_refused(c1: RunningCoordinator) -> None:
    stranger = HollowAgent(c1.address, "a", cluster_id="not-this-one")
    await stranger.dial()
    await stranger.wait_for(lambda: stranger.refusal is not None)
    await stranger.hang_up()
    assert stranger.refusal is not None
    assert stranger.refusal.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_applying_the_same_again_makes_no_release(c1: RunningCoordinator) -> None:
    first = await c1.control.Apply(apply_request({"web": 1}))
    again = await c1.control.Apply(apply_request({"web": 9}))
    assert (first.unchanged, again.unchanged) == (False, True)
    assert dict(again.app.formation) == {"web": 1}


async def test_a_release_never_changes_a_quantity(c1: RunningCoordinator) -> None:
    await c1.control.Apply(apply_request({"web": 3}))
    change = pb.QuantityChange(type="web", kind=pb.QuantityChange.KIND_SET, quantity=5)
    await c1.control.Scale(pb.ScaleRequest(app="shop", changes=[change]))
    response = await c1.control.Apply(apply_request({"web": 1, "worker": 2}, COLOR="red"))
    assert response.release.number == 2
    assert dict(response.app.formation) == {"web": 5, "worker": 2}


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (pb.QuantityChange(type="wbe", kind=SET, quantity=1), "INVALID_ARGUMENT", "web"),
        (pb.QuantityChange(type="web", kind=SUBTRACT, quantity=9), "INVALID_ARGUMENT", "web"),
        (pb.QuantityChange(type="web", kind=SET, quantity=2_000_000), "INVALID_ARGUMENT", "web"),
    ],
)
async def test_a_bad_change_is_refused_whole(
    c1: RunningCoordinator, change: pb.QuantityChange, code: str, words: str
) -> None:
    await c1.control.Apply(apply_request({"web": 1}))
    good = pb.QuantityChange(type="web", kind=pb.QuantityChange.KIND_SET, quantity=3)
    changes = [good, change] if change.type != "web" else [change]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await c1.control.Scale(pb.ScaleRequest(app="shop", changes=changes))
    assert caught.value.code() is grpc.StatusCode[code]
    assert words in (caught.value.details() or "")
    apps = await c1.control.ListApps(pb.ListAppsRequest())
    assert dict(apps.apps[0].app.formation) == {"web": 1}


async def test_an_unknown_app_names_the_known_ones(c1: RunningCoordinator) -> None:
    await c1.control.Apply(apply_request({"web": 1}))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await c1.control.Scale(pb.ScaleRequest(app="shoop"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "no app 'shoop'; there is shop"


async def test_an_app_too_large_for_etcd_is_refused_in_one_line(c1: RunningCoordinator) -> None:
    request = apply_request({"web": 1}, HUGE="x" * 2_000_000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await c1.control.Apply(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "etcd takes at most" in (caught.value.details() or "")
    assert not (await c1.control.ListApps(pb.ListAppsRequest())).apps


async def test_config_values_are_never_shown(c1: RunningCoordinator) -> None:
    await c1.control.Apply(apply_request({"web": 1}, SECRET="canary-7f3a"))
    apps = await c1.control.ListApps(pb.ListAppsRequest())
    releases = await c1.control.ListReleases(pb.ListReleasesRequest(app="shop"))
    audit = await c1.control.ListAudit(pb.ListAuditRequest())
    shown = str(apps) + str(releases) + str(audit)
    assert "SECRET" in shown
    assert "canary-7f3a" not in shown


async def test_a_restart_of_one_slot_gives_it_a_new_stay(c1: RunningCoordinator) -> None:
    async with HollowAgent(c1.address, "a") as a:
        await c1.control.Apply(apply_request({"web": 2}))
        await a.wait_for(lambda: len(a.running) == 2)
        before = {item.slot.ordinal: uid for uid, item in a.running.items()}
        request = pb.RestartRequest(app="shop", type="web", ordinal=2, who="ann")
        response = await c1.control.Restart(request)
        assert [item.uid for item in response.replaced] == [before[2]]
        await a.wait_for(lambda: before[2] not in a.running and len(a.running) == 2)
        after = {item.slot.ordinal: uid for uid, item in a.running.items()}
        assert after[1] == before[1]


async def test_unplaceable_instances_say_why_for_every_host(c1: RunningCoordinator) -> None:
    await c1.control.Apply(apply_request({"web": 1}))
    (view,) = await instances(c1)
    assert view.status.state == types_pb2.INSTANCE_STATE_PENDING
    assert view.status.reason == "no host has joined"


async def test_everything_that_changed_the_cluster_is_audited(c1: RunningCoordinator) -> None:
    await c1.control.Apply(apply_request({"web": 1}))
    change = pb.QuantityChange(type="web", kind=pb.QuantityChange.KIND_SET, quantity=2)
    await c1.control.Scale(pb.ScaleRequest(app="shop", changes=[change], who="bob"))
    await c1.control.DeleteApp(pb.DeleteAppRequest(app="shop", who="eve"))
    records = (await c1.control.ListAudit(pb.ListAuditRequest())).records
    assert [(r.who, r.action, r.before, r.after) for r in records] == [
        ("eve", "delete", "", ""),
        ("bob", "scale", "web=1", "web=2"),
        ("ann", "apply", "", "v1"),
    ]


async def test_a_deleted_apps_instances_go_and_its_name_can_be_used_again(
    c1: RunningCoordinator,
) -> None:
    async with HollowAgent(c1.address, "a") as a:
        await c1.control.Apply(apply_request({"web": 1}))
        await a.wait_for(lambda: len(a.running) == 1)
        await c1.control.DeleteApp(pb.DeleteAppRequest(app="shop", who="ann"))
        await a.wait_for(lambda: not a.running)
        response = await c1.control.Apply(apply_request({"web": 1}))
        assert response.release.number == 2  # no agent may take an old v1 for the new one


async def test_a_living_host_cannot_be_forgotten_and_a_dead_one_can(
    c1: RunningCoordinator,
) -> None:
    a = await HollowAgent(c1.address, "a").__aenter__()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await c1.control.ForgetHost(pb.ForgetHostRequest(host="a", who="ann"))
    assert "host a is alive" in (caught.value.details() or "")
    await a.hang_up()
    await eventually(lambda: not c1.service.live.world.hosts["a"].connected)
    await c1.control.ForgetHost(pb.ForgetHostRequest(host="a", who="ann"))
    await eventually(lambda: "a" not in c1.service.live.world.hosts)


async def test_goodbye_moves_the_instances_without_waiting(
    store: MemoryStore, tmp_path: Path
) -> None:
    async with (
        coordinator(store, tmp_path, replace_after_s=3600.0) as c1,
        HollowAgent(c1.address, "a") as a,
        HollowAgent(c1.address, "b") as b,
    ):
        await c1.control.Apply(apply_request({"web": 2}))
        await b.wait_for(lambda: len(b.running) == 1)
        a.send(agent_pb2.AgentMessage(goodbye=agent_pb2.Goodbye()))
        await b.wait_for(lambda: len(b.running) == 2)


async def test_two_coordinators_share_one_cluster_and_leadership_is_handed_over(
    store: MemoryStore, tmp_path: Path
) -> None:
    async with (
        coordinator(store, tmp_path, "c1") as c1,
        coordinator(store, tmp_path, "c2") as c2,
        HollowAgent(c2.address, "a") as a,
    ):
        await eventually(lambda: c1.service.election.leading or c2.service.election.leading)
        leader, other = (c1, c2) if c1.service.election.leading else (c2, c1)
        await other.control.Apply(apply_request({"web": 1}))  # a follower takes writes
        await a.wait_for(lambda: len(a.running) == 1)
        if leader is c1:  # the agent sits on c2: take c1 away
            c1.stop.set()
            await eventually(lambda: c2.service.election.leading)
            change = pb.QuantityChange(type="web", kind=pb.QuantityChange.KIND_SET, quantity=2)
            await c2.control.Scale(pb.ScaleRequest(app="shop", changes=[change]))
            await a.wait_for(lambda: len(a.running) == 2)


async def test_a_status_reaches_etcd_and_the_other_coordinator(
    store: MemoryStore, tmp_path: Path
) -> None:
    async with (
        coordinator(store, tmp_path, "c1") as c1,
        coordinator(store, tmp_path, "c2") as c2,
        HollowAgent(c2.address, "a") as a,
    ):
        await c1.control.Apply(apply_request({"web": 1}))
        await a.wait_for(lambda: len(a.running) == 1)
        a.say(state=InstanceState.BACKOFF)

        def seen() -> bool:
            entry = c1.service.live.world.hosts["a"]
            return any(s.state is InstanceState.BACKOFF for s in entry.observed().values())

        await eventually(seen)


async def test_logs_come_from_every_host_also_through_the_other_coordinator(
    store: MemoryStore, tmp_path: Path
) -> None:
    async with (
        coordinator(store, tmp_path, "c1") as c1,
        coordinator(store, tmp_path, "c2") as c2,
        HollowAgent(c1.address, "a") as a,
        HollowAgent(c2.address, "b") as b,
    ):
        await eventually(lambda: len(c1.service.live.world.coordinators) == 2)
        call = c1.control.Logs(pb.LogsRequest(app="shop", tail_lines=10))
        pushing = [asyncio.create_task(push_one_line(agent)) for agent in (a, b)]
        lines, done = [], 0
        async with asyncio.timeout(DEADLINE_S):
            async for response in call:
                lines += [line.text for line in response.lines]
                done += response.history_done
        await asyncio.gather(*pushing)
        assert sorted(lines) == [b"from a", b"from b"]
        assert done == 1


async def test_only_hosts_that_are_wanted_are_asked_and_are_told_what_is_wanted_of_them(
    store: MemoryStore, tmp_path: Path
) -> None:
    async with (
        coordinator(store, tmp_path, "c1") as c1,
        coordinator(store, tmp_path, "c2") as c2,
        HollowAgent(c1.address, "a") as a,
        HollowAgent(c2.address, "b") as b,
        HollowAgent(c2.address, "c") as c,
    ):
        await eventually(lambda: len(c1.service.live.world.coordinators) == 2)
        choice = agent_pb2.LogChoice(
            targets=[agent_pb2.LogTarget(type="web", ordinal=2)], not_before_us=7, text="x"
        )
        request = pb.LogsRequest(app="shop", tail_lines=10, choice=choice, hosts=["b"])
        call = c1.control.Logs(request)
        pushing = asyncio.create_task(push_one_line(b))
        async with asyncio.timeout(DEADLINE_S):
            lines = [line.text async for response in call for line in response.lines]
        await pushing
        assert lines == [b"from b"]
        assert b.open_logs[0].choice == choice
        assert not a.open_logs
        assert not c.open_logs


async def test_a_host_that_comes_back_during_a_follow_is_asked_for_what_was_missed(
    c1: RunningCoordinator,
) -> None:
    call = c1.control.Logs(pb.LogsRequest(app="shop", tail_lines=10, follow=True))
    async with asyncio.timeout(DEADLINE_S):
        assert (await anext(aiter(call))).history_done  # nobody was there to be asked
    a = await HollowAgent(c1.address, "a").__aenter__()
    early, one, two = (
        agent_pb2.LogLine(app="shop", type="web", ordinal=1, host="a", at_us=at_us, text=b"x")
        for at_us in (66, 77, 77)
    )

    async def pushes(request_id: str) -> AsyncIterator[agent_pb2.LogPush]:
        yield agent_pb2.LogPush(request_id=request_id, history_done=True, at_us=55)
        yield agent_pb2.LogPush(request_id=request_id, lines=[early, one])
        yield agent_pb2.LogPush(request_id=request_id, lines=[two])

    await a.wait_for(lambda: bool(a.open_logs))
    assert (a.open_logs[0].tail_lines, a.open_logs[0].since_us) == (0, 0)
    assert not a.open_logs[0].seen
    pushing = asyncio.create_task(
        a.stub.PushLogs(pushes(a.open_logs[0].request_id)).wait_for_connection()
    )
    async with asyncio.timeout(DEADLINE_S):
        lines = 0
        async for response in call:
            lines += len(response.lines)
            if lines == 3:
                break
    await pushing
    await a.hang_up()
    async with HollowAgent(c1.address, "a") as back:
        await back.wait_for(lambda: bool(back.open_logs))
        (place,) = back.open_logs[0].seen
        assert (place.app, place.type, place.ordinal) == ("shop", "web", 1)
        assert (place.at_us, place.lines) == (77, 2)
        assert back.open_logs[0].since_us == 55
        assert back.open_logs[0].tail_lines > 0
    call.cancel()


async def push_one_line(agent: HollowAgent) -> None:
    """What a real agent does when asked for its logs."""
    await agent.wait_for(lambda: bool(agent.open_logs))
    request_id = agent.open_logs[0].request_id
    line = agent_pb2.LogLine(app="shop", type="web", ordinal=1, text=f"from {agent.host}".encode())

    async def pushes() -> AsyncIterator[agent_pb2.LogPush]:
        yield agent_pb2.LogPush(request_id=request_id, lines=[line])
        yield agent_pb2.LogPush(request_id=request_id, history_done=True)

    await agent.stub.PushLogs(pushes())


async def test_a_store_that_is_away_leaves_instances_alone_and_says_so(
    c1: RunningCoordinator, store: MemoryStore
) -> None:
    async with HollowAgent(c1.address, "a") as a:
        await c1.control.Apply(apply_request({"web": 2}))
        await a.wait_for(lambda: len(a.running) == 2)
        store.unavailable = True
        change = pb.QuantityChange(type="web", kind=pb.QuantityChange.KIND_SET, quantity=0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await c1.control.Scale(pb.ScaleRequest(app="shop", changes=[change]))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len(a.running) == 2
        assert len(await instances(c1)) == 2  # reads go on
        store.unavailable = False
        await c1.control.Scale(pb.ScaleRequest(app="shop", changes=[change]))
        await a.wait_for(lambda: not a.running)


async def test_an_agent_gets_a_lease_when_it_follows_what_its_session_began_with(
    c1: RunningCoordinator,
) -> None:
    """Who cannot write its orders down may still list what runs elsewhere by now."""
    async with HollowAgent(c1.address, "a") as a:
        await c1.control.Apply(apply_request({"web": 1}))
        await a.wait_for(lambda: len(a.running) == 1)
        a.beat(1)
        await a.wait_for(lambda: a.acknowledged == [1])
        older, running = a.generation - 1, dict(a.running)
    async with HollowAgent(c1.address, "a", cluster_id=a.cluster_id) as again:
        again.generation, again.obeys = older, False
        await again.wait_for(lambda: bool(again.orders))
        again.beat(1)
        again.say()
        again.beat(2)
        again.running = running
        again.generation = again.orders[-1].results_in
        again.say()
        await again.wait_for(lambda: again.acknowledged == [2])
