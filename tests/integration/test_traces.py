"""Traces of a coordinator, at a receiver that is there, and at one that is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from eventually import eventually
from hollow_agent import HollowAgent
from receivers import Received, otlp
from running import coordinator, free_port

from formation.v1 import control_pb2, types_pb2
from formation_coordinator import exporting
from formation_coordinator.store.memory import MemoryStore

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WEB = types_pb2.ProcessType(name="web", command="true", initial_quantity=2)


def spans(received: Received) -> dict[str, dict[str, Any]]:
    return {
        span["name"]: span
        for body in received.requests
        for resource in body["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    }


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "LOOKS_EVERY_S", 0.05)


async def test_an_apply_is_traced_until_its_instances_are_healthy_in_its_callers_trace(
    tmp_path: Path,
) -> None:
    async with (
        otlp() as received,
        coordinator(MemoryStore(), tmp_path, otlp=f"http://{received.address}") as running,
        HollowAgent(running.address, "a") as agent,
    ):
        received.answers = [503]
        asked = control_pb2.ApplyRequest(app="shop", types=[WEB])
        await running.control.Apply(asked, metadata=(("traceparent", TRACEPARENT),))
        await agent.wait_for(lambda: len(agent.running) == 2)
        await eventually(lambda: "apply shop" in spans(received), deadline_s=20.0)
        found = spans(received)
        root = found["apply shop"]
        assert (root["traceId"], root["parentSpanId"]) == (TRACEPARENT[3:35], TRACEPARENT[36:52])
        assert root["status"] == {"code": 1}
        for name in ("start web.1", "start web.2"):
            assert found[name]["parentSpanId"] == root["spanId"]
            assert int(found[name]["endTimeUnixNano"]) <= int(root["endTimeUnixNano"])
        assert "started until healthy" in found or "decided until taken" in found


async def test_a_receiver_that_is_not_there_holds_up_nothing_and_is_complained_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with (
        coordinator(MemoryStore(), tmp_path, otlp=url) as running,
        HollowAgent(running.address, "a") as agent,
    ):
        await running.control.Apply(control_pb2.ApplyRequest(app="shop", types=[WEB]))
        await agent.wait_for(lambda: len(agent.running) == 2)
        await eventually(lambda: "--otlp" in caplog.text, deadline_s=20.0)
        change = control_pb2.QuantityChange(
            type="web", kind=control_pb2.QuantityChange.KIND_SET, quantity=1
        )
        await running.control.Scale(control_pb2.ScaleRequest(app="shop", changes=[change]))
        await agent.wait_for(lambda: len(agent.running) == 1)
    assert caplog.text.count("--otlp") == 1
