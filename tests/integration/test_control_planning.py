"""Plans over the API: what they say, that they change nothing, and that what was reviewed is what
is applied."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hollow_agent import HollowAgent
from running import RunningCoordinator, coordinator

from formation.v1 import control_pb2 as pb
from formation.v1 import types_pb2
from formation_coordinator.store.base import Put, Span
from formation_coordinator.store.memory import MemoryStore

SHOP = pb.ApplyRequest(
    app="shop",
    types=[types_pb2.ProcessType(name="web", command="true")],
    formation={"web": 2},
    who="ann",
    workdir="/",
)
NEXT = pb.ApplyRequest(
    app="shop", types=[types_pb2.ProcessType(name="web", command="false")], who="ann", workdir="/"
)
MORE = [pb.QuantityChange(type="web", kind=pb.QuantityChange.KIND_ADD, quantity=3)]
CHANGES: dict[str, Any] = {
    "Scale": pb.ScaleRequest(app="shop", changes=MORE, who="bob"),
    "Apply": NEXT,
    "Rollback": pb.RollbackRequest(app="shop", release=1, who="bob"),
    "SetHost": pb.SetHostRequest(host="a", draining=True, who="bob"),
    "StartRebalance": pb.StartRebalanceRequest(wish=pb.RebalanceWish(moves_max=5), who="bob"),
}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def c1(store: MemoryStore, tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    """Two hosts, of which one came late and is empty."""
    async with coordinator(store, tmp_path) as running, HollowAgent(running.address, "a") as a:
        await running.control.Apply(SHOP)
        await a.wait_for(lambda: len(a.running) == 2)
        async with HollowAgent(running.address, "b"):
            yield running


async def planned(c1: RunningCoordinator, **change: Any) -> pb.PlanResponse:
    answer: pb.PlanResponse = await c1.control.Plan(pb.PlanRequest(**change))
    return answer


async def decided(store: MemoryStore) -> dict[str, bytes]:
    """What people have said: without what agents and the leader write by themselves."""
    kept = ("apps/", "releases/", "hosts/", "rebalance", "audit/")
    items = (await store.ranges([Span("", "")])).items
    found = {item.key: item.value for item in items if item.key.startswith(kept)}
    assert {key.split("/")[0] for key in found} >= {"apps", "releases", "hosts", "audit"}
    return found


async def test_a_plan_tells_each_step_and_changes_nothing(
    c1: RunningCoordinator, store: MemoryStore
) -> None:
    before = await decided(store)
    plan = await planned(c1, scale=CHANGES["Scale"])
    assert [(step.kind, step.to_host) for step in plan.steps] == [
        ("start", "b"), ("start", "b"), ("start", "a"),
    ]  # fmt: skip
    drain = await planned(c1, drain_host="a")
    assert {(step.kind, step.from_host, step.to_host) for step in drain.steps} == {
        ("move", "a", "b")
    }
    level = await planned(c1, rebalance=pb.RebalanceWish(moves_max=5))
    assert [(step.kind, step.to_host) for step in level.steps] == [("move", "b")]
    assert [(t.skew_before, t.skew_after) for t in level.types] == [(2, 0)]
    assert await decided(store) == before


@pytest.mark.parametrize("name", CHANGES)
async def test_only_what_was_reviewed_is_applied(
    c1: RunningCoordinator, store: MemoryStore, name: str
) -> None:
    revision = (await planned(c1, scale=CHANGES["Scale"])).revision
    await c1.control.SetHost(pb.SetHostRequest(host="b", labels={"rack": "1"}, who="cy"))
    before = await decided(store)
    request = type(CHANGES[name])()
    request.CopyFrom(CHANGES[name])
    request.if_revision = revision
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(c1.control, name)(request)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert f"(revision {revision}, now " in str(caught.value.details())
    assert await decided(store) == before
    request.if_revision = (await planned(c1, drain_host="a")).revision
    await getattr(c1.control, name)(request)


@pytest.mark.parametrize("name", sorted(CHANGES.keys() - {"Rollback"}))  # which has nothing to do
async def test_what_is_said_at_the_last_moment_counts(
    c1: RunningCoordinator, store: MemoryStore, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at what has changed and the write."""
    request = type(CHANGES[name])()
    request.CopyFrom(CHANGES[name])
    request.if_revision = (await planned(c1, scale=CHANGES["Scale"])).revision
    commit = store.commit

    async def late(compares: Any, operations: Any) -> Any:
        if any(operation.key.startswith("audit/") for operation in operations):
            host = await store.get("hosts/b")
            assert host is not None
            await commit([], [Put("hosts/b", host.value)])
        return await commit(compares, operations)

    monkeypatch.setattr(store, "commit", late)
    before = await decided(store)
    with pytest.raises(grpc.aio.AioRpcError, match="has changed since that plan"):
        await getattr(c1.control, name)(request)
    assert await decided(store) == before


async def test_what_is_too_much_to_list_is_counted(c1: RunningCoordinator) -> None:
    many = pb.QuantityChange(type="web", kind=pb.QuantityChange.KIND_SET, quantity=1_000_000)
    plan = await planned(c1, scale=pb.ScaleRequest(app="shop", changes=[many]))
    (unplaced,) = plan.unplaced
    assert unplaced.count + plan.totals["start"] + 2 == 1_000_000
    assert unplaced.count > len(plan.steps)
    assert "full" in unplaced.reason
    assert unplaced.remedy


async def test_a_plan_of_what_cannot_be_says_so(c1: RunningCoordinator) -> None:
    for change in ({"drain_host": "x"}, {"scale": pb.ScaleRequest(app="shpo", changes=MORE)}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await planned(c1, **change)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
