"""The agents' side of a coordinator, scripted by a test: real gRPC, no cluster behind it.

It keeps what the agent says (`table`: the latest of every instance) and says what the test tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio
from eventually import eventually

from formation import wire
from formation.model import Assignment, Assignments, InstanceState, InstanceStatus, Release, Usage
from formation.runtime import server_channel_options
from formation.v1 import agent_pb2 as pb
from formation.v1 import agent_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class FakeCoordinator(agent_pb2_grpc.AgentServicer):
    """`async with FakeCoordinator(address) as coordinator:`; `stop` and `start` in between."""

    def __init__(
        self, address: str, *, cluster_id: str = "c1", heartbeat_period_s: float = 5.0
    ) -> None:
        self.address = address
        self.cluster_id = cluster_id
        self.heartbeat_period_s = heartbeat_period_s
        self.relaxed_period_s = 0.0
        # What an agent may run exclusive instances for, and whether it is granted more.
        self.lease_s, self.acknowledges = 0.0, True
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.epoch, self.generation = 10, 0
        self.hellos: list[pb.Hello] = []
        self.batches: list[pb.StatusBatch] = []
        self.heartbeats = 0
        self.resends = 0
        self.goodbyes = 0
        self.table: dict[str, InstanceStatus] = {}
        self.history: list[InstanceStatus] = []
        self.complaint = ""
        self.pushes: dict[str, list[pb.LogPush]] = {}
        self.pushing: set[str] = set()
        self.usages: dict[str, dict[str, Usage]] = {}
        self._out: asyncio.Queue[pb.CoordinatorMessage] | None = None
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> FakeCoordinator:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = grpc.aio.server(options=server_channel_options())
        agent_pb2_grpc.add_AgentServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server, self._out = self._server, None, None
            await server.stop(None)

    # -- what the agent says -----------------------------------------------------------------------

    async def Session(  # noqa: N802  gRPC's name
        self, request_iterator: AsyncIterator[pb.AgentMessage], context: Context
    ) -> AsyncIterator[pb.CoordinatorMessage]:
        if self.refusal is not None:
            await context.abort(*self.refusal)
        first = await anext(aiter(request_iterator))
        self._on_hello(first.hello)
        self._out = out = asyncio.Queue[pb.CoordinatorMessage]()
        yield self._welcome()
        listening = asyncio.create_task(self._listen(request_iterator))
        saying: asyncio.Task[pb.CoordinatorMessage] | None = None
        try:
            while not listening.done():
                saying = asyncio.create_task(out.get())
                await asyncio.wait((saying, listening), return_when=asyncio.FIRST_COMPLETED)
                if saying.done():
                    yield saying.result()
        finally:
            listening.cancel()
            if saying is not None:
                saying.cancel()

    async def _listen(self, requests: AsyncIterator[pb.AgentMessage]) -> None:
        async for message in requests:
            match message.WhichOneof("message"):
                case "status":
                    self._on_batch(message.status)
                case "heartbeat":
                    self.heartbeats += 1
                    if self.acknowledges:
                        ack = pb.Ack(heartbeat=message.heartbeat.sequence)
                        await self.say(pb.CoordinatorMessage(ack=ack))
                case "resend":
                    self.resends += 1
                case "usage":
                    usages = map(wire.usage_from_pb, message.usage.instances)
                    self.usages[message.usage.request_id] = {item.uid: item for item in usages}
                case "goodbye":
                    self.goodbyes += 1
                    return

    def _on_hello(self, hello: pb.Hello) -> None:
        self.hellos.append(hello)
        status = wire.host_status_from_pb(hello.host)
        self.table = {item.uid: item for item in status.instances}
        self.history += status.instances
        self.complaint = status.complaint

    def _on_batch(self, batch: pb.StatusBatch) -> None:
        self.batches.append(batch)
        for message in batch.changed:
            status = wire.instance_status_from_pb(message)
            self.table[status.uid] = status
            self.history.append(status)
        for uid in batch.gone_uids:
            self.table.pop(uid, None)
        self.complaint = batch.complaint

    async def PushLogs(  # noqa: N802  gRPC's name
        self, request_iterator: AsyncIterator[pb.LogPush], context: Context
    ) -> pb.LogPushed:
        request_id = ""
        try:
            async for push in request_iterator:
                request_id = push.request_id
                self.pushing.add(request_id)
                self.pushes.setdefault(request_id, []).append(push)
        finally:
            self.pushing.discard(request_id)
        return pb.LogPushed()

    async def Exec(  # type: ignore[override]  # noqa: N802  gRPC's name
        self, request_iterator: AsyncIterator[pb.ExecPush], context: Context
    ) -> None:
        """Nobody asks for one here: it is over at once."""

    # -- what the coordinator says -----------------------------------------------------------------

    def _welcome(self) -> pb.CoordinatorMessage:
        return pb.CoordinatorMessage(
            welcome=pb.Welcome(
                session_id=f"s{len(self.hellos)}",
                cluster_id=self.cluster_id,
                coordinator_id="fake",
                heartbeat_period_s=self.heartbeat_period_s,
                relaxed_period_s=self.relaxed_period_s,
                lease_s=self.lease_s,
                coordinator_addresses=[self.address],
            )
        )

    async def say(self, message: pb.CoordinatorMessage) -> None:
        await eventually(lambda: self._out is not None, what="an agent's session")
        assert self._out is not None
        self._out.put_nowait(message)

    async def assign(
        self, *instances: Assignment, releases: Iterable[Release] = (), **other: Any
    ) -> None:
        """COMPLETE and the next generation, unless `other` (fields of Assignments) says so."""
        order: dict[str, Any] = {
            "complete": True,
            "epoch": self.epoch,
            "applies_to": self.generation,
            "results_in": self.generation + 1,
            "instances": instances,
            "releases": tuple(releases),
            **other,
        }
        self.generation = max(self.generation, order["results_in"])
        message = wire.assignments_to_pb(Assignments(**order))
        await self.say(pb.CoordinatorMessage(assignments=message))

    async def open_logs(self, request_id: str, *, tail_lines: int, follow: bool) -> None:
        request = pb.OpenLogs(request_id=request_id, tail_lines=tail_lines, follow=follow)
        await self.say(pb.CoordinatorMessage(open_logs=request))

    async def close_logs(self, request_id: str) -> None:
        await self.say(pb.CoordinatorMessage(close_logs=pb.CloseLogs(request_id=request_id)))

    async def sample_usage(self, request_id: str, app: str = "") -> dict[str, Usage]:
        """What each instance uses, by uid."""
        request = pb.SampleUsage(request_id=request_id, app=app)
        await self.say(pb.CoordinatorMessage(sample_usage=request))
        await eventually(lambda: request_id in self.usages, what="a usage report")
        return self.usages[request_id]

    # -- what a test asks --------------------------------------------------------------------------

    def lines(self, request_id: str) -> list[bytes]:
        return [line.text for push in self.pushes.get(request_id, []) for line in push.lines]

    async def sees(self, uid: str, state: InstanceState, *, attempt: int = 0) -> InstanceStatus:
        """The status of `uid` once it is in that state (and attempt)."""

        def seen() -> bool:
            status = self.table.get(uid)
            return bool(status and status.state is state and attempt in (0, status.attempt))

        await eventually(seen, what=f"{uid} {state.name}")
        return self.table[uid]

    async def sees_gone(self, *uids: str) -> None:
        await eventually(lambda: not set(uids) & set(self.table), what=f"{uids} gone")
