"""The leader plans in a thread: what people commit meanwhile is never written over."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from eventually import eventually
from running import coordinator

from formation.v1 import control_pb2 as pb
from formation.v1 import types_pb2
from formation_coordinator import driver
from formation_coordinator.plan import Plan
from formation_coordinator.reconcile import reconcile
from formation_coordinator.store.memory import MemoryStore


class Slow:
    """Plans as ever, but a plan that writes records is handed over only when it is told to."""

    def __init__(self, reconcile: Any) -> None:
        self._reconcile = reconcile
        self.made, self.go_on = threading.Event(), threading.Event()

    def __call__(self, *words: Any, **more: Any) -> Plan:
        plan: Plan = self._reconcile(*words, **more)
        if plan.records and not self.made.is_set():
            self.made.set()
            assert self.go_on.wait(10.0)
        return plan


def applying(command: str, app: str = "shop") -> pb.ApplyRequest:
    web = types_pb2.ProcessType(name="web", command=command)
    return pb.ApplyRequest(app=app, types=[web], who="ann", workdir="/")


@pytest.mark.parametrize("change", ["apply", "delete"])
async def test_a_change_that_comes_while_the_leader_plans_is_not_written_over(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(reconcile)
    monkeypatch.setattr(driver, "reconcile", slow)
    async with coordinator(MemoryStore(), tmp_path) as c:
        await c.control.Apply(applying("one"))
        await eventually(slow.made.is_set)  # it wants to note that v1 has arrived
        if change == "apply":
            applied = await c.control.Apply(applying("two"))
            assert applied.release.number == 2
            revision = applied.revision
        else:
            deleted = await c.control.DeleteApp(pb.DeleteAppRequest(app="shop", who="ann"))
            revision = deleted.revision
        # Our mirror knows of it, as the plan does not.
        await c.service.live.reach(revision)
        slow.go_on.set()

        def app() -> Any:
            return c.service.live.world.apps.get("shop")

        if change == "apply":
            await eventually(lambda: app().stable_release == 2)
            assert app().release == app().latest_release == 2
            assert (await c.control.Apply(applying("three"))).release.number == 3
        else:
            # The next thing that the leader writes comes after that plan.
            await c.control.Apply(applying("one", app="blog"))
            await eventually(lambda: c.service.live.world.apps["blog"].stable_release == 1)
            assert app() is None
