"""The ways out for log lines: sockets and HTTP. Thin; the words are made by `shipping_*`.

A sink takes lines and returns when they are on their way, or raises: `SinkDown`, and the same lines
shall be sent again later; `SinkRefused`, and they never will be taken.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from formation.runtime import now_ms
from formation_agent import shipping_journald, shipping_otlp, shipping_syslog
from formation_agent.logfile_reader import Line
from formation_agent.shipping_targets import Kind, Target

if TYPE_CHECKING:
    import aiohttp

CONNECT_WITHIN_S, SEND_WITHIN_S = 5.0, 30.0
_ANSWER_BYTES_MAX = 64 * 1024
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_FULL_PAUSE_S = 0.05


class SinkDown(Exception):
    """For now."""


class SinkRefused(Exception):
    """The receiver will not have these lines."""

    def __init__(self, why: str, lines: int) -> None:
        super().__init__(why)
        self.lines = lines


class Sink(Protocol):
    async def send(self, lines: Sequence[Line]) -> None: ...

    async def close(self) -> None: ...


def sink_of(target: Target, *, headers: Mapping[str, str], ca_file: str) -> Sink:
    """Raises OSError for a CA file that cannot be read."""
    match target.kind:
        case Kind.JOURNALD:
            return DatagramSink(target, shipping_journald.entry, by_file=True)
        case Kind.SYSLOG_UNIX | Kind.SYSLOG_UDP:
            return DatagramSink(target, _datagram)
        case Kind.SYSLOG_TCP:
            return StreamSink(target, None)
        case Kind.SYSLOG_TLS:
            return StreamSink(target, _tls(ca_file))
        case Kind.OTLP_HTTP | Kind.OTLP_HTTPS:
            tls = _tls(ca_file) if target.kind is Kind.OTLP_HTTPS else None
            return OtlpSink(target, headers, tls)


def _datagram(line: Line) -> bytes:
    return shipping_syslog.message(line, shipping_syslog.DATAGRAM_MAX)


def _tls(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class DatagramSink:
    """One datagram a line. `by_file`: what is too long for one goes as a sealed file in memory, as
    journald takes it."""

    def __init__(
        self, target: Target, encode: Callable[[Line], bytes], *, by_file: bool = False
    ) -> None:
        self._target, self._encode, self._by_file = target, encode, by_file
        self._socket: socket.socket | None = None

    async def send(self, lines: Sequence[Line]) -> None:
        try:
            async with asyncio.timeout(SEND_WITHIN_S):
                found = self._socket or await self._connect()
                for line in lines:
                    await self._send_one(found, self._encode(line))
        except TimeoutError:
            await self.close()
            raise SinkDown("it takes nothing") from None
        except OSError as error:
            await self.close()
            raise SinkDown(error.strerror or str(error)) from error

    async def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _connect(self) -> socket.socket:
        target, loop = self._target, asyncio.get_running_loop()
        if target.path:
            family, address = socket.AF_UNIX, target.path
            found = socket.socket(family, socket.SOCK_DGRAM)
            found.setblocking(False)
            found.connect(address)
        else:
            infos = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)
            found = socket.socket(infos[0][0], socket.SOCK_DGRAM)
            found.setblocking(False)
            found.connect(infos[0][4])
        self._socket = found
        return found

    async def _send_one(self, found: socket.socket, datagram: bytes) -> None:
        while True:
            try:
                found.send(datagram)
                return
            except BlockingIOError:
                await _writable(found)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    await asyncio.sleep(_FULL_PAUSE_S)
                elif error.errno == errno.EMSGSIZE and self._by_file:
                    await _send_file(found, datagram)
                    return
                else:
                    raise


async def _send_file(found: socket.socket, text: bytes) -> None:
    fd = os.memfd_create("formation-log", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    try:
        _fill(fd, text)
        _seal(fd)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        while True:
            try:
                found.sendmsg([b""], rights)
                return
            except BlockingIOError:
                await _writable(found)
    finally:
        os.close(fd)


def _fill(fd: int, text: bytes) -> None:
    with open(fd, "wb", closefd=False) as file:
        file.write(text)


def _seal(fd: int) -> None:
    import fcntl

    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


async def _writable(found: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.add_writer(found, _wake, future)
    try:
        await future
    finally:
        loop.remove_writer(found)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class StreamSink:
    """Octet-counted messages over TCP or TLS. The protocol has no answers: what was in the network
    when a receiver died is lost, and nobody knows."""

    def __init__(self, target: Target, tls: ssl.SSLContext | None) -> None:
        self._target, self._tls = target, tls
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, lines: Sequence[Line]) -> None:
        batch = b"".join(shipping_syslog.framed(shipping_syslog.message(line)) for line in lines)
        try:
            if self._writer is None or self._is_over():
                await self.close()
                await self._connect()
            assert self._writer is not None
            async with asyncio.timeout(SEND_WITHIN_S):
                self._writer.write(batch)
                await self._writer.drain()
        except (OSError, ssl.SSLError, TimeoutError) as error:
            await self.close()
            raise SinkDown(_said(error)) from error

    def _is_over(self) -> bool:
        """It says nothing ever, so what can be read is its end."""
        return self._reader is None or self._reader.at_eof()

    async def _connect(self) -> None:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            self._reader, self._writer = await asyncio.open_connection(
                self._target.host, self._target.port, ssl=self._tls, limit=4096
            )
        self._writer.transport.set_write_buffer_limits(high=64 * 1024)

    async def close(self) -> None:
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()


class OtlpSink:
    def __init__(
        self, target: Target, headers: Mapping[str, str], tls: ssl.SSLContext | None
    ) -> None:
        self._target, self._headers, self._tls = target, headers, tls
        self._session: aiohttp.ClientSession | None = None

    async def send(self, lines: Sequence[Line]) -> None:
        import aiohttp

        if self._session is None:
            limits = aiohttp.ClientTimeout(total=SEND_WITHIN_S, connect=CONNECT_WITHIN_S)
            self._session = aiohttp.ClientSession(timeout=limits, headers=dict(self._headers))
        body = shipping_otlp.request(lines, now_ms() * 1000)
        try:
            async with self._session.post(
                self._target.url, json=body, ssl=self._tls or True, allow_redirects=False
            ) as response:
                await self._judge(response, len(lines))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise SinkDown(_said(error)) from error

    async def _judge(self, response: aiohttp.ClientResponse, lines: int) -> None:
        if response.status in _AGAIN:
            raise SinkDown(f"HTTP {response.status}")
        if not response.ok:
            raise SinkRefused(f"HTTP {response.status}", lines)
        if response.content_type == "application/json":
            text = await response.content.read(_ANSWER_BYTES_MAX)
            if rejected := shipping_otlp.rejected(_json(text)):
                raise SinkRefused("it took only a part", min(rejected, lines))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def _json(text: bytes) -> object:
    import json

    try:
        return json.loads(text)
    except ValueError:
        return None


def _said(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
