"""Streams between agents and coordinators: ordered, delayed, cut off, broken; as gRPC's behave.

A cut holds messages back and breaks what it holds when keepalive has waited long enough. A stream
that breaks tells its agent so, and ends the coordinator's handler.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio

from formation.v1 import agent_pb2 as pb

DELAY_S = (0.0002, 0.005)
KEEPALIVE_S = (2.0, 4.5)
REFUSED_S = 0.001

Handler = Callable[[AsyncIterator[pb.AgentMessage], Any], Coroutine[Any, Any, None]]
_EOF = object()


def rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


class Direction:
    """One way of a stream: what is put in comes out in order, later."""

    def __init__(self, dice: random.Random, delivered: Callable[[], None]) -> None:
        self._dice, self._delivered = dice, delivered
        self._loop = asyncio.get_running_loop()
        self._last_s = 0.0
        self._held: deque[object] = deque()
        self._arrived: deque[object] = deque()
        self._news = asyncio.Event()
        self.cut = False

    def put(self, item: object) -> None:
        self._last_s = max(self._last_s, self._loop.time() + self._dice.uniform(*DELAY_S))
        self._loop.call_at(self._last_s, self._arrive, item)

    def _arrive(self, item: object) -> None:
        if self.cut:
            self._held.append(item)
            return
        self._delivered()
        self._arrived.append(item)
        self._news.set()

    def heal(self) -> None:
        self.cut = False
        held, self._held = self._held, deque()
        for item in held:
            self._arrive(item)

    def end_now(self, item: object) -> None:
        """Nothing of what is under way arrives any more."""
        self._held.clear()
        self._arrived.clear()
        self._arrived.append(item)
        self._news.set()

    async def take(self) -> object:
        while not self._arrived:
            self._news.clear()
            await self._news.wait()
        return self._arrived.popleft()


class Stream:
    """One session's stream; the agent holds it as a call, the coordinator's handler as context."""

    def __init__(
        self, dice: random.Random, handler: Handler, delivered: Callable[[], None]
    ) -> None:
        self._dice = dice
        self._up, self._down = Direction(dice, delivered), Direction(dice, delivered)
        self._status: tuple[grpc.StatusCode, str] | None = None
        self._keepalive: asyncio.TimerHandle | None = None
        self.broken = False
        self._task = asyncio.create_task(self._handle(handler))

    @property
    def over(self) -> bool:
        return self._task.done()

    async def _handle(self, handler: Handler) -> None:
        try:
            await handler(self._requests(), self)
        except grpc.aio.AbortError:
            assert self._status is not None
            self._down.put(rpc_error(*self._status))
        except asyncio.CancelledError:
            self.break_("cancelled")
        else:
            self._down.put(_EOF)

    # -- faults

    def cut(self, *, up: bool = True, down: bool = True) -> None:
        self._up.cut |= up
        self._down.cut |= down
        if self._keepalive is None:
            after_s = self._dice.uniform(*KEEPALIVE_S)
            loop = asyncio.get_running_loop()
            self._keepalive = loop.call_later(after_s, self.break_, "keepalive timed out")

    def heal(self) -> None:
        if self._keepalive is not None:
            self._keepalive.cancel()
            self._keepalive = None
        self._up.heal()
        self._down.heal()

    def break_(self, why: str) -> None:
        """Both ends see it at once, as after a reset or when keepalive has given up."""
        if self.broken:
            return
        self.broken = True
        if self._keepalive is not None:
            self._keepalive.cancel()
        self._down.end_now(rpc_error(grpc.StatusCode.UNAVAILABLE, why))
        self._up.end_now(_EOF)
        self._task.cancel()

    # -- the agent's end

    async def read(self) -> object:
        item = await self._down.take()
        if isinstance(item, BaseException):
            raise item
        return grpc.aio.EOF if item is _EOF else item

    # -- the coordinator's end, as a context

    async def _requests(self) -> AsyncIterator[pb.AgentMessage]:
        while isinstance(item := await self._up.take(), pb.AgentMessage):
            yield item

    async def write(self, message: object) -> None:
        if self.broken:
            raise asyncio.InvalidStateError("the stream is over")
        self._down.put(message)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self._status = code, details
        raise grpc.aio.AbortError(details)

    def say(self, message: object) -> None:
        self._up.put(message)


class Call:
    """What the agent's session holds. Without a stream nobody answers, or somebody refuses."""

    def __init__(self, stream: Stream | None, *, refused: bool = False) -> None:
        self._stream, self._refused = stream, refused

    async def write(self, message: object) -> None:
        if self._refused:
            await asyncio.sleep(REFUSED_S)
            raise rpc_error(grpc.StatusCode.UNAVAILABLE, "connection refused")
        if self._stream is None:
            await asyncio.get_running_loop().create_future()  # for ever
        elif self._stream.broken:
            raise asyncio.InvalidStateError("the stream is over")
        else:
            self._stream.say(message)

    async def read(self) -> object:
        if self._stream is None:
            return await asyncio.get_running_loop().create_future()
        return await self._stream.read()

    async def done_writing(self) -> None:
        if self._stream is not None:
            self._stream.say(_EOF)

    def cancel(self) -> None:
        if self._stream is not None and not self._stream.over:
            self._stream.break_("cancelled by the agent")


class Stub:
    def __init__(self, dialled: Callable[[], Call]) -> None:
        self._dialled = dialled

    def Session(self) -> Call:  # noqa: N802  gRPC's name
        return self._dialled()


class Network:
    """Who reaches whom. `handlers`: the coordinators that listen, by address."""

    def __init__(self, dice: random.Random, delivered: Callable[[], None]) -> None:
        self._dice, self._delivered = dice, delivered
        self.handlers: dict[str, Handler] = {}
        self._cut: dict[tuple[str, str], tuple[bool, bool]] = {}
        self._streams: dict[tuple[str, str], list[Stream]] = {}

    def dial(self, host: str) -> Callable[[str, float], Any]:
        @asynccontextmanager
        async def dialled(address: str, _: float) -> AsyncIterator[Stub]:
            yield Stub(lambda: self._call(host, address))

        return dialled

    def _call(self, host: str, address: str) -> Call:
        if (host, address) in self._cut:
            return Call(None)
        handler = self.handlers.get(address)
        if handler is None:
            return Call(None, refused=True)
        stream = Stream(self._dice, handler, self._delivered)
        self.of(host, address).append(stream)
        return Call(stream)

    def of(self, host: str, address: str) -> list[Stream]:
        streams = self._streams.setdefault((host, address), [])
        streams[:] = [stream for stream in streams if not (stream.over or stream.broken)]
        return streams

    def cut(self, host: str, address: str, *, up: bool = True, down: bool = True) -> None:
        self._cut[host, address] = up, down
        for stream in self.of(host, address):
            stream.cut(up=up, down=down)

    def heal(self, host: str, address: str) -> None:
        if self._cut.pop((host, address), None) is not None:
            for stream in self.of(host, address):
                stream.heal()

    def heal_all(self) -> None:
        for host, address in list(self._cut):
            self.heal(host, address)

    def is_cut(self, host: str) -> bool:
        return any(one == host for one, _ in self._cut)

    def break_host(self, host: str, why: str) -> None:
        for one, address in list(self._streams):
            if one == host:
                for stream in list(self.of(one, address)):
                    stream.break_(why)

    def break_coordinator(self, address: str, why: str) -> None:
        for host, one in list(self._streams):
            if one == address:
                for stream in list(self.of(host, one)):
                    stream.break_(why)

    async def at_rest(self) -> None:
        """Ends every stream, and waits for their handlers."""
        tasks = [s._task for streams in self._streams.values() for s in streams]
        for streams in self._streams.values():
            for stream in streams:
                stream.break_("the simulation is over")
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
