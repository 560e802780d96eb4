"""What instances use now: asked of the agents here, and of other coordinators for theirs.

Each host is asked once and has 3 s. A host that does not answer, or cannot be asked, is a notice,
never an error: the others' figures are good. Keeps nothing; every question samples anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

import grpc

from formation.dialling import Dialler, NotTrustedError, words
from formation.model import Coordinator
from formation.v1 import agent_pb2, control_pb2_grpc, types_pb2
from formation.v1 import control_pb2 as pb
from formation_coordinator.live import LiveWorld
from formation_coordinator.registration import AgentSession
from formation_coordinator.world import OVER, HostEntry, departed

ANSWER_S = 3.0
# Another coordinator waits for its own agents first.
RELAY_S = ANSWER_S + 1.0
# Half of what a message may hold.
RESPONSE_BYTES_MAX = 32 * 1024 * 1024

Answer = asyncio.Future[agent_pb2.UsageReport]


class UsageDesk:
    """Where questions wait for their answers: one for each host that was asked."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._waiting: dict[tuple[str, str], Answer] = {}

    @contextmanager
    def ask(self, sessions: Iterable[AgentSession], app: str) -> Iterator[dict[str, Answer]]:
        """Host → its answer to come. Nobody waits for what comes after the block."""
        request_id = self._new_id()
        loop = asyncio.get_running_loop()
        answers: dict[str, Answer] = {}
        try:
            for session in sessions:
                answer: Answer = loop.create_future()
                answers[session.host] = self._waiting[request_id, session.host] = answer
                sample = agent_pb2.SampleUsage(request_id=request_id, app=app)
                session.send(agent_pb2.CoordinatorMessage(sample_usage=sample))
            yield answers
        finally:
            for host in answers:
                del self._waiting[request_id, host]

    def take(self, host: str, report: agent_pb2.UsageReport) -> None:
        """An answer that nobody waits for any more is dropped."""
        answer = self._waiting.get((report.request_id, host))
        if answer is not None and not answer.done():
            answer.set_result(report)


class UsageFan:
    """`held()`: the sessions of this coordinator now."""

    def __init__(
        self,
        *,
        held: Callable[[], Iterable[AgentSession]],
        desk: UsageDesk,
        live: LiveWorld,
        me: Coordinator,
        dialler: Dialler,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._dialler = dialler
        self._held, self._desk, self._live, self._me = held, desk, live, me
        self._answer_s = answer_s

    async def read(self, request: pb.UsageRequest) -> pb.UsageResponse:
        if request.relayed:
            parts = [await self._ask_here(request)]
        else:
            questions = [self._from(other, request) for other in self._others()]
            parts = await asyncio.gather(self._ask_here(request), *questions)
            parts.append(pb.UsageResponse(notices=self._silent_hosts(request.app)))
        return joined(parts)

    async def _ask_here(self, request: pb.UsageRequest) -> pb.UsageResponse:
        hosts, app, types = self._live.world.hosts, request.app, frozenset(request.types)
        held = [session for session in self._held() if session.host in hosts]
        asked = [session for session in held if _runs_any(hosts[session.host], app, types)]
        with self._desk.ask(asked, app) as answers:
            if answers:
                await asyncio.wait(answers.values(), timeout=self._answer_s)
        missing = sorted(host for host, answer in answers.items() if not answer.done())
        return pb.UsageResponse(
            instances=[
                item
                for answer in answers.values()
                if answer.done()
                for item in answer.result().instances
            ],
            notices=[f"host {host}: no answer within {self._answer_s:g} s" for host in missing],
        )

    def _silent_hosts(self, app: str) -> list[str]:
        return [
            f"host {name}: silent, so what it uses is not known"
            for name, entry in sorted(self._live.world.hosts.items())
            if not entry.connected and not departed(entry) and _runs_any(entry, app)
        ]

    def _others(self) -> list[Coordinator]:
        mine = self._me.id
        return [other for other in self._live.world.coordinators.values() if other.id != mine]

    async def _from(self, other: Coordinator, asked: pb.UsageRequest) -> pb.UsageResponse:
        """What another coordinator's agents say; its loss is a notice."""
        try:
            async with self._dialler.channel(other.address) as channel:
                stub = control_pb2_grpc.ControlStub(channel)
                request = pb.UsageRequest(app=asked.app, types=asked.types, relayed=True)
                response: pb.UsageResponse = await stub.Usage(request, timeout=RELAY_S)
                return response
        except (grpc.aio.AioRpcError, NotTrustedError) as error:
            notice = f"coordinator {other.id}: {words(error)}; figures of its hosts are missing"
            return pb.UsageResponse(notices=[notice])


def _runs_any(entry: HostEntry, app: str, types: Collection[str] = ()) -> bool:
    """Is there anything to ask for? What is over uses nothing."""
    observed = entry.status.instances if entry.status else ()
    return any(
        app in ("", item.slot.app)
        and item.state not in OVER
        and (not types or item.slot.type in types)
        for item in observed
    )


def joined(
    parts: Iterable[pb.UsageResponse], bytes_max: int = RESPONSE_BYTES_MAX
) -> pb.UsageResponse:
    """One answer of them all, cut to what a message may hold."""
    instances: list[types_pb2.InstanceUsage] = []
    notices: list[str] = []
    left_out = 0
    for part in parts:
        notices += part.notices
        for item in part.instances:
            bytes_max -= item.ByteSize() + 8  # its tag and length
            if bytes_max >= 0:
                instances.append(item)
            else:
                left_out += 1
    if left_out:
        notices.append(f"too many for one answer: {left_out} instances left out; name an app")
    return pb.UsageResponse(instances=instances, notices=notices)
