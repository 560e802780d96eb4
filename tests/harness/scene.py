"""A coordinator with a page, a host that may say anything, and a tab that is logged in."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from browser import Browser
from eventually import eventually
from hollow_agent import HollowAgent
from running import RunningCoordinator, coordinator, free_port

from formation.v1 import access_pb2, access_pb2_grpc, agent_pb2, control_pb2, types_pb2
from formation_coordinator.store.base import Store
from formation_coordinator.store.memory import MemoryStore

FORMATION = "document.documentElement.formation"


def says(words: str, where: str = "document.body") -> str:
    return f"(b => b && b.innerText.includes({json.dumps(words)}))({where})"


def of(element_id: str) -> str:
    return f"document.getElementById({json.dumps(element_id)})"


def web(command: str = "true") -> types_pb2.ProcessType:
    """One; a change of it need not be seen working for long."""
    rules = types_pb2.RolloutRules(surge=types_pb2.Share(count=1), healthy_s=0.2, deadline_s=60)
    return types_pb2.ProcessType(name="web", command=command, initial_quantity=1, rollout=rules)


@asynccontextmanager
async def beating(*agents: HollowAgent) -> AsyncIterator[None]:
    """They say that they live, as agents do."""

    async def beat() -> None:
        for number in itertools.count(1):
            for agent in agents:
                agent.beat(number)
            await asyncio.sleep(1.0)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Scene:
    def __init__(self, running: RunningCoordinator, url: str, agent: HollowAgent) -> None:
        self.running, self.url, self.agent = running, url, agent

    async def ticket(self) -> str:
        options = [("grpc.default_authority", "localhost")]
        async with grpc.aio.insecure_channel(self.running.address, options) as channel:
            stub: access_pb2_grpc.AccessAsyncStub = access_pb2_grpc.AccessStub(channel)
            return (await stub.CreateWebLogin(access_pb2.CreateWebLoginRequest())).ticket

    async def log_in(self, browser: Browser) -> None:
        await browser.go(f"{self.url}#ticket={await self.ticket()}")
        await browser.until("!document.getElementById('main').hidden")
        await browser.until(f"{FORMATION}.map.first > 0", "the map is drawn")

    async def quantity(self) -> int:
        apps = await self.running.control.ListApps(control_pb2.ListAppsRequest())
        return apps.apps[0].app.formation["web"]

    async def scale(self, quantity: int) -> None:
        change = control_pb2.QuantityChange(
            type="web", kind=control_pb2.QuantityChange.KIND_SET, quantity=quantity
        )
        await self.running.control.Scale(control_pb2.ScaleRequest(app="shop", changes=[change]))

    async def push_lines(self, *lines: bytes) -> None:
        """To whoever has asked, for as long as this is not cancelled."""
        await eventually(lambda: self.agent.open_logs)

        async def pushes() -> AsyncIterator[agent_pb2.LogPush]:
            told = [
                agent_pb2.LogLine(app="shop", type="web", ordinal=1, at_us=number, text=text)
                for number, text in enumerate(lines, 1)
            ]
            token = self.agent.open_logs[-1].request_id
            yield agent_pb2.LogPush(request_id=token, lines=told, history_done=True)
            await asyncio.Event().wait()

        await self.agent.stub.PushLogs(pushes())


@asynccontextmanager
async def scene_in(place: Path, store: Store | None = None, port: int = 0) -> AsyncIterator[Scene]:
    """App shop with one web on host a."""
    port = port or free_port()
    async with (
        coordinator(store or MemoryStore(), place, http=f"127.0.0.1:{port}") as running,
        HollowAgent(running.address, "a") as agent,
        beating(agent),
    ):
        await running.control.Apply(control_pb2.ApplyRequest(app="shop", types=[web()]))
        await eventually(lambda: agent.running)
        yield Scene(running, f"http://127.0.0.1:{port}/", agent)
