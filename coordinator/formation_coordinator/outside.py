"""HTTP to URLs that people gave us: bounded in time and size, no redirects, no proxies, no cookies.

Where it goes is looked at after names were resolved and before anything is sent, so that a name
that changes its address meanwhile leads nowhere else. Names are looked up in threads of their own:
one that hangs holds up whoever asks for it, and nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from formation.automation import place_of
from formation_coordinator.outgoing import problem_with_address

if TYPE_CHECKING:
    import aiohttp

BODY_BYTES_MAX = 64 * 1024
_LOOKUPS_MAX = 64
_CONNECTIONS_MAX = 256
_RETRY_AFTER_DIGITS_MAX = 5
_AGENT = "formation-coordinator"


class OutsideError(Exception):
    """Nothing good came back; one line for people, which repeats no URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: bytes
    retry_after_s: float = 0.0


class Outside:
    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._lookups: dict[tuple[str, int], asyncio.Future[list[Any]]] = {}

    async def get(self, url: str, timeout_s: float) -> Answer:
        """Raises `OutsideError`."""
        return await self._ask("GET", url, None, {}, timeout_s)

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> Answer:
        """Raises `OutsideError`."""
        return await self._ask("POST", url, body, headers, timeout_s)

    async def _ask(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> Answer:
        import aiohttp

        try:
            async with asyncio.timeout(timeout_s):
                return await self._answer(method, url, body, headers)
        except (aiohttp.ClientError, OSError, ValueError) as error:  # OSError: also TimeoutError
            raise OutsideError(f"{place_of(url)}: {_words(error, timeout_s)}") from None

    async def _answer(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        asked = self._opened().request(
            method, url, data=body, headers=headers, allow_redirects=False
        )
        async with asked as response:
            return Answer(
                status=response.status,
                body=await _beginning(response.content),
                retry_after_s=_seconds(response.headers.get("Retry-After", "")),
            )

    def _opened(self) -> aiohttp.ClientSession:
        """Late: only who asks anybody pays for the library."""
        if self._session is None:
            import aiohttp

            connector = aiohttp.TCPConnector(
                resolver=_resolver(self._lookup),
                limit=_CONNECTIONS_MAX,
                use_dns_cache=False,
                ssl=ssl.create_default_context(),
                socket_factory=_checked_socket,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    async def _lookup(self, host: str, port: int) -> list[Any]:
        """Whoever asks for the same meanwhile waits with us. Raises OSError."""
        key = (host, port)
        found = self._lookups.get(key)
        if found is None:
            if len(self._lookups) >= _LOOKUPS_MAX:
                raise OSError("too many names are being looked up already")
            found = self._lookups[key] = _looked_up(host, port)
            found.add_done_callback(lambda done: self._looked_up(key, done))
        return await asyncio.shield(found)

    def _looked_up(self, key: tuple[str, int], done: asyncio.Future[list[Any]]) -> None:
        del self._lookups[key]
        if not done.cancelled():
            done.exception()  # nobody may wait for it any more

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _checked_socket(address: Any) -> socket.socket:
    """The last place before a connection is made, for names and for plain addresses alike."""
    family, kind, protocol, _, where = address
    if wrong := problem_with_address(str(where[0])):
        raise OSError(0, f"refused: {wrong}")
    return socket.socket(family, kind, protocol)


def _looked_up(host: str, port: int) -> asyncio.Future[list[Any]]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[Any]] = loop.create_future()

    def settle(found: list[Any] | None, error: OSError | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(found or [])

    def look() -> None:
        found, failed = None, None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            failed = error if isinstance(error, OSError) else OSError(str(error))
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, found, failed)

    # A daemon: one that hangs for half a minute does not keep the program from ending.
    threading.Thread(target=look, name="lookup", daemon=True).start()
    return future


def _resolver(lookup: Any) -> Any:
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Resolver(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            return [
                ResolveResult(
                    hostname=host,
                    host=where[0],
                    port=where[1],
                    family=found,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
                for found, _, protocol, _, where in await lookup(host, port)
            ]

        async def close(self) -> None:
            pass

    return Resolver()


async def _beginning(stream: aiohttp.StreamReader) -> bytes:
    """What is more is not read: it is no answer to anything that we ask."""
    body = bytearray()
    async for chunk in stream.iter_chunked(8192):
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            break
    return bytes(body[: BODY_BYTES_MAX + 1])


def _words(error: Exception, timeout_s: float) -> str:
    import aiohttp

    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        said = error.certificate_error
        return f"its certificate is not trusted: {getattr(said, 'verify_message', '') or said}"
    if isinstance(error, aiohttp.ClientSSLError):
        return "no TLS that we speak"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it hung up without an answer"
    return error.strerror or str(error) if isinstance(error, OSError) else type(error).__name__


def _seconds(text: str) -> float:
    """Of a Retry-After in seconds; a date counts as nothing."""
    digits = text.strip()
    plain = digits.isascii() and digits.isdigit() and len(digits) <= _RETRY_AFTER_DIGITS_MAX
    return float(digits) if plain else 0.0
