"""An agent without processes: it speaks the real session and says what it is told to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc

from formation import wire
from formation.model import (
    Ability,
    Assignment,
    HostStatus,
    InstanceState,
    InstanceStatus,
    Usage,
)
from formation.runtime import client_channel_options
from formation.v1 import agent_pb2, agent_pb2_grpc

DEADLINE_S = 10.0


class HollowAgent:
    """`async with HollowAgent(address, "a") as agent:` — connected when the block starts."""

    def __init__(
        self,
        address: str,
        host: str,
        *,
        agent_id: str = "",
        cluster_id: str = "",
        state: InstanceState = InstanceState.HEALTHY,
        abilities: Iterable[Ability] = (),
        inability: str = "",
        channel: grpc.aio.Channel | None = None,
        reached_at: str = "",
    ) -> None:
        """`channel`: with a certificate; else it speaks plainly."""
        self.host = host
        self.agent_id = agent_id or f"agent-{host}"
        self.cluster_id = cluster_id
        self.state = state
        self.abilities = tuple(abilities)
        self.inability, self.reached_at = inability, reached_at
        # By uid: what it says of one instance, instead of just `state`.
        self.words: dict[str, dict[str, Any]] = {}
        # By uid, the answer to SampleUsage; None: it does not answer.
        self.usage: dict[str, Usage] | None = {}
        self.samples: list[agent_pb2.SampleUsage] = []
        self.welcome: agent_pb2.Welcome | None = None
        self.orders: list[agent_pb2.Assignments] = []
        self.ahead = False  # it has refused an older document than the one it follows
        self.obeys = True  # as one whose disk is full does not
        self.acknowledged: list[int] = []  # heartbeats
        self.open_logs: list[agent_pb2.OpenLogs] = []
        self.open_execs: list[agent_pb2.OpenExec] = []
        self.running: dict[str, Assignment] = {}
        self.refusal: grpc.aio.AioRpcError | None = None
        insecure = grpc.aio.insecure_channel
        self._channel = channel or insecure(address, client_channel_options())
        self.stub = agent_pb2_grpc.AgentStub(self._channel)
        self._out: asyncio.Queue[agent_pb2.AgentMessage | None] = asyncio.Queue()
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self.generation = self.cluster_epoch = 0
        self._sequence = 0

    async def stub_to(self, channel: grpc.aio.Channel) -> None:
        """Speak through this one, which has a certificate."""
        await self._channel.close()
        self._channel, self.stub = channel, agent_pb2_grpc.AgentStub(channel)

    async def __aenter__(self) -> HollowAgent:
        await self.dial()
        await self.wait_for(lambda: self.welcome is not None)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.hang_up()

    async def dial(self) -> None:
        table = [self._status(item) for item in self.running.values()]
        status = HostStatus(
            host=self.host,
            agent_id=self.agent_id,
            instances=tuple(table),
            abilities=self.abilities,
            inability=self.inability,
            address=self.reached_at,
            cluster_epoch=self.cluster_epoch,
        )
        hello = agent_pb2.Hello(
            host=wire.host_status_to_pb(status),
            cluster_id=self.cluster_id,
            generation=self.generation,
        )
        self._out.put_nowait(agent_pb2.AgentMessage(hello=hello))
        self._task = asyncio.create_task(self._run())

    async def hang_up(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    def say(self, *, state: InstanceState | None = None, gone: Iterable[str] = ()) -> None:
        """Report every running instance (in this state), and these as gone."""
        self.state = state or self.state
        self._sequence += 1
        batch = agent_pb2.StatusBatch(
            sequence=self._sequence,
            changed=[
                wire.instance_status_to_pb(self._status(item)) for item in self.running.values()
            ],
            gone_uids=list(gone),
            generation=self.generation,
            cluster_epoch=self.cluster_epoch,
            ahead=self.ahead,
        )
        self._out.put_nowait(agent_pb2.AgentMessage(status=batch))

    def tell(self, uid: str, **fields: Any) -> None:
        """From now on say this of one instance; `fields` are those of `InstanceStatus`."""
        self.words[uid] = fields
        self.say()

    def send(self, message: agent_pb2.AgentMessage) -> None:
        self._out.put_nowait(message)

    def _status(self, item: Assignment) -> InstanceStatus:
        fields = {"state": self.state, "attempt": 1} | self.words.get(item.uid, {})
        return InstanceStatus(uid=item.uid, slot=item.slot, release=item.release, **fields)

    async def _requests(self) -> AsyncIterator[agent_pb2.AgentMessage]:
        while (message := await self._out.get()) is not None:
            yield message

    async def _run(self) -> None:
        try:
            async for message in self.stub.Session(self._requests()):
                async with self._changed:
                    self._take(message)
                    self._changed.notify_all()
        except grpc.aio.AioRpcError as error:
            async with self._changed:
                self.refusal = error
                self._changed.notify_all()

    def _take(self, message: agent_pb2.CoordinatorMessage) -> None:
        match message.WhichOneof("message"):
            case "welcome":
                self.welcome = message.welcome
            case "assignments":
                self.orders.append(message.assignments)
                if self.obeys:
                    self._obey(message.assignments)
            case "ack" if message.ack.heartbeat:
                self.acknowledged.append(message.ack.heartbeat)
            case "open_logs":
                self.open_logs.append(message.open_logs)
            case "open_exec":
                self.open_execs.append(message.open_exec)
            case "sample_usage":
                self.samples.append(message.sample_usage)
                self._answer(message.sample_usage)

    def _answer(self, sample: agent_pb2.SampleUsage) -> None:
        if self.usage is not None:
            report = agent_pb2.UsageReport(
                request_id=sample.request_id,
                instances=[wire.usage_to_pb(usage) for usage in self.usage.values()],
            )
            self.send(agent_pb2.AgentMessage(usage=report))

    def beat(self, number: int) -> None:
        heartbeat = agent_pb2.Heartbeat(sequence=number)
        self.send(agent_pb2.AgentMessage(heartbeat=heartbeat))

    def _obey(self, order: agent_pb2.Assignments) -> None:
        items = {item.uid: wire.assignment_from_pb(item) for item in order.instances}
        came = (order.cluster_epoch, order.results_in)
        self.ahead = came < (self.cluster_epoch, self.generation)
        if self.ahead:
            self.say()
            return
        before = set(self.running)
        if order.kind == agent_pb2.Assignments.KIND_COMPLETE:
            self.running = items
        else:
            self.running.update(items)
            for uid in order.removed_uids:
                self.running.pop(uid, None)
        self.cluster_epoch, self.generation = came
        self.say(gone=before - set(self.running))

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(condition)
