"""Log lines on their way from agents (PushLogs streams) to whoever asked (Control.Logs).

Every request has one bounded queue. A reader that is slow lets it fill, which slows the agents'
streams by gRPC's own flow control; nothing here grows with the amount of output.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from formation.v1 import agent_pb2, control_pb2

QUEUE_BATCHES_MAX = 16
# What it says takes a while to come here, never less than nothing.
AHEAD_S, BEHIND_S = 2.0, 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """`done`: this source has sent its history. `ended`: it sends nothing any more. `whole`: since
    it has sent all there is."""

    source: str
    lines: control_pb2.LogsResponse | None = None
    done: bool = False
    ended: bool = False
    whole: bool = False


def clock_notice(host: str, at_us: int, now_us: int) -> control_pb2.LogsResponse | None:
    """When its clock, `at_us` (0: not told), differs so much that lines are in no good order."""
    ahead_s = (at_us - now_us) / 1e6
    if not at_us or -BEHIND_S < ahead_s < AHEAD_S:
        return None
    clock = f"{abs(ahead_s):,.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the coordinator's"
    said = f"host {host}: its clock is {clock}, and its lines are sorted by it"
    return control_pb2.LogsResponse(notice=said)


@dataclass(slots=True)
class Heard:
    """What arrived from one host: where each instance is, and since when the others are heard."""

    seen: dict[tuple[str, str, int], agent_pb2.LogPlace] = field(default_factory=dict)
    since_us: int = 0


@dataclass(slots=True, eq=False)
class LogRequest:
    queue: asyncio.Queue[Delivery] = field(default_factory=lambda: asyncio.Queue(QUEUE_BATCHES_MAX))
    tokens: dict[str, str] = field(default_factory=dict)
    heard: dict[str, Heard] = field(default_factory=dict)

    async def take(
        self,
        delivery: Delivery,
        done_at_us: int = 0,
        ends: Iterable[agent_pb2.LogPlace] = (),
    ) -> None:
        """What is in the queue goes out, so a host that comes back goes on behind it.

        `done_at_us`: when the history of this source ended, by its own clock; 0 when not now.
        `ends`: where the lines end, of a host that says it; an older one's are counted.
        """
        await self.queue.put(delivery)
        if done_at_us:
            self.heard.setdefault(delivery.source, Heard()).since_us = done_at_us
        told = False
        for place in ends:
            told = True
            heard = self.heard.setdefault(delivery.source, Heard())
            heard.seen[place.app, place.type, place.ordinal] = place
        if not told and delivery.lines is not None:
            self._count(delivery.lines.lines)

    def _count(self, lines: Iterable[agent_pb2.LogLine]) -> None:
        for line in lines:
            if line.gap:
                continue  # stands in no file
            heard = self.heard.setdefault(line.host, Heard())
            where = (line.app, line.type, line.ordinal)
            place = heard.seen.get(where)
            if place is not None and place.at_us == line.at_us:
                place.lines += 1
            else:
                heard.seen[where] = agent_pb2.LogPlace(
                    app=line.app, type=line.type, ordinal=line.ordinal, at_us=line.at_us, lines=1
                )


class LogRelay:
    """Tokens are handed to one agent each, so a stream can speak only for the host it was given."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._requests: dict[str, tuple[LogRequest, str]] = {}

    @contextmanager
    def open(self) -> Iterator[LogRequest]:
        request = LogRequest()
        try:
            yield request
        finally:
            for token in request.tokens.values():
                self._requests.pop(token, None)

    def expect(self, request: LogRequest, host: str) -> str:
        """A token for the stream that `host` is about to open; an earlier one is void."""
        self._requests.pop(request.tokens.get(host, ""), None)
        token = self._new_id()
        request.tokens[host] = token
        self._requests[token] = (request, host)
        return token

    def find(self, token: str) -> tuple[LogRequest, str] | None:
        return self._requests.get(token)

    def follows(self, host: str) -> bool:
        """Somebody reads its logs through us."""
        return any(asked == host for _, asked in self._requests.values())
