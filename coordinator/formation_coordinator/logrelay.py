"""Log lines on their way from agents (PushLogs streams) to whoever asked (Control.Logs).

Every request has one bounded queue. A reader that is slow lets it fill, which slows the agents'
streams by gRPC's own flow control; nothing here grows with the amount of output.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from formation.v1 import agent_pb2, control_pb2

QUEUE_BATCHES_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """`done`: this source has sent its history. `ended`: it sends nothing any more."""

    source: str
    lines: control_pb2.LogsResponse | None = None
    done: bool = False
    ended: bool = False


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

    async def take(self, delivery: Delivery, done_at_us: int = 0) -> None:
        """What is in the queue goes out, so a host that comes back goes on behind it.

        `done_at_us`: when the history of this source ended, by its own clock; 0 when not now.
        """
        await self.queue.put(delivery)
        if done_at_us:
            self.heard.setdefault(delivery.source, Heard()).since_us = done_at_us
        for line in delivery.lines.lines if delivery.lines is not None else ():
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
