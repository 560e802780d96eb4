"""Receivers of log lines for tests: journald's socket, syslog over everything, OTLP over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(slots=True)
class Received:
    """`texts`: what came, in order. `paused`: nothing is read while it is cleared."""

    address: str
    texts: list[bytes] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)  # statuses to give before 200
    fields: list[dict[bytes, bytes]] = field(default_factory=list)
    by_file: int = 0
    reading: asyncio.Event = field(default_factory=asyncio.Event)


def _journal_fields(datagram: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    while datagram:
        head, _, rest = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[9 + length :]
        found[name] = value
        datagram = rest
    return found


@asynccontextmanager
async def datagrams(
    path: Path | None, *, journal: bool = False, buffer_bytes: int = 0
) -> AsyncIterator[Received]:
    """A Unix socket there, or UDP; with `journal` fields are taken apart, files in memory too."""
    family = socket.AF_UNIX if path else socket.AF_INET
    found = socket.socket(family, socket.SOCK_DGRAM)
    if buffer_bytes:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    found.setblocking(False)
    found.bind(str(path) if path else ("127.0.0.1", 0))
    port = "" if path else found.getsockname()[1]
    received = Received(str(path) if path else f"127.0.0.1:{port}")
    received.reading.set()

    async def read() -> None:
        ready = asyncio.Event()
        asyncio.get_running_loop().add_reader(found, ready.set)
        while True:
            await received.reading.wait()
            try:
                data, fds, _, _ = socket.recv_fds(found, 1 << 18, 4)
            except BlockingIOError:
                ready.clear()
                await ready.wait()
                continue
            for fd in fds:
                data = os.pread(fd, 1 << 24, 0)
                received.by_file += 1
                os.close(fd)
            if journal:
                received.fields.append(_journal_fields(data))
                data = received.fields[-1][b"MESSAGE"]
            received.texts.append(data)

    task = asyncio.create_task(read())
    try:
        yield received
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        asyncio.get_running_loop().remove_reader(found)
        found.close()
        if path:
            path.unlink()


@asynccontextmanager
async def stream(
    port: int = 0, tls: ssl.SSLContext | None = None, into: Received | None = None
) -> AsyncIterator[Received]:
    """Octet-counted syslog over TCP."""
    received = into or Received("")
    received.reading.set()
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            while True:
                await received.reading.wait()
                length = int(await reader.readuntil(b" "))
                received.texts.append(await reader.readexactly(length))
        writers.discard(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls, limit=1 << 16)
    received.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield received
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)
        await server.wait_closed()


@asynccontextmanager
async def otlp(port: int = 0, into: Received | None = None) -> AsyncIterator[Received]:
    received = into or Received("")

    async def take(request: web.Request) -> web.Response:
        body = await request.json()
        received.headers.append(dict(request.headers))
        if received.answers:
            return web.Response(status=received.answers.pop(0))
        received.requests.append(body)
        for resource in body.get("resourceLogs", []):
            for scope in resource["scopeLogs"]:
                for record in scope["logRecords"]:
                    received.texts.append(record["body"].get("stringValue", "").encode())
        return web.json_response({})

    application = web.Application(client_max_size=1 << 24)
    for path in ("/v1/logs", "/v1/traces"):
        application.router.add_post(path, take)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
    await site.start()
    received.address = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield received
    finally:
        await runner.cleanup()


def server_for(name: str, directory: Path) -> tuple[ssl.SSLContext, Path]:
    """A server of that name, and the file with who vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory.mkdir()
    key_file, certificate_file = directory / "key.pem", directory / "certificate.pem"
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    return context, certificate_file
