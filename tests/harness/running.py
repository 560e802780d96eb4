"""Run a whole coordinator inside the test's own loop, on any store."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from certified import Authority

from formation.dialling import Dialler
from formation.identity import Role
from formation.runtime import client_channel_options
from formation.v1 import control_pb2_grpc
from formation_coordinator.config import CoordinatorConfig
from formation_coordinator.service import Service
from formation_coordinator.store.base import Store

DEADLINE_S = 10.0


_numbers = itertools.count(1)


def own_address() -> str:
    """Nobody else's: every process of this machine has loopback addresses of its own."""
    pid, number = os.getpid(), next(_numbers)
    return f"127.{1 + (pid >> 8) % 254}.{pid % 256}.{1 + number % 254}:7100"


def free_port() -> int:
    """Of 127.0.0.1, where browsers go."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


def _is_founded(service: Service) -> bool:
    """With certificates, its authority is written, too, a moment later."""
    world = service.live.world
    agreed = service.notary is None or world.trust or ("trust", ()) in world.unreadable
    return world.cluster is not None and bool(agreed)


@asynccontextmanager
async def coordinator(
    store: Store,
    directory: Path,
    name: str = "c1",
    *,
    replace_after_s: float = 0.3,
    authority: Authority | None = None,
    **page: Any,
) -> AsyncIterator[RunningCoordinator]:
    """Ready, and stopped at the end; `stop.set()` stops it earlier.

    On a Unix socket; with an authority on TCP with certificates, `control` being an operator's.
    `page`: settings of its page.
    """
    if authority is None:
        address = f"unix:{directory / name}.sock"
        config = CoordinatorConfig(listen=address, id=name, replace_after_s=replace_after_s, **page)
        channel = grpc.aio.insecure_channel(address, client_channel_options())
    else:
        address = own_address()
        identity = authority.coordinator(directory / f"identity-{name}", name)
        config = CoordinatorConfig(
            listen=address, identity_dir=str(identity), replace_after_s=replace_after_s, **page
        )
        ann = authority.issue(directory / "ann", Role.OPERATOR, "ann")
        channel = Dialler(lambda: ann).channel(address)
    service = Service(config, store)
    stop = asyncio.Event()
    task = asyncio.create_task(service.run(stop.wait))
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not _is_founded(service):
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
