"""Who may go on with which exec: tickets for people, tokens for agents, each good once.

A ticket is its caller's alone, a token its host's. What nobody comes for is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc.aio

from formation.identity import Identity
from formation.v1 import agent_pb2, exec_pb2
from formation_coordinator.guard import caller

TICKET_S = 10.0
TICKETS_MAX, TICKETS_EACH_MAX = 1_000, 100
_FIRST_WORD_S = 10.0

Stream = grpc.aio.ServicerContext[agent_pb2.ExecPush, exec_pb2.ExecInput]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """`who`: for the audit; `identity`: who may show it, None where nobody is known."""

    start: exec_pb2.ExecStart
    who: str
    identity: Identity | None
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSide:
    pushes: AsyncIterator[agent_pb2.ExecPush]
    write: Callable[[exec_pb2.ExecInput], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Meeting:
    """Where an agent's stream comes to. `over`: it is not needed any more; `lost`: it ended."""

    host: str
    agent: asyncio.Future[AgentSide] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    over: asyncio.Event = field(default_factory=asyncio.Event)
    lost: asyncio.Event = field(default_factory=asyncio.Event)


class ExecDesk:
    def __init__(self, new_id: Callable[[], str], clock: Callable[[], float]) -> None:
        self._new_id, self._clock = new_id, clock
        self._tickets: dict[str, Ticket] = {}
        self._meetings: dict[str, Meeting] = {}

    # -- people ------------------------------------------------------------------------------------

    def hand_out(self, start: exec_pb2.ExecStart, who: str) -> str:
        """ "" when too many wait already."""
        now_s = self._clock()
        for name in [name for name, ticket in self._tickets.items() if ticket.until_s <= now_s]:
            del self._tickets[name]
        mine = sum(t.identity == caller().identity for t in self._tickets.values())
        if len(self._tickets) >= TICKETS_MAX or mine >= TICKETS_EACH_MAX:
            return ""
        ticket = Ticket(start=start, who=who, identity=caller().identity, until_s=now_s + TICKET_S)
        name = self._new_id()
        self._tickets[name] = ticket
        return name

    def redeem(self, name: str) -> Ticket | None:
        """None when there is none, any more, for this caller."""
        ticket = self._tickets.get(name)
        if ticket is None or ticket.identity != caller().identity:
            return None
        del self._tickets[name]
        return ticket if self._clock() < ticket.until_s else None

    # -- agents ------------------------------------------------------------------------------------

    @contextmanager
    def expect(self, host: str) -> Iterator[tuple[str, Meeting]]:
        """A token for the stream that this host is about to open, and where to wait for it."""
        token, meeting = self._new_id(), Meeting(host)
        self._meetings[token] = meeting
        try:
            yield token, meeting
        finally:
            self._meetings.pop(token, None)
            meeting.over.set()
            meeting.agent.cancel()

    def follows(self, host: str) -> bool:
        """A command runs there for somebody."""
        return any(meeting.host == host for meeting in self._meetings.values())

    async def meet(self, pushes: AsyncIterator[agent_pb2.ExecPush], context: Stream) -> None:
        """An agent's stream, for as long as it is needed."""
        pushes = aiter(pushes)
        try:
            async with asyncio.timeout(_FIRST_WORD_S):
                first = await anext(pushes, None)
        except TimeoutError:
            return
        meeting = self._meetings.get(first.request_id) if first is not None else None
        if meeting is None or not caller().speaks_for(meeting.host) or meeting.agent.done():
            return
        meeting.agent.set_result(AgentSide(pushes=pushes, write=context.write))
        try:
            await meeting.over.wait()
        finally:
            meeting.lost.set()
