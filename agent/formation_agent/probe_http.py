"""Asks a process by HTTP/1.1. Imported with h11 when a first probe needs it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from urllib.parse import quote

import h11

from formation_agent.probes import PASSED, Outcome, connect

_PASSES = range(200, 400)  # a redirect is an answer, and is not followed
# Of an answer, so that an ordinary one finds a reader and an endless one does not hold us up.
_READ_BYTES_MAX = 64 * 1024
_READ_BYTES = 16 * 1024
# What may stand in a request's target as it is.
_SAFE = "!#$%&'()*+,-./:;=?@[]_~"
_HEADERS = [
    ("Host", "localhost"),
    ("User-Agent", "formation-probe"),
    ("Accept", "*/*"),
    ("Connection", "close"),
]


async def ask(port: int, path: str, deadline_s: float) -> Outcome:
    """A GET; a status from 200 to 399 that comes in time passes, whatever follows it.

    Raises TimeoutError at `deadline_s`, and OSError.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout_at(deadline_s):
        end = await connect(port)
    try:
        exchange = _Exchange(end)
        async with asyncio.timeout_at(deadline_s):
            await loop.sock_sendall(end, exchange.request(path))
            status = await exchange.status()
        if status not in _PASSES:
            return Outcome(passed=False, reason=f"HTTP {status} from {path}")
        with contextlib.suppress(OSError, TimeoutError, h11.RemoteProtocolError):
            async with asyncio.timeout_at(deadline_s):
                await exchange.rest()
    except h11.RemoteProtocolError:
        return Outcome(passed=False, reason=f"no HTTP answer on port {port}")
    finally:
        end.close()
    return PASSED


class _Exchange:
    """One request and its answer. Raises OSError and h11.RemoteProtocolError."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.CLIENT)
        self._size = 0

    def request(self, path: str) -> bytes:
        request = h11.Request(method="GET", target=quote(path, safe=_SAFE), headers=_HEADERS)
        parts = (self._http.send(request), self._http.send(h11.EndOfMessage()))
        return b"".join(part or b"" for part in parts)

    async def status(self) -> int:
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                return event.status_code
            if not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("it ended without an answer")

    async def rest(self) -> None:
        while isinstance(await self._next(), h11.Data):
            pass

    async def _next(self) -> object:
        """The next event; None when we have read enough."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._size >= _READ_BYTES_MAX:
                return None
            data = await self._loop.sock_recv(self._end, _READ_BYTES)
            self._size += len(data)
            self._http.receive_data(data)
        return event
