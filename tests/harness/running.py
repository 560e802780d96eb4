"""Run a whole coordinator inside the test's own loop, on any store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from formation.runtime import client_channel_options
from formation.v1 import control_pb2_grpc
from formation_coordinator.config import CoordinatorConfig
from formation_coordinator.service import Service
from formation_coordinator.store.base import Store

DEADLINE_S = 10.0


@dataclass(slots=True, eq=False)
class RunningCoordinator:
    address: str
    service: Service
    control: control_pb2_grpc.ControlAsyncStub
    stop: asyncio.Event
    task: asyncio.Task[None]

    async def failed(self) -> None:
        """Waits until it ends by itself, and raises why."""
        async with asyncio.timeout(2 * DEADLINE_S):
            await asyncio.shield(self.task)


@asynccontextmanager
async def coordinator(
    store: Store, directory: Path, name: str = "c1", *, replace_after_s: float = 0.3
) -> AsyncIterator[RunningCoordinator]:
    """Ready, and stopped at the end; `stop.set()` stops it earlier."""
    address = f"unix:{directory / name}.sock"
    config = CoordinatorConfig(listen=address, id=name, replace_after_s=replace_after_s)
    service = Service(config, store)
    stop = asyncio.Event()
    task = asyncio.create_task(service.run(stop.wait))
    channel = grpc.aio.insecure_channel(address, client_channel_options())
    try:
        async with asyncio.timeout(DEADLINE_S):
            while service.live.world.cluster is None:
                if task.done():
                    task.result()
                await asyncio.sleep(0.01)
        stub: control_pb2_grpc.ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
        yield RunningCoordinator(
            address=address, service=service, control=stub, stop=stop, task=task
        )
    finally:
        await channel.close()
        stop.set()
        async with asyncio.timeout(DEADLINE_S):
            await task
