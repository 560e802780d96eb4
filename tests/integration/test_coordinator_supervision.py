"""A whole coordinator and instances that fail, end, use something or fit nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from eventually import eventually
from hollow_agent import HollowAgent
from running import RunningCoordinator, coordinator

from formation.model import Ability, Assignment, InstanceState, Usage
from formation.v1 import agent_pb2, types_pb2
from formation.v1 import control_pb2 as pb
from formation_coordinator.store import keys
from formation_coordinator.store.base import Put
from formation_coordinator.store.memory import MemoryStore
from formation_coordinator.usagefan import UsageFan, joined

BACKOFF, FINISHED, FAILED = InstanceState.BACKOFF, InstanceState.FINISHED, InstanceState.FAILED
SET = pb.QuantityChange.KIND_SET


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def c1(store: MemoryStore, tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    async with coordinator(store, tmp_path) as running:
        yield running


def web(**fields: object) -> types_pb2.ProcessType:
    message = types_pb2.ProcessType(name="web", command="true")
    for name, value in fields.items():
        if name == "requires":
            message.requires.append(str(value))
        else:
            setattr(message, name, value)
    return message


async def apply(
    c: RunningCoordinator, quantity: int, spec: types_pb2.ProcessType | None = None
) -> None:
    types = [spec if spec is not None else web()]
    request = pb.ApplyRequest(
        app="shop", types=types, formation={"web": quantity}, who="ann", workdir="/"
    )
    await c.control.Apply(request)


async def views(c: RunningCoordinator) -> pb.WatchUpdate:
    async for update in c.control.WatchInstances(pb.WatchInstancesRequest(app="shop", once=True)):
        return update
    raise AssertionError("no first update")


def only(agent: HollowAgent) -> Assignment:
    (item,) = agent.running.values()
    return item


async def running(agent: HollowAgent, quantity: int) -> None:
    await agent.wait_for(lambda: len(agent.running) == quantity)


async def seen(
    c: RunningCoordinator, agent: HollowAgent, state: InstanceState, uid: str = ""
) -> None:
    """Until the coordinator knows this state of everything there, or of just this instance."""

    def known() -> bool:
        observed = c.service.live.world.hosts[agent.host].observed()
        meant = [s for s in observed.values() if uid in ("", s.uid)]
        return bool(meant) and all(s.state is state for s in meant)

    await eventually(known)


# ---------------------------------------------------------------------- hops


async def test_a_crash_looping_instance_is_tried_on_another_host(c1: RunningCoordinator) -> None:
    async with HollowAgent(c1.address, "a") as a, HollowAgent(c1.address, "b") as b:
        await apply(c1, 1)
        await running(a, 1)
        a.tell(only(a).uid, state=BACKOFF, failures=5, crash_looping=True)
        await running(b, 1)
        await a.wait_for(lambda: not a.running)
        assert (only(b).failures, only(b).avoided_hosts) == (5, ("a",))
        b.tell(only(b).uid, state=BACKOFF, failures=10, crash_looping=True)
        await seen(c1, b, BACKOFF)
        (view,) = (await views(c1)).changed
        assert (view.host, view.status.reason) == ("b", "it kept failing on a")


# ---------------------------------------------------------------------- retry


async def retry(c: RunningCoordinator, type_name: str = "", ordinal: int = 0) -> pb.RetryResponse:
    response: pb.RetryResponse = await c.control.Retry(
        pb.RetryRequest(app="shop", type=type_name, ordinal=ordinal, who="ann")
    )
    return response


@pytest.mark.parametrize("state", [BACKOFF, FINISHED, FAILED])
async def test_a_retry_reaches_the_agent_as_the_same_stay_with_a_grown_mark(
    c1: RunningCoordinator, state: InstanceState
) -> None:
    async with HollowAgent(c1.address, "a") as a:
        await apply(c1, 2)
        await running(a, 2)
        first, second = sorted(a.running.values(), key=lambda item: item.slot)
        a.tell(first.uid, state=state)
        await seen(c1, a, state, first.uid)
        response = await retry(c1, "web", 1)
        assert [item.uid for item in response.retried] == [first.uid]
        await a.wait_for(lambda: a.running[first.uid].retry_mark == 1)
        assert a.orders[-1].kind == agent_pb2.Assignments.KIND_INCREMENTAL
        assert [item.uid for item in a.orders[-1].instances] == [first.uid]
        assert not a.orders[-1].removed_uids
        assert a.running[second.uid] == second
        (record, *_) = (await c1.control.ListAudit(pb.ListAuditRequest())).records
        assert (record.who, record.action, record.detail) == ("ann", "retry", "web.1")


async def test_a_retry_of_a_type_names_those_that_waited_and_forgets_single_marks(
    c1: RunningCoordinator,
) -> None:
    async with HollowAgent(c1.address, "a", state=BACKOFF) as a:
        await apply(c1, 3)
        await running(a, 3)
        await seen(c1, a, BACKOFF)
        for ordinal in (1, 2, 2):
            await retry(c1, "web", ordinal)
        response = await retry(c1, "web")
        assert sorted(item.ordinal for item in response.retried) == [1, 2, 3]
        await eventually(lambda: c1.service.live.world.apps["shop"].retry_marks == {"web": 3})
        await a.wait_for(lambda: {item.retry_mark for item in a.running.values()} == {3})


@pytest.mark.parametrize(
    ("type_name", "ordinal", "code", "words"),
    [
        ("web", 1, "FAILED_PRECONDITION", "web.1 is healthy: nothing to retry"),
        ("", 0, "FAILED_PRECONDITION", "shop is 1 healthy, 1 unready: nothing to retry"),
        ("web", 7, "NOT_FOUND", "app shop has no web.7; see formctl ps"),
        ("wob", 0, "NOT_FOUND", "app shop has no type 'wob'; it has web"),
    ],
)
async def test_what_needs_no_retry_is_refused_in_one_line(
    c1: RunningCoordinator, type_name: str, ordinal: int, code: str, words: str
) -> None:
    async with HollowAgent(c1.address, "a") as a:
        await apply(c1, 2)
        await running(a, 2)
        second = max(a.running.values(), key=lambda item: item.slot)
        a.tell(second.uid, state=InstanceState.UNREADY)
        await seen(c1, a, InstanceState.UNREADY, second.uid)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await retry(c1, type_name, ordinal)
        assert caught.value.code() is grpc.StatusCode[code]
        assert caught.value.details() == words
        assert c1.service.live.world.apps["shop"].retry_marks == {}


# ---------------------------------------------------------------------- what is over


async def test_what_has_finished_counts_as_wanted_and_outlives_its_agents_goodbye(
    c1: RunningCoordinator,
) -> None:
    async with HollowAgent(c1.address, "a", state=FINISHED) as a, HollowAgent(c1.address, "b") as b:
        await apply(c1, 1)
        await running(a, 1)
        await seen(c1, a, FINISHED)
        (app,) = (await c1.control.ListApps(pb.ListAppsRequest())).apps
        assert (app.healthy, app.wanted) == (1, 1)
        gone = agent_pb2.StatusBatch(gone_uids=list(a.running))  # all is stopped before it leaves
        a.send(agent_pb2.AgentMessage(status=gone))
        a.send(agent_pb2.AgentMessage(goodbye=agent_pb2.Goodbye()))

        def left() -> bool:
            entry = c1.service.live.world.hosts["a"]
            return not entry.connected and entry.status is not None and entry.status.departed

        await eventually(left)
        change = pb.QuantityChange(type="web", kind=SET, quantity=2)
        await c1.control.Scale(pb.ScaleRequest(app="shop", changes=[change]))
        await b.wait_for(lambda: bool(b.running))
        assert [item.slot.short for item in b.running.values()] == ["web.2"]
        (app,) = (await c1.control.ListApps(pb.ListAppsRequest())).apps
        assert app.healthy == 2


# ---------------------------------------------------------------------- what fits where


async def test_hosts_tell_what_they_cannot_enforce_and_get_nothing_that_requires_it(
    c1: RunningCoordinator,
) -> None:
    reason = "no memory controller in /sys/fs/cgroup"
    async with (
        HollowAgent(c1.address, "a", abilities=[Ability.CGROUP], inability=reason),
        HollowAgent(c1.address, "b", abilities=[Ability.CGROUP, Ability.MEMORY]) as b,
    ):
        found = (await c1.control.ListHosts(pb.ListHostsRequest())).hosts
        assert [list(h.status.abilities) for h in found] == [["cgroup"], ["cgroup", "memory"]]
        assert [h.status.inability for h in found] == [reason, ""]
        await apply(c1, 3, web(requires="memory", port=8080))
        await running(b, 1)
        pending = [v.status.reason for v in (await views(c1)).changed if not v.host]
        assert len(pending) == 2
        assert pending[0] == (
            f"no host: a: cannot enforce memory ({reason}); b: port 8080 is taken by shop/web.1"
        )


async def test_a_release_that_a_newer_version_wrote_is_left_alone_and_passed_on(
    c1: RunningCoordinator, store: MemoryStore
) -> None:
    async with HollowAgent(c1.address, "a") as a:
        await apply(c1, 2)
        await running(a, 2)
        newer = types_pb2.Release(app="shop", number=2, types=[web(restart="sometimes")])
        app = types_pb2.App(name="shop", formation={"web": 2}, release=2, latest_release=2)
        document = await store.get(keys.assignments("a"))
        assert document is not None
        orders = types_pb2.AssignmentDocument.FromString(document.value)
        orders.generation += 1
        left, moved = orders.bundles[0], orders.bundles.add()
        moved.CopyFrom(left)
        left.ordinals[:], moved.ordinals[:] = [2], [1]
        moved.release, moved.stem = 2, "newer"
        puts = [
            Put(keys.release("shop", 2), newer.SerializeToString()),
            Put(keys.app("shop"), app.SerializeToString()),
            Put(keys.assignments("a"), orders.SerializeToString()),
        ]
        await store.commit([], puts)
        await a.wait_for(lambda: "web.1-newer" in a.running)
        assert a.orders[-1].releases[0].types[0].restart == "sometimes"
        assert len(a.running) == 2
        note = (await views(c1)).note
        why = "process type web: 'sometimes' is unknown to this version"
        assert note == f"shop is left alone: releases/shop/2: {why}; apply it again"
        with pytest.raises(grpc.aio.AioRpcError, match="unknown to this version; apply it again"):
            await c1.control.Restart(pb.RestartRequest(app="shop"))
        await apply(c1, 2)
        await a.wait_for(lambda: {item.release for item in a.running.values()} == {3})


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"port": 70_000}, "web: bad port"),
        ({"nice": 30}, "web: bad nice"),
        ({"umask": 0o1777}, "web: bad umask"),
        ({"watchdog_s": -1.0}, "web: bad watchdog"),
        ({"workdir": "../x"}, "web: bad workdir"),
        ({"user": "a\0"}, "web: a NUL byte in the command, user, group or workdir"),
        ({"restart": "sometimes"}, "process type web: 'sometimes' is unknown to this version"),
    ],
)
async def test_a_type_that_cannot_be_is_refused(
    c1: RunningCoordinator, fields: dict[str, object], problem: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await apply(c1, 1, web(**fields))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").removeprefix("app shop: ") == problem


# ---------------------------------------------------------------------- usage


async def usage(c: RunningCoordinator, app: str = "") -> pb.UsageResponse:
    response: pb.UsageResponse = await c.control.Usage(pb.UsageRequest(app=app))
    return response


async def test_usage_comes_from_every_host_also_through_the_other_coordinator(
    store: MemoryStore, tmp_path: Path
) -> None:
    async with (
        coordinator(store, tmp_path, "c1") as c1,
        coordinator(store, tmp_path, "c2") as c2,
        HollowAgent(c1.address, "a") as a,
        HollowAgent(c2.address, "b") as b,
    ):
        await eventually(lambda: len(c1.service.live.world.coordinators) == 2)
        await apply(c1, 2)
        for agent in (a, b):
            await running(agent, 1)
            agent.usage = {agent.host: Usage(uid=agent.host, memory_bytes=5, cpu_share=0.5)}
            await seen(c1, agent, InstanceState.HEALTHY)
            await seen(c2, agent, InstanceState.HEALTHY)
        for c in (c1, c2):
            response = await usage(c, "shop")
            assert sorted(item.uid for item in response.instances) == ["a", "b"]
            assert {(i.memory_bytes, i.cpu_share) for i in response.instances} == {(5, 0.5)}
            assert not response.notices
        assert {sample.app for sample in a.samples} == {"shop"}
        assert len(a.samples) == 2


async def test_who_does_not_answer_or_is_silent_is_a_notice(c1: RunningCoordinator) -> None:
    async with HollowAgent(c1.address, "a") as a, HollowAgent(c1.address, "b") as b:
        c = await HollowAgent(c1.address, "c").__aenter__()
        await apply(c1, 3)
        for agent in (a, b, c):
            await running(agent, 1)
            await seen(c1, agent, InstanceState.HEALTHY)
        a.usage = {"a": Usage(uid="a")}
        b.usage = None
        await c.hang_up()
        await eventually(lambda: not c1.service.live.world.hosts["c"].connected)
        service = c1.service
        held = service.sessions.held.values
        fan = UsageFan(
            held=held,
            desk=service.desk,
            live=service.live,
            me=service.me,
            dialler=service.dialler,
            answer_s=0.2,
        )
        response = await fan.read(pb.UsageRequest())
        assert [item.uid for item in response.instances] == ["a"]
        assert list(response.notices) == [
            "host b: no answer within 0.2 s",
            "host c: silent, so what it uses is not known",
        ]


async def test_an_answer_that_comes_too_late_or_unasked_is_dropped(c1: RunningCoordinator) -> None:
    async with HollowAgent(c1.address, "a") as a:
        report = agent_pb2.UsageReport(request_id="nobody's")
        a.send(agent_pb2.AgentMessage(usage=report))
        await apply(c1, 1)
        await running(a, 1)


async def test_a_coordinator_that_is_gone_is_a_notice(store: MemoryStore, tmp_path: Path) -> None:
    async with coordinator(store, tmp_path, "c1") as c1:
        ghost = types_pb2.Coordinator(id="c9", address=f"unix:{tmp_path}/nobody.sock")
        await store.commit([], [Put(keys.coordinator("c9"), ghost.SerializeToString())])
        await eventually(lambda: "c9" in c1.service.live.world.coordinators)
        async with asyncio.timeout(10):
            (notice,) = (await usage(c1)).notices
        assert notice.startswith("coordinator c9: ")
        assert notice.endswith("; figures of its hosts are missing")


async def test_usage_of_an_app_that_is_not_there_names_the_known_ones(
    c1: RunningCoordinator,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="no app 'nope'; known apps: none"):
        await usage(c1, "nope")


def test_an_answer_is_cut_to_what_a_message_may_hold_and_says_so() -> None:
    items = [types_pb2.InstanceUsage(uid=f"u{n}", cpu_s=1.0) for n in range(10)]
    whole = joined([pb.UsageResponse(instances=items, notices=["host b: no answer"])])
    assert len(whole.instances) == 10
    cut = joined([pb.UsageResponse(instances=items[:5]), whole], bytes_max=100)
    assert 0 < len(cut.instances) < 10
    left_out = 15 - len(cut.instances)
    assert list(cut.notices) == [
        "host b: no answer",
        f"too many for one answer: {left_out} instances left out; name an app",
    ]
    assert cut.ByteSize() < 300
