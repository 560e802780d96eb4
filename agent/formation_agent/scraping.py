"""Serves an agent's `/metrics`, and nothing else: one small answer to a request, then the end.

Whoever shows the token may read it; without a token it is on loopback, and everybody there may, but
no page in a browser that has found a name for this address.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import ssl
from collections.abc import Callable

from formation.credentials import CredentialError, read_password
from formation_agent.config import AgentConfig
from formation_agent.metrics import CONTENT_TYPE
from formation_agent.statedir import RefusedError

CONNECTIONS_MAX = 16
REQUEST_BYTES_MAX, REQUEST_WITHIN_S = 8192, 5.0
_LOOKS_EVERY_S = 60.0

log = logging.getLogger(__name__)


class Scraping:
    """Raises `RefusedError` when it is made with files that cannot be read."""

    def __init__(self, config: AgentConfig, text: Callable[[], bytes]) -> None:
        self._address, self._text = config.metrics, text
        self._cert, self._key = config.metrics_cert, config.metrics_key
        try:
            self._token = read_password(config.metrics_token_file)
        except CredentialError as error:
            raise RefusedError(f"--metrics-token-file {error}") from error
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if self._cert else None
        try:
            self._load()
        except (OSError, ssl.SSLError) as error:
            raise RefusedError(f"--metrics-cert {self._cert}: {error}") from error
        self._open = 0

    async def begin(self) -> asyncio.Server:
        """Raises `RefusedError`."""
        host, _, port = self._address.rpartition(":")
        try:
            return await asyncio.start_server(
                self._serve, host.strip("[]"), int(port), ssl=self._context,
                limit=REQUEST_BYTES_MAX,
                ssl_handshake_timeout=REQUEST_WITHIN_S if self._context else None,
            )  # fmt: skip
        except OSError as error:
            why = error.strerror or str(error)
            raise RefusedError(f"--metrics {self._address}: {why}") from error

    async def run(self, server: asyncio.Server | None) -> None:
        """For ever; a certificate that was made anew is shown within a minute. Without a server it
        is begun here, when that can be: what runs on this host does not depend on it."""
        while server is None:
            try:
                server = await self.begin()
            except RefusedError as error:
                log.error("%s; trying again", error)  # noqa: TRY400  its traceback says nothing
                await asyncio.sleep(_LOOKS_EVERY_S)
        async with server:
            while True:
                await asyncio.sleep(_LOOKS_EVERY_S)
                try:
                    self._load()
                except (OSError, ssl.SSLError) as error:
                    log.warning("--metrics-cert %s: %s", self._cert, error)

    def _load(self) -> None:
        if self._context is not None:
            self._context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._context.load_cert_chain(self._cert, self._key)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_MAX:
                async with asyncio.timeout(REQUEST_WITHIN_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
        except (OSError, ssl.SSLError, TimeoutError, asyncio.IncompleteReadError,
                asyncio.LimitOverrunError):  # fmt: skip
            pass  # whoever it was wanted nothing of us
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> bytes:
        line, *rest = head.decode("latin-1").split("\r\n")
        method, _, path = line.rpartition(" ")[0].partition(" ")
        pairs = [item.partition(":") for item in rest]
        headers = {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}
        if not self._may(headers):
            return _response("401 Unauthorized", b"who may read this shows the token\n")
        if path.partition("?")[0] != "/metrics":
            return _response("404 Not Found", b"there is /metrics\n")
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", b"GET\n")
        return _response("200 OK", self._text(), head_only=method == "HEAD")

    def _may(self, headers: dict[str, str]) -> bool:
        if self._token:
            shown = headers.get("authorization", "")
            return hmac.compare_digest(shown.encode("latin-1"), f"Bearer {self._token}".encode())
        return _is_plain(headers.get("host", ""))


def _is_plain(host: str) -> bool:
    """No name that anybody could point at this machine."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name.lower() == "localhost"
    return True


def _response(status: str, body: bytes, *, head_only: bool = False) -> bytes:
    kind = CONTENT_TYPE if status.startswith("200") else "text/plain"
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if head_only else body)
