"""Backup, restore and the operator's word over the API, with hollow agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from eventually import eventually
from hollow_agent import HollowAgent
from running import RunningCoordinator, coordinator

from formation.v1 import control_pb2 as pb
from formation.v1 import types_pb2
from formation_coordinator import timeline
from formation_coordinator.store.base import StoreUnavailable
from formation_coordinator.store.memory import MemoryStore


def shop(command: str = "true", **formation: int) -> pb.ApplyRequest:
    rules = types_pb2.RolloutRules(
        surge=types_pb2.Share(count=1), healthy_s=0.1, deadline_s=60, rollback=True
    )
    spec = types_pb2.ProcessType(name="web", command=command, rollout=rules)
    return pb.ApplyRequest(app="shop", types=[spec], formation=formation, who="ann", workdir="/")


def scale(quantity: int) -> pb.ScaleRequest:
    change = pb.QuantityChange(type="web", kind=pb.QuantityChange.KIND_SET, quantity=quantity)
    return pb.ScaleRequest(app="shop", changes=[change], who="ann")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@asynccontextmanager
async def running(
    store: MemoryStore, directory: Path, name: str = "c1"
) -> AsyncIterator[tuple[RunningCoordinator, HollowAgent]]:
    async with (
        coordinator(store, directory, name) as c1,
        HollowAgent(c1.address, "a") as agent,
    ):
        yield c1, agent


@pytest.fixture
async def both(
    store: MemoryStore, tmp_path: Path
) -> AsyncIterator[tuple[RunningCoordinator, HollowAgent]]:
    """With two instances of web on one host."""
    async with running(store, tmp_path) as (c1, agent):
        await c1.control.Apply(shop(web=2))
        await agent.wait_for(lambda: len(agent.running) == 2)
        yield c1, agent


async def backup(c1: RunningCoordinator) -> bytes:
    return b"".join([part.data async for part in c1.control.Backup(pb.BackupRequest())])


async def restore(c1: RunningCoordinator, data: bytes, **options: Any) -> pb.RestoreResponse:
    first = pb.RestorePart(options=pb.RestoreOptions(who="ann", **options))
    half = len(data) // 2
    parts = [first, pb.RestorePart(data=data[:half]), pb.RestorePart(data=data[half:])]
    answer: pb.RestoreResponse = await c1.control.Restore(iter(parts))
    return answer


async def note(c1: RunningCoordinator) -> str:
    answer: pb.ListHostsResponse = await c1.control.ListHosts(pb.ListHostsRequest())
    return answer.note


async def refused(call: Any, code: grpc.StatusCode = grpc.StatusCode.FAILED_PRECONDITION) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code
    return str(caught.value.details())


async def test_a_lost_etcd_is_made_good_from_a_backup(
    both: tuple[RunningCoordinator, HollowAgent], tmp_path: Path
) -> None:
    """A new and empty etcd, and agents that belong to the cluster that was."""
    c1, old = both
    data = await backup(c1)
    await c1.control.Apply(shop("false"))  # v2, which the backup does not know
    await old.wait_for(lambda: [item.release for item in old.running.values()] == [2, 2])
    async with coordinator(MemoryStore(), tmp_path, "c2") as c2:
        answer = await restore(c2, data)
        assert [(a.name, a.before, a.after) for a in answer.apps] == [("shop", "", "v1 web=2")]
        assert answer.hosts == 1
        assert (await note(c2)).startswith("a backup of ")
        agent = HollowAgent(c2.address, "a", cluster_id=answer.cluster_id)
        agent.running, agent.generation = dict(old.running), old.generation
        before = dict(agent.running)
        async with agent:
            await eventually(lambda: agent.ahead, what="the older document to be refused")
            await c2.control.Scale(scale(1))
            await asyncio.sleep(0.5)
            assert agent.running == before, "nothing is stopped without a word"
            plan = await c2.control.Plan(pb.PlanRequest(reconcile=True))
            assert dict(plan.totals) == {"stop": 1, "replace": 1}
            word = await c2.control.Reconcile(pb.ReconcileRequest(who="ann"))
            assert word.cluster_epoch == 1
            await agent.wait_for(lambda: [i.release for i in agent.running.values()] == [1])
            assert await note(c2) == ""
            again = await c2.control.Apply(shop("echo"))
            assert again.release.number == 3, "v2 was something else"


async def test_an_etcd_put_back_in_time_holds_everything_until_the_word(
    both: tuple[RunningCoordinator, HollowAgent], store: MemoryStore
) -> None:
    c1, agent = both
    earlier = store.backup()
    await c1.control.Scale(scale(5))
    await agent.wait_for(lambda: len(agent.running) == 5)
    before = dict(agent.running)
    store.restore(earlier)
    await eventually(lambda: "follows newer orders than etcd" in timeline.held_now(
        c1.service.live.world), what="to be held")  # fmt: skip
    await c1.control.Scale(scale(3))
    await asyncio.sleep(0.5)
    assert agent.running == before
    update = await anext(aiter(c1.control.WatchInstances(pb.WatchInstancesRequest(once=True))))
    assert update.standstill
    assert timeline.GO_ON in update.note
    assert [view.surplus for view in update.changed] == [False] * 5
    plan = await c1.control.Plan(pb.PlanRequest(reconcile=True))
    assert dict(plan.totals) == {"stop": 2}
    request = pb.ReconcileRequest(who="ann", if_revision=plan.revision)
    await c1.control.Reconcile(request)
    await agent.wait_for(lambda: len(agent.running) == 3)
    assert agent.running.keys() <= before.keys(), "those that stay are the same"
    assert "nothing is held" in await refused(c1.control.Reconcile(pb.ReconcileRequest()))


async def test_a_backup_of_before_undoes_a_deletion(
    both: tuple[RunningCoordinator, HollowAgent],
) -> None:
    c1, agent = both
    data = await backup(c1)
    await c1.control.DeleteApp(pb.DeleteAppRequest(app="shop", who="ann"))
    await agent.wait_for(lambda: not agent.running)
    await restore(c1, data)
    await c1.control.Reconcile(pb.ReconcileRequest(who="ann"))
    await agent.wait_for(lambda: len(agent.running) == 2)


async def test_what_is_there_is_replaced_only_when_asked_for(
    both: tuple[RunningCoordinator, HollowAgent],
) -> None:
    c1, _ = both
    data = await backup(c1)
    await c1.control.Scale(scale(4))
    assert "there are apps in this cluster (shop)" in await refused(restore(c1, data))
    looked = await restore(c1, data, dry_run=True)
    assert [(a.before, a.after) for a in looked.apps] == [("v1 web=4", "v1 web=2")]
    assert await note(c1) == ""
    assert (await restore(c1, data, replace=True)).revision
    assert "nothing is started" in await note(c1)


async def test_rubbish_and_half_a_file_are_refused(
    both: tuple[RunningCoordinator, HollowAgent],
) -> None:
    c1, _ = both
    data = await backup(c1)
    code = grpc.StatusCode.INVALID_ARGUMENT
    assert "no backup" in await refused(restore(c1, b"rubbish", replace=True), code)
    assert "damaged" in await refused(restore(c1, data[:-3], replace=True), code)
    assert await note(c1) == ""


async def test_a_restore_that_breaks_off_holds_everything_until_it_is_done_again(
    both: tuple[RunningCoordinator, HollowAgent],
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    c1, agent = both
    data = await backup(c1)
    await c1.control.Scale(scale(4))
    await agent.wait_for(lambda: len(agent.running) == 4)
    commit = store.commit

    async def breaks_off(compares: Any, operations: Any) -> Any:
        if any(operation.key == "apps/shop" for operation in operations):
            raise StoreUnavailable("etcd has gone")
        return await commit(compares, operations)

    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", breaks_off)
        said = await refused(restore(c1, data, replace=True))
    assert said == f"the restore broke off: etcd has gone. {timeline.RESTORING}"
    assert await note(c1) == timeline.RESTORING
    assert timeline.RESTORING in await refused(c1.control.Reconcile(pb.ReconcileRequest()))
    await asyncio.sleep(0.3)
    assert len(agent.running) == 4
    await restore(c1, data, replace=True)
    await c1.control.Reconcile(pb.ReconcileRequest(who="ann"))
    await agent.wait_for(lambda: len(agent.running) == 2)


async def test_of_two_words_on_the_same_plan_the_second_is_refused(
    both: tuple[RunningCoordinator, HollowAgent],
) -> None:
    c1, _ = both
    data = await backup(c1)
    await restore(c1, data, replace=True)
    plan = await c1.control.Plan(pb.PlanRequest(reconcile=True))
    await c1.control.Scale(scale(7))
    said = await refused(c1.control.Reconcile(pb.ReconcileRequest(if_revision=plan.revision)))
    assert "has changed since that plan" in said
