"""What somebody sends towards a process, taken message by message until the stream is over.

One reader for the whole life of a stream: it goes on reading when nobody wants what comes, since
gRPC's client loses what it was told when it writes to a stream whose other end has closed it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from formation.execflow import CHUNK_BYTES, SILENCE_S
from formation.v1 import exec_pb2
from formation_coordinator.changing import Invalid

_FIRST_WORD_S = 10.0
_LAST_WORDS_S = 2.0
MESSAGE_BYTES_MAX = 2 * CHUNK_BYTES

ToProcess = Callable[[exec_pb2.ExecInput], Awaitable[Any]]


class Feed:
    """`left`: nothing comes any more, or nothing that may be; `stuck`: it cannot be passed on."""

    def __init__(self, inputs: AsyncIterator[exec_pb2.ExecInput]) -> None:
        self._inputs = aiter(inputs)
        self._to: ToProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self.left, self.stuck = asyncio.Event(), asyncio.Event()

    async def first(self) -> exec_pb2.ExecInput:
        """Raises `Invalid`."""
        try:
            async with asyncio.timeout(_FIRST_WORD_S):
                found = await anext(self._inputs, None)
        except TimeoutError:
            found = None
        if found is None:
            raise Invalid("nothing was said")
        return found

    def pass_on(self, to_process: ToProcess) -> None:
        self._to = to_process
        self._begin()

    async def stop(self) -> None:
        """From here on what comes is dropped. What is being passed on has a moment for it."""
        self._to = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S), self._turn:
                pass

    async def over(self) -> None:
        """The other end has been told all: until it closes its side, but not for long."""
        self._to = None
        await asyncio.wait({self._begin()}, timeout=_LAST_WORDS_S)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> asyncio.Task[None]:
        if self._task is None:
            self._task = asyncio.create_task(self._read())
        return self._task

    async def _read(self) -> None:
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    message = await anext(self._inputs, None)
                if message is None or message.ByteSize() > MESSAGE_BYTES_MAX:
                    return
                async with self._turn:
                    await self._take(message)
        except TimeoutError:
            return
        finally:
            self.left.set()

    async def _take(self, message: exec_pb2.ExecInput) -> None:
        if self._to is None:
            return
        try:
            await self._to(message)
        except Exception:  # noqa: BLE001  gRPC has many for a stream that has gone
            self._to = None
            self.stuck.set()
