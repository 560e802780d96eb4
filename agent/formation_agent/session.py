"""The agent's side of the stream to a coordinator: dial, say all that runs, obey, report.

Nothing here ever stops a process because a stream broke or nobody answers. Which orders are
obeyed is judged by `orders`; carrying them out is the supervisor's.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import tenacity
from msgspec import structs

from formation import wire, wire_access
from formation.cuts import notice_cuts
from formation.dialling import NotTrustedError, ended_unread
from formation.identity import Trust
from formation.model import HostStatus
from formation.v1 import agent_pb2 as pb
from formation.v1 import types_pb2
from formation_agent import orders
from formation_agent.endings import Moved, NameTaken, Renewed, SessionLost, Unreached, leaves
from formation_agent.execpush import ExecPusher
from formation_agent.execs import Execs
from formation_agent.fences import boottime_s
from formation_agent.journal import Journal, JournalError
from formation_agent.lease import Sent
from formation_agent.logpush import LogPusher, LogReader
from formation_agent.slack import idle_slack
from formation_agent.supervisor import Supervisor
from formation_agent.telling import Call, State, Writer
from formation_agent.usage import UsageReader

if TYPE_CHECKING:  # the stubs know this class, the generated code does not
    from formation.v1.agent_pb2_grpc import AgentAsyncStub

# One that is dead is given up soon; one that is busy, with thousands that dial all at once, would
# only have more to do if everybody gave up and dialled again.
CONNECT_S, CONNECT_DOUBLED_MAX = 2.0, 3
WELCOME_WITHIN_S = 10.0
# A session that held this long was a good one: the next dial starts without back-off.
STEADY_AFTER_S = 5.0
FIRST_DIAL_SPREAD_S, DIAL_SPREAD_OF_BEATS = 0.5, 0.05
# Where a human must act, hurrying does not help.
REFUSED_PAUSE_S = 10.0
# A full disk may get room again.
RESEND_AFTER_S = 5.0
# How often a host that has not joined any cluster looks whether it has.
JOINED_LOOK_S = 1.0
_HEARTBEAT_PERIOD_S = 5.0
# Who asks for more at once gets no answer to the first ones.
_REPORTS_MAX = 16
_FULL_JITTER = tenacity.wait_random_exponential(multiplier=0.1, max=5)

_HUMANS_ACT = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
_NO_CONNECTION = "failed to connect"

log = logging.getLogger(__name__)
# What this host says of itself, reached through that coordinator, without its instances.
Describe = Callable[[str], Awaitable[HostStatus]]
Explain = Callable[[str], Awaitable[str]]
# The way to the coordinator at an address that is there within some seconds, while it is held.
Dial = Callable[[str, float], "AbstractAsyncContextManager[AgentAsyncStub]"]


Ended = SessionLost | NameTaken | None


async def _no_idea(_: str) -> str:
    return ""


class Session:
    """`left` is set when a coordinator has taken our goodbye; `reached` is the one that we are
    connected to, or "". `addresses`: where to begin; none before this host has joined anything.
    `explain`: why nobody could be reached at an address, or "". `learn` hears whose signatures
    count. `moved` is called when another
    coordinator is reached, or none, or other orders are followed."""

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        journal: Journal,
        logs: LogReader,
        execs: Execs | None = None,
        usage: UsageReader,
        addresses: Callable[[], tuple[str, ...]],
        describe: Describe,
        dial: Dial,
        explain: Explain = _no_idea,
        learn: Callable[[Trust], None] = lambda _: None,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._supervisor = supervisor
        self._journal = journal
        self._logs = logs
        self._execs = execs
        self._usage = usage
        self._reports: deque[pb.UsageReport] = deque(maxlen=_REPORTS_MAX)
        self._given = addresses
        self._addresses: deque[str] = deque()
        self._explain = explain
        self._told_of_trust = learn
        self._renewed = asyncio.Event()
        self._describe = describe
        self._moved = moved
        self._dial = dial
        self._leaving = False
        self._ever_welcome = False
        self._resend = False
        self._complaint = ""
        self._ahead = False
        self._sent = Sent(0.0)
        self._period_s = self._relaxed_s = _HEARTBEAT_PERIOD_S
        self._reported: set[str] = set()
        self.reached = ""
        self._alone_since, self._alone_since_s = _time_of_day(), time.monotonic()
        self.left = asyncio.Event()
        # One event wakes the writer for everything: changes of instances and what is set here.
        self._wake = supervisor.news
        self._tries, self._welcomed_s = 0, math.inf
        self._pusher: LogPusher | None = None

    async def run(self) -> None:
        """For ever, or until the goodbye is taken. Raises `NameTaken`."""
        while not self.left.is_set():
            async for attempt in tenacity.AsyncRetrying(
                wait=_FULL_JITTER, retry=tenacity.retry_if_exception_type(SessionLost)
            ):
                with attempt:
                    await self._hold_one()

    def renewed(self) -> None:
        """Our certificate is another one: what was opened with the one before shall end."""
        self._renewed.set()

    async def deliver_logs(self, within_s: float) -> None:
        """Nothing runs any more: who follows shall have the last lines before we are gone."""
        self._logs.finish()
        if self.reached and self._pusher is not None:
            await self._pusher.finished(within_s)

    def goodbye(self) -> None:
        """Everything here has stopped: say so, once what has changed was told."""
        self._leaving = True
        self._wake.set()

    @property
    def alone_s(self) -> float:
        """For so long nobody was reached."""
        return 0.0 if self.reached else time.monotonic() - self._alone_since_s

    @property
    def where(self) -> str:
        """For people."""
        if self.reached:
            return f"connected to {self.reached}"
        return f"no coordinator reached since {self._alone_since}"

    # -- one session -------------------------------------------------------------------------------

    async def _hold_one(self) -> None:
        """Returns after a good session, raises `SessionLost` after a short or failed one."""
        loop = asyncio.get_running_loop()
        while not self._addresses:
            self._addresses = deque(self._given())
            await asyncio.sleep(0 if self._addresses else JOINED_LOOK_S)
        address, self._welcomed_s = self._addresses[0], math.inf
        try:
            await self._hold(address)
        except SessionLost as lost:
            self._go_on_after(address, lost)
            self._tries += 1
            if self.reached:
                self.reached, self._alone_since = "", _time_of_day()
                self._alone_since_s = time.monotonic()
                self._moved()
            pause_s = lost.pause_s * random.uniform(1.0, 1.2)  # noqa: S311
            if loop.time() - self._welcomed_s < STEADY_AFTER_S:
                await asyncio.sleep(pause_s)
                raise
            self._tries = 0
            # All agents of a coordinator that ended are here at the same moment; the more there are
            # the more seldom each of them beats.
            spread_s = max(FIRST_DIAL_SPREAD_S, self._relaxed_s * DIAL_SPREAD_OF_BEATS)
            await asyncio.sleep(pause_s + random.uniform(0.0, spread_s))  # noqa: S311

    def _go_on_after(self, address: str, lost: SessionLost) -> None:
        """Where to dial next."""
        match lost:
            case Renewed():
                pass
            case Moved(address=other):
                log.info("coordinator %s: %s", address, lost)
                self._addresses = deque(dict.fromkeys((other, *self._addresses)))
            case _:
                self._addresses.rotate(-1)
                self._report(address, lost)

    def _report(self, address: str, lost: SessionLost) -> None:
        """Once per reason: an outage may last for days."""
        why = f"coordinator {address}: {lost}"
        level = logging.DEBUG if why in self._reported else logging.WARNING
        self._reported.add(why)
        log.log(level, "%s; trying again, everything here runs on", why)

    async def _hold(self, address: str) -> None:
        ended: Ended = None
        try:
            connect_s = CONNECT_S * 2 ** min(self._tries, CONNECT_DOUBLED_MAX)
            async with self._dial(address, connect_s) as stub:
                ended = await self._hold_call(stub, address)
        except NotTrustedError as error:
            ended = SessionLost(str(error), JOINED_LOOK_S)
        if isinstance(ended, Unreached) and (strange := await self._explain(address)):
            ended = SessionLost(strange, REFUSED_PAUSE_S)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # A task group that fails at the moment of a cancel raises its failure alone.
            raise asyncio.CancelledError
        if ended is not None:
            raise ended

    async def _hold_call(self, stub: AgentAsyncStub, address: str) -> Ended:
        """Until it ends; returns why, None after a goodbye."""
        call = stub.Session()
        ended: Ended = None
        try:
            await self._talk(call, stub, address)
        except* (SessionLost, grpc.aio.AioRpcError, asyncio.InvalidStateError) as group:
            ended = self._why(group)
        finally:
            call.cancel()
        return ended

    async def _talk(self, call: Call, stub: AgentAsyncStub, address: str) -> None:
        welcome, told = await self._join(call, address)
        self._reports.clear()  # another asked for them
        self._sent = Sent(welcome.lease_s)
        self._period_s = welcome.heartbeat_period_s or _HEARTBEAT_PERIOD_S
        self._relaxed_s = welcome.relaxed_period_s or self._period_s
        with idle_slack():
            await self._serve(call, stub, Writer(self, call, told))

    async def _serve(self, call: Call, stub: AgentAsyncStub, writer: Writer) -> None:
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(writer.run())
            redialling = group.create_task(self._until_renewed())
            pusher = self._pusher = LogPusher(self._logs, stub, group)
            execs = ExecPusher(self._execs, stub, group)
            await self._listen(call, pusher, execs, group)
            if not writer.said_goodbye:
                raise SessionLost("it ended the stream")
            self.left.set()
            writing.cancel()
            redialling.cancel()

    async def _until_renewed(self) -> None:
        self._renewed.clear()
        await self._renewed.wait()
        raise Renewed("our certificate is another one")

    def _why(self, group: BaseExceptionGroup[BaseException]) -> SessionLost | NameTaken:
        """What ended the session, in words for people."""
        errors = leaves(group)
        for error in errors:
            if isinstance(error, SessionLost):
                return error
        for error in errors:
            if isinstance(error, grpc.aio.AioRpcError):
                ended = "" if ended_unread(error) else error.details()
                return self._refused(error.code(), ended or "the stream ended")
        return SessionLost("the stream ended")

    def _refused(self, code: grpc.StatusCode, details: str) -> SessionLost | NameTaken:
        if code is grpc.StatusCode.ALREADY_EXISTS:
            if not self._ever_welcome and not self._supervisor.runs_anything:
                return NameTaken(details)
            return SessionLost(details, REFUSED_PAUSE_S)
        if code in _HUMANS_ACT:
            return SessionLost(details, REFUSED_PAUSE_S)
        if code is grpc.StatusCode.UNAVAILABLE and _NO_CONNECTION in details:
            return Unreached(f"{details} ({code.name})")
        return SessionLost(f"{details} ({code.name})")

    async def _join(self, call: Call, address: str) -> tuple[pb.Welcome, State]:
        """Hello and Welcome; returns that and what the Hello said."""
        try:
            async with asyncio.timeout(WELCOME_WITHIN_S):
                hello, told = await self._hello(address)
                await call.write(hello)
                first = await call.read()
        except TimeoutError:
            raise SessionLost(f"no answer within {WELCOME_WITHIN_S:.0f} s") from None
        if not isinstance(first, pb.CoordinatorMessage) or not first.HasField("welcome"):
            raise SessionLost("it did not begin with a welcome", REFUSED_PAUSE_S)
        await self._welcome(first.welcome, address)
        return first.welcome, told

    async def _hello(self, address: str) -> tuple[pb.AgentMessage, State]:
        described = await self._describe(address)
        memory = self._journal.memory
        host = structs.replace(
            described,
            instances=self._supervisor.statuses(),
            complaint=self._complaint,
            generation=memory.generation,
            cluster_epoch=memory.cluster_epoch,
            ahead=self._ahead,
        )
        hello = pb.Hello(
            host=wire.host_status_to_pb(host),
            cluster_id=memory.cluster_id,
            epoch=memory.epoch,
            generation=memory.generation,
            takes_bundles=True,
        )
        # A Hello cannot say that we are leaving.
        return pb.AgentMessage(hello=hello), replace(self.take_state(), leaving=False)

    async def _welcome(self, welcome: pb.Welcome, address: str) -> None:
        memory = self._journal.memory
        foreign = orders.judge_cluster(memory, welcome.cluster_id)
        if foreign:
            raise SessionLost(foreign, REFUSED_PAUSE_S)
        if not memory.cluster_id:
            try:
                await self._journal.commit(cluster_id=welcome.cluster_id)
            except JournalError as error:
                raise SessionLost(str(error), REFUSED_PAUSE_S) from error
        self._ever_welcome = True
        self._reported.clear()
        self.reached, self._welcomed_s = address, asyncio.get_running_loop().time()
        notice_cuts()
        self._know(welcome.coordinator_addresses)
        self._moved()
        log.info("session %s with coordinator %s at %s",
                 welcome.session_id, welcome.coordinator_id, address)  # fmt: skip

    # -- listening ---------------------------------------------------------------------------------

    async def _listen(
        self, call: Call, pusher: LogPusher, execs: ExecPusher, group: asyncio.TaskGroup
    ) -> None:
        """Until the coordinator ends the stream."""
        while True:
            message = await call.read()
            if not isinstance(message, pb.CoordinatorMessage):
                return
            match message.WhichOneof("message"):
                case "assignments":
                    await self._take_orders(message.assignments)
                case "open_logs" | "close_logs":
                    pusher.take(message)
                case "open_exec":
                    execs.open(message.open_exec)
                case "sample_usage":
                    group.create_task(self._sample(message.sample_usage))
                case _:
                    self._hear(message)

    def _hear(self, message: pb.CoordinatorMessage) -> None:
        """What only changes what we know."""
        match message.WhichOneof("message"):
            case "ack":
                # After a break the whole table is sent: nothing waits for one of a batch.
                until_s = self._sent.until_s(message.ack.heartbeat)
                self._supervisor.exclusives.lease.extend(until_s)
            case "trust":
                self._learn(message.trust)
            case "coordinators":
                self._know(message.coordinators.addresses)
            case "pace":
                self._relaxed_s = message.pace.relaxed_period_s or self._period_s
                self._wake.set()
            case "redirect":
                raise Moved(message.redirect.address)
            case other:
                log.debug("coordinator: %s", other)

    async def _take_orders(self, message: pb.Assignments) -> None:
        try:
            verdict = await self._supervisor.take(wire.assignments_from_pb(message))
        except wire.WireError as error:
            self._complain(f"refused orders that this agent cannot read: {error}")
            return
        except JournalError as error:
            self._complain(f"{error}: new orders wait until it can be written")
            asyncio.get_running_loop().call_later(RESEND_AFTER_S, self._ask_for_all)
            return
        match verdict:
            case orders.Obey():
                self._complaint, self._ahead = "", False
                self._wake.set()
                self._moved()
            case orders.Resend():
                self._ask_for_all()
            case orders.Refuse(complaint=complaint, older=older):
                self._ahead = older
                self._complain(complaint)

    def _know(self, told: Iterable[str]) -> None:
        """Where to go on when the one that we have is lost: not all agents at the same one."""
        others = list(told)
        random.shuffle(others)
        self._addresses = deque(dict.fromkeys((self.reached, *others, *self._given())))
        log.debug("coordinators: %s", " ".join(self._addresses))

    def _learn(self, message: types_pb2.Trust) -> None:
        if message.authorities:
            self._told_of_trust(wire_access.trust_from_pb(message))

    async def _sample(self, request: pb.SampleUsage) -> None:
        try:
            usages = await self._usage.sample(request.app)
        except OSError as error:
            log.warning("what instances use cannot be looked at now: %s", error.strerror)
            usages = ()
        report = pb.UsageReport(
            request_id=request.request_id, instances=[wire.usage_to_pb(item) for item in usages]
        )
        self._reports.append(report)
        self._wake.set()

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            log.error("%s", complaint)
        self._complaint = complaint
        self._wake.set()

    def _ask_for_all(self) -> None:
        self._resend = True
        self._wake.set()

    # -- what the writer sends ---------------------------------------------------------------------

    def take_resend(self) -> bool:
        wanted, self._resend = self._resend, False
        return wanted

    def take_reports(self) -> tuple[pb.UsageReport, ...]:
        reports = tuple(self._reports)
        self._reports.clear()
        return reports

    def take_state(self) -> State:
        return State(
            generation=self._journal.memory.generation,
            cluster_epoch=self._journal.memory.cluster_epoch,
            complaint=self._complaint,
            ahead=self._ahead,
            leaving=self._leaving,
        )

    def heartbeat_period_s(self) -> float:
        return self._period_s if self._supervisor.exclusives.are_any else self._relaxed_s

    def next_heartbeat(self) -> pb.AgentMessage:
        heartbeat = pb.Heartbeat(sequence=self._sent.next(boottime_s()))
        return pb.AgentMessage(heartbeat=heartbeat)

    @property
    def coordinators(self) -> tuple[str, ...]:
        """That we are connected to or were last, then others."""
        return tuple(self._addresses)

    @property
    def supervisor(self) -> Supervisor:
        return self._supervisor


def _time_of_day() -> str:
    return time.strftime("%H:%M:%S")
