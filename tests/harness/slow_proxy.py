"""A TCP proxy that holds back what passes it: a line to another continent, with its jitter.

Runs in a thread of its own, so that a test may block.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine
from typing import Any


class SlowProxy:
    """`with SlowProxy("198.18.0.1", "198.18.0.14:7100", delay_s=0.2, jitter_s=0.1) as address:`
    each way takes so long, and nothing overtakes."""

    def __init__(self, host: str, target: str, *, delay_s: float, jitter_s: float) -> None:
        self._host, self._target = host, target.rsplit(":", 1)
        self._delay_s, self._jitter_s = delay_s, jitter_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._flows: set[asyncio.Task[None]] = set()
        self.passed_bytes = 0

    def __enter__(self) -> str:
        self._thread.start()
        self._server = self._here(asyncio.start_server(self._serve, self._host, 0))
        port = self._server.sockets[0].getsockname()[1]
        return f"{self._host}:{port}"

    def __exit__(self, *_error: object) -> None:
        self._here(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _here(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10.0)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for flow in tuple(self._flows):
            flow.cancel()
        await asyncio.gather(*self._flows, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._flows.add(task)
        try:
            with contextlib.suppress(OSError, ExceptionGroup, asyncio.CancelledError):
                far_reader, far_writer = await asyncio.open_connection(*self._target)
                try:
                    async with asyncio.TaskGroup() as flows:
                        flows.create_task(self._pump(reader, far_writer))
                        flows.create_task(self._pump(far_reader, writer))
                finally:
                    far_writer.transport.abort()
        finally:
            writer.transport.abort()
            self._flows.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What comes is sent on so much later, in order; reading does not wait for it."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        sending = asyncio.create_task(self._send(queue, writer))
        try:
            while data := await reader.read(65_536):
                late_s = self._delay_s + random.uniform(0.0, self._jitter_s)
                await queue.put((self._loop.time() + late_s, data))
                self.passed_bytes += len(data)
            await queue.put((0.0, b""))
            await sending
        finally:
            sending.cancel()

    async def _send(
        self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            at_s, data = await queue.get()
            if not data:
                writer.transport.abort()
                return
            await asyncio.sleep(max(0.0, at_s - self._loop.time()))
            writer.write(data)
            await writer.drain()
