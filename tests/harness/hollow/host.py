"""One hollow host: the agent's session and supervisor over rooms that pretend."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from formation import __version__
from formation.credentials import Credential
from formation.dialling import Dialler, connecting_within
from formation.memory import AgentMemory
from formation.model import Capacity, HostStatus
from formation.names import PING_EVERY_S
from formation.v1 import agent_pb2
from formation.v1.agent_pb2_grpc import AgentStub
from formation_agent.session import Session
from formation_agent.supervisor import Supervisor
from hollow.rooms import (
    Behaviour,
    Forgetful,
    NoHealth,
    NoLogs,
    NoUsage,
    PretendKeeper,
    PretendLauncher,
)

if TYPE_CHECKING:
    from formation.v1.agent_pb2_grpc import AgentAsyncStub

# Else hosts in one process that are the same to gRPC would share one connection.
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(slots=True)
class Traffic:
    """Messages of sessions, and their bytes before TLS and gRPC."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0


class CountingStub:
    """The stub, with its Session counted."""

    def __init__(self, stub: AgentAsyncStub, traffic: Traffic) -> None:
        self._stub, self._traffic = stub, traffic

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stub, name)

    def Session(self) -> CountingCall:  # noqa: N802
        return CountingCall(self._stub.Session(), self._traffic)


class CountingCall:
    def __init__(self, call: Any, traffic: Traffic) -> None:
        self._call, self._traffic = call, traffic

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    async def write(self, message: Any) -> None:
        self._traffic.sent += 1
        self._traffic.sent_bytes += message.ByteSize()
        await self._call.write(message)

    async def read(self) -> Any:
        message = await self._call.read()
        if isinstance(message, agent_pb2.CoordinatorMessage):
            self._traffic.received += 1
            self._traffic.received_bytes += message.ByteSize()
        return message


class HollowHost:
    """`credential` None: plain, where that is allowed."""

    def __init__(
        self,
        name: str,
        addresses: tuple[str, ...],
        credential: Credential | None,
        behaviour: Behaviour,
        *,
        ping_every_s: float = PING_EVERY_S,
    ) -> None:
        self.name = name
        self.traffic = Traffic()
        self._dialler = Dialler(lambda: credential, insecure=True, ping_every_s=ping_every_s)
        self.keeper = PretendKeeper(behaviour)
        logs = NoLogs()
        journal = Forgetful(AgentMemory(agent_id=f"hollow-{name}"))
        self.supervisor = Supervisor(
            children=self.keeper,
            logs=logs,
            health=NoHealth(),
            launcher=PretendLauncher(),
            journal=journal,
            jitter=random.random,
            start_wait_s=0.0,
        )
        self.keeper.hear = self.supervisor.hear
        self.session = Session(
            supervisor=self.supervisor,
            journal=journal,
            logs=logs,
            usage=NoUsage(),
            addresses=lambda: addresses,
            describe=self._describe,
            dial=self._dial,
        )

    async def begin(self, spread_s: float) -> None:
        """For ever, from some moment within `spread_s` on."""
        await asyncio.sleep(random.uniform(0.0, spread_s))
        self.supervisor.start(())
        await self.session.run()

    @asynccontextmanager
    async def _dial(self, address: str, connect_s: float) -> AsyncIterator[AgentAsyncStub]:
        options = (*_OWN_CONNECTION, connecting_within(connect_s))
        async with self._dialler.channel(address, options) as channel:
            yield cast("AgentAsyncStub", CountingStub(AgentStub(channel), self.traffic))

    async def _describe(self, coordinator: str) -> HostStatus:
        return HostStatus(
            host=self.name,
            agent_id=f"hollow-{self.name}",
            boot_id="hollow",
            agent_version=__version__,
            capacity=Capacity(instances_max=0, cpus=64.0, memory_bytes=1 << 38),
            labels={"zone": f"z{zlib.crc32(self.name.encode()) % 3}"},
            address="127.0.0.1",
        )

    @property
    def is_connected(self) -> bool:
        return bool(self.session.reached)
