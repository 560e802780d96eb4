"""One reader's log lines from everywhere: sessions held here, and other coordinators' sessions.

Every source sends its history, then says so; `history_done` goes out once, when all have. A host
that joins during a follow is asked too: for what did not arrive yet when it was asked before (its
session broke and came back), else from the present on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence

import grpc

from formation import wire_logs
from formation.dialling import Dialler, NotTrustedError, words
from formation.gaps import Gap
from formation.model import Coordinator
from formation.runtime import now_ms
from formation.v1 import agent_pb2, control_pb2_grpc
from formation.v1 import control_pb2 as pb
from formation_coordinator.live import LiveWorld
from formation_coordinator.logrelay import Delivery, Heard, LogRelay, LogRequest
from formation_coordinator.registration import AgentSession
from formation_coordinator.sessions import Sessions

log = logging.getLogger(__name__)

HISTORY_TIMEOUT_S = 10.0
REDIAL_S = 1.0
# As much as a host may have written while its session was broken.
GAP_LINES_MAX = 10_000
_COORDINATOR, _HERE = "coordinator ", "here"


class LogFan:
    def __init__(
        self,
        *,
        sessions: Sessions,
        relay: LogRelay,
        live: LiveWorld,
        me: Coordinator,
        dialler: Dialler,
    ) -> None:
        self._sessions, self._relay, self._live, self._me = sessions, relay, live, me
        self._dialler = dialler

    async def read(self, request: pb.LogsRequest) -> AsyncIterator[pb.LogsResponse]:
        """Lines as they come; ends by itself after the history unless `follow`."""
        joins = self._sessions.watch_joins()
        tasks: list[asyncio.Task[None]] = []
        with self._relay.open() as here:
            try:
                waiting = self._ask_all(request, here)
                if not request.relayed:
                    others = self._others()
                    waiting |= {_source(other) for other in others}
                    tasks.append(asyncio.create_task(self._relay_others(request, here, others)))
                if request.follow:
                    tasks.append(asyncio.create_task(self._ask_joining(request, here, joins)))
                gone = self._gone(request)
                for host in gone:
                    yield told(wire_logs.host_gap(Gap.HOST_LOST, host, now_ms() * 1000))
                async for response in _Merge(here, waiting, request, gone).run():
                    yield response
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._sessions.unwatch_joins(joins)
                self._close_all(here)

    def _gone(self, request: pb.LogsRequest) -> list[str]:
        """Hosts that nobody reaches now."""
        if request.relayed:
            return []
        return [
            host
            for host, entry in sorted(self._live.world.hosts.items())
            if entry.known
            and not entry.connected
            and host not in self._sessions.held
            and _is_wanted(host, request)
        ]

    def _ask_all(self, request: pb.LogsRequest, here: LogRequest) -> set[str]:
        asked = {
            host: session
            for host, session in self._sessions.held.items()
            if _is_wanted(host, request)
        }
        for session in asked.values():
            self._ask(session, request, here, tail_lines=request.tail_lines)
        return set(asked)

    def _ask(
        self,
        session: AgentSession,
        request: pb.LogsRequest,
        here: LogRequest,
        *,
        tail_lines: int,
        heard: Heard | None = None,
    ) -> None:
        heard = heard or Heard()
        open_logs = agent_pb2.OpenLogs(
            request_id=self._relay.expect(here, session.host),
            app=request.app,
            type=request.type,
            ordinal=request.ordinal,
            tail_lines=tail_lines,
            follow=request.follow,
            choice=request.choice,
            seen=heard.seen.values(),
            since_us=heard.since_us,
        )
        session.send(agent_pb2.CoordinatorMessage(open_logs=open_logs))

    async def _ask_joining(
        self,
        request: pb.LogsRequest,
        here: LogRequest,
        joins: asyncio.Queue[AgentSession],
    ) -> None:
        while True:
            session = await joins.get()
            if not _is_wanted(session.host, request):
                continue
            heard = here.heard.get(session.host)
            # Without `since_us` its history had not ended: what is left of it is still wanted.
            tail_lines = request.tail_lines if heard else 0
            if heard and heard.since_us:
                tail_lines = GAP_LINES_MAX
            self._ask(session, request, here, tail_lines=tail_lines, heard=heard)

    def _close_all(self, here: LogRequest) -> None:
        for host, token in here.tokens.items():
            session = self._sessions.held.get(host)
            if session is not None:
                close = agent_pb2.CloseLogs(request_id=token)
                session.send(agent_pb2.CoordinatorMessage(close_logs=close))

    async def _relay_others(
        self, request: pb.LogsRequest, here: LogRequest, first: list[Coordinator]
    ) -> None:
        """Every other coordinator's sessions; while following, also those that come (back)."""
        async with asyncio.TaskGroup() as group:
            relays = {o.id: group.create_task(self._from(o, request, here)) for o in first}
            later = pb.LogsRequest()
            later.CopyFrom(request)
            later.tail_lines = 0
            while request.follow:
                await asyncio.sleep(REDIAL_S)
                for other in self._others():
                    if other.id not in relays or relays[other.id].done():
                        relays[other.id] = group.create_task(self._from(other, later, here))

    def _others(self) -> list[Coordinator]:
        mine = self._me.id
        return [other for other in self._live.world.coordinators.values() if other.id != mine]

    async def _from(self, other: Coordinator, request: pb.LogsRequest, here: LogRequest) -> None:
        """Relay another coordinator's sessions; its loss is a notice, not an error."""
        relayed = pb.LogsRequest()
        relayed.CopyFrom(request)
        relayed.relayed = True
        notice = ""
        try:
            async with self._dialler.channel(other.address) as channel:
                call = control_pb2_grpc.ControlStub(channel).Logs(relayed)
                async for response in call:
                    await here.take(
                        Delivery(source=_source(other), lines=response, done=response.history_done)
                    )
        except (grpc.aio.AioRpcError, NotTrustedError) as error:
            notice = f"{_source(other)}: {words(error)}; logs of its hosts are missing"
        gap = agent_pb2.LogLine(gap=wire_logs.gap_to_pb(Gap.HOST_LOST), text=notice.encode())
        gap.at_us = now_ms() * 1000
        lines = told(gap) if notice else None
        await here.queue.put(Delivery(source=_source(other), lines=lines, done=True, ended=True))


def _is_wanted(host: str, request: pb.LogsRequest) -> bool:
    return not request.hosts or host in request.hosts


def _source(other: Coordinator) -> str:
    """Not to be mistaken for a host of the same name: no host's name has a blank."""
    return f"{_COORDINATOR}{other.id}"


class _Merge:
    """Everything as it comes, the one history_done when the last source has sent its own, and
    where the lines of a host break off and go on."""

    def __init__(
        self, here: LogRequest, waiting: set[str], request: pb.LogsRequest, lost: Sequence[str]
    ) -> None:
        self._here, self._waiting = here, waiting
        self._follow, self._relayed = request.follow, request.relayed
        self._said = False
        self._done: set[str] = set()
        self._lost = dict.fromkeys(lost, _HERE)  # and through which coordinator

    async def run(self) -> AsyncIterator[pb.LogsResponse]:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + HISTORY_TIMEOUT_S
        while True:
            if not self._waiting and not self._said:
                self._said = True
                yield pb.LogsResponse(history_done=True)
            if self._said and not self._follow:
                return
            try:
                async with asyncio.timeout_at(None if self._said else deadline_s):
                    delivery = await self._here.queue.get()
            except TimeoutError:
                missing = ", ".join(sorted(self._waiting))
                yield pb.LogsResponse(notice=f"{missing}: sent no history; going on without")
                self._waiting.clear()
                continue
            deadline_s = loop.time() + HISTORY_TIMEOUT_S
            for response in self._responses(delivery):
                yield response

    def _responses(self, delivery: Delivery) -> Iterator[pb.LogsResponse]:
        found = delivery.lines
        if found is not None and found.gap.gap:
            found = self._told_elsewhere(delivery.source, found)
        if found is not None:
            found.history_done = False
            yield found
        if not delivery.source.startswith(_COORDINATOR):
            yield from self._breaks(delivery)
        if delivery.done:
            self._waiting.discard(delivery.source)
            self._done.add(delivery.source)

    def _breaks(self, delivery: Delivery) -> Iterator[pb.LogsResponse]:
        """Of a host whose session is held here."""
        host = delivery.source
        if delivery.whole:
            return
        if delivery.ended and (self._follow or host not in self._done):
            self._lost[host] = _HERE
            yield told(wire_logs.host_gap(Gap.HOST_LOST, host, now_ms() * 1000))
        elif delivery.done and (host in self._lost or (self._relayed and self._said)):
            self._lost.pop(host, None)
            yield told(wire_logs.host_gap(Gap.HOST_BACK, host, now_ms() * 1000))

    def _told_elsewhere(self, source: str, found: pb.LogsResponse) -> pb.LogsResponse | None:
        """What another coordinator says of one of its hosts, if that is news. Of one that was lost
        here it does not know what came here, and it goes on with what comes now."""
        host, at_us = found.gap.host, found.gap.at_us
        if wire_logs.gap_from_pb(found.gap.gap) is not Gap.HOST_BACK:
            self._lost[host] = source
            return found
        lost = self._lost.pop(host, None)
        if lost in (None, source):
            return found if lost else None
        return told(wire_logs.host_gap(Gap.HOST_BACK, host, at_us, whole=False))


def told(gap: agent_pb2.LogLine) -> pb.LogsResponse:
    return pb.LogsResponse(notice=gap.text.decode(errors="replace"), gap=gap)
