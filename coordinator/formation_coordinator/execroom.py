"""Commands that people run beside instances, on their way between them and the agents.

Messages are passed on one by one, each when the one before was taken: nothing is kept here. When
either side goes, the other one is let go of. See docs/design/exec.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from formation.dialling import Dialler, NotTrustedError
from formation.execflow import COMMAND_CHARS_MAX, SILENCE_S
from formation.model import Coordinator
from formation.v1 import agent_pb2, control_pb2_grpc, exec_pb2
from formation.v1 import control_pb2 as pb
from formation_coordinator.api_errors import Context
from formation_coordinator.changing import ControlError, Invalid, Refused, Unknown
from formation_coordinator.control_exec import ExecControl
from formation_coordinator.execchoice import NoPlace, choose
from formation_coordinator.execdesk import Ticket
from formation_coordinator.execfeed import MESSAGE_BYTES_MAX, Feed
from formation_coordinator.live import LiveWorld
from formation_coordinator.sessions import Sessions
from formation_coordinator.store.base import StoreError

log = logging.getLogger(__name__)

AGENT_ANSWERS_S = 10.0
RUNS_MAX = 256
ASKER_GONE = f"its asker has gone, or said nothing for {SILENCE_S:g} s"
_LAST_WORDS_S = 2.0
_RECORD_TRIES, _RECORD_AGAIN_S = 10, 3.0

Inputs = AsyncIterator[exec_pb2.ExecInput]
ToClient = Callable[[exec_pb2.ExecOutput], Awaitable[Any]]


class Broken(ControlError):
    """What was between us and the process has gone; the process ends."""


class AskerGone(Broken):
    """Nobody is there to be told."""


class ExecRoom:
    def __init__(
        self,
        *,
        sessions: Sessions,
        live: LiveWorld,
        me: Coordinator,
        dialler: Dialler,
        control: ExecControl,
    ) -> None:
        self._sessions, self._live, self._me, self._dialler = sessions, live, me, dialler
        self._desk, self._control = sessions.execs, control
        self._open = 0
        self._recording: set[asyncio.Task[None]] = set()

    # -- what is asked for -------------------------------------------------------------------------

    def start(self, request: pb.StartExecRequest) -> pb.StartExecResponse:
        """Raises `ControlError`."""
        if not request.command.strip():
            raise Invalid("nothing to run: give a command")
        if len(request.command) > COMMAND_CHARS_MAX:
            raise Invalid(f"a command has {COMMAND_CHARS_MAX} characters at most")
        found = choose(self._live.world, request.app, request.type, request.ordinal)
        if isinstance(found, NoPlace):
            raise Unknown(found.reason) if found.unknown else Refused(found.reason)
        start = exec_pb2.ExecStart(
            app=found.slot.app,
            type=found.slot.type,
            ordinal=found.slot.ordinal,
            uid=found.uid,
            host=found.host,
            command=request.command,
            terminal=request.terminal if request.HasField("terminal") else None,
        )
        ticket = self._desk.hand_out(start, request.who)
        if not ticket:
            raise Refused("too many commands are about to begin; try again")
        return pb.StartExecResponse(ticket=ticket, start=start)

    async def run(self, inputs: Inputs, context: Context) -> None:
        """The stream of whoever has a ticket."""
        await self._answer(inputs, context, self._audited)

    async def relay(self, inputs: Inputs, context: Context) -> None:
        """The same of another coordinator, which has looked at everything."""
        await self._answer(inputs, context, self._relayed)

    async def _answer(
        self, inputs: Inputs, context: Context, work: Callable[[Feed, ToClient], Awaitable[None]]
    ) -> None:
        """Whatever goes wrong is told as an end, in the order of the stream."""
        feed = Feed(inputs)
        try:
            try:
                await work(feed, context.write)
            except AskerGone:
                return
            except (ControlError, StoreError) as error:
                ended = exec_pb2.ExecEnded(code=1, why=str(error))
                await context.write(exec_pb2.ExecOutput(ended=ended))
            await feed.over()
        finally:
            feed.close()

    async def _relayed(self, feed: Feed, write: ToClient) -> None:
        first = await feed.first()
        if first.WhichOneof("message") != "start":
            raise Invalid("the first message must say what to start")
        if first.start.host not in self._sessions.held:
            raise Refused(f"host {first.start.host} has gone on to another coordinator; try again")
        await self._through_agent(first.start, feed, _Way(write))

    async def _audited(self, feed: Feed, write: ToClient) -> None:
        ticket = self._desk.redeem((await feed.first()).ticket)
        if ticket is None:
            raise Refused("this ticket is not good any more; try again")
        if self._open >= RUNS_MAX:
            raise Refused(f"{RUNS_MAX} commands run through coordinator {self._me.id} already")
        self._open += 1
        try:
            await self._recorded(ticket, feed, _Way(write))
        finally:
            self._open -= 1

    async def _recorded(self, ticket: Ticket, feed: Feed, way: _Way) -> None:
        trouble = ASKER_GONE
        number = await self._control.began(ticket.start, ticket.who)
        try:
            await self._through(ticket.start, feed, way)
        except ControlError as error:
            trouble = str(error)
            raise
        finally:
            # Also when we are being cancelled, so as a task of its own.
            how = _how(way.ended) if way.ended else trouble
            task = asyncio.create_task(self._record_end(ticket, number, how))
            self._recording.add(task)
            task.add_done_callback(self._recording.discard)

    async def _record_end(self, ticket: Ticket, number: str, how: str) -> None:
        for _ in range(_RECORD_TRIES):
            try:
                await self._control.ended(ticket.start, ticket.who, number, how)
                return
            except (StoreError, ControlError) as error:
                log.warning("the end of an exec is not written down yet: %s", error)
                await asyncio.sleep(_RECORD_AGAIN_S)

    async def close(self) -> None:
        """What has ended a moment ago is still written down."""
        if self._recording:
            await asyncio.wait(self._recording, timeout=_LAST_WORDS_S)

    # -- the way -----------------------------------------------------------------------------------

    async def _through(self, start: exec_pb2.ExecStart, feed: Feed, way: _Way) -> None:
        if start.host in self._sessions.held:
            return await self._through_agent(start, feed, way)
        entry = self._live.world.hosts.get(start.host)
        holder = entry.session.coordinator_id if entry and entry.session else ""
        other = self._live.world.coordinators.get(holder)
        if other is None or other.id == self._me.id:
            raise Refused(f"host {start.host} is silent: nothing can be run there now")
        return await self._through_other(other, start, feed, way)

    async def _through_agent(self, start: exec_pb2.ExecStart, feed: Feed, way: _Way) -> None:
        session = self._sessions.held[start.host]
        with self._desk.expect(start.host) as (token, meeting):
            order = agent_pb2.OpenExec(request_id=token, start=start)
            session.send(agent_pb2.CoordinatorMessage(open_exec=order))
            try:
                async with asyncio.timeout(AGENT_ANSWERS_S):
                    agent = await meeting.agent
            except TimeoutError:
                raise Refused(
                    f"host {start.host}: its agent has not answered within {AGENT_ANSWERS_S:g} s; "
                    "is it older than this coordinator, or cut off?"
                ) from None
            feed.pass_on(agent.write)
            outputs = (push.output async for push in agent.pushes)
            await way.go(outputs, feed, meeting.lost)
        if way.ended is None:
            raise Broken(
                f"the connection to the agent of host {start.host} has broken; what ran there ends"
            )

    async def _through_other(
        self, other: Coordinator, start: exec_pb2.ExecStart, feed: Feed, way: _Way
    ) -> None:
        gone = f"coordinator {other.id} has gone; what ran there ends"
        try:
            async with self._dialler.channel(other.address) as channel:
                call = control_pb2_grpc.ControlStub(channel).RelayExec()
                await call.write(exec_pb2.ExecInput(start=start))
                feed.pass_on(call.write)
                await way.go(aiter(call), feed, None)
                if way.ended:
                    await call.done_writing()
        except NotTrustedError as error:
            raise Broken(f"coordinator {other.id}: {error}") from error
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            if way.ended is None:
                raise Broken(gone) from error
        if way.ended is None:
            raise Broken(gone)


@dataclass(slots=True)
class _Way:
    """Of the output, to whoever asked. `ended`: as it was told."""

    write: ToClient
    ended: exec_pb2.ExecEnded | None = None

    async def go(
        self,
        outputs: AsyncIterator[exec_pb2.ExecOutput],
        feed: Feed,
        lost: asyncio.Event | None,
    ) -> None:
        """Until it has ended, or the process's side went away. Raises `AskerGone`."""
        back = asyncio.create_task(self._back(outputs))
        tasks: set[asyncio.Task[Any]] = {back, asyncio.create_task(feed.left.wait())}
        tasks |= {asyncio.create_task(e.wait()) for e in (feed.stuck, lost) if e is not None}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not feed.left.is_set() or self.ended:
                # What was said last may be on its way.
                await asyncio.wait({back}, timeout=_LAST_WORDS_S)
            await feed.stop()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self.ended is None and feed.left.is_set():
            raise AskerGone(ASKER_GONE)

    async def _back(self, outputs: AsyncIterator[exec_pb2.ExecOutput]) -> None:
        async for message in outputs:
            if message.ByteSize() > MESSAGE_BYTES_MAX:
                return
            if message.WhichOneof("message") == "ended":
                self.ended = message.ended
            await self.write(message)
            if self.ended is not None:
                return


def _how(ended: exec_pb2.ExecEnded) -> str:
    return ": ".join(filter(None, (ended.how, ended.why)))
