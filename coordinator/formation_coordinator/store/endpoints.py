"""Where etcd is: addresses as people write them, and one channel to each.

Rotates to the next endpoint when told that one failed. Sends nothing itself.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from formation.runtime import monotonic_s

DEFAULT_PORT = 2379
_CONNECT_S = 2.0
_SCHEMES = ("http", "https", "unix")

# etcd closes connections that ping more often than every 5 s (--grpc-keepalive-min-time), so the
# shared 2 s options of `formation.runtime` are not for it; calls and watches have own deadlines.
_CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1_500),  # how long one attempt may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # All 10,000 host documents of a large cluster come in one reply of some 100 MB.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Writes are sent once; a retry hidden in the channel would break that.
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.enable_http_proxy", 0),
    # Channels to one address must not share a connection: two stores in one process are two.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files. `ca` "" → the system's authorities; `cert` and `key` go together."""

    ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    text: str
    target: str
    secure: bool

    @property
    def is_socket(self) -> bool:
        return self.target.startswith("unix:")


def parse_endpoint(text: str) -> Endpoint:
    """`http://name:2379`, `http://10.0.0.1`, `https://[::1]:2379`, `host:port`, `unix:/path`."""
    full = text if "://" in text or text.startswith("unix:") else f"http://{text}"
    url = urllib.parse.urlsplit(full)
    if url.scheme not in _SCHEMES:
        raise ValueError(f"etcd endpoint {text!r}: use http://, https:// or unix:/path")
    if url.scheme == "unix":
        return _socket_endpoint(text, full)
    try:
        port = url.port or DEFAULT_PORT
    except ValueError as error:
        raise ValueError(f"etcd endpoint {text!r}: the port is not a number to 65535") from error
    if not url.hostname or url.path not in {"", "/"} or url.query or url.username:
        raise ValueError(f"etcd endpoint {text!r}: expected {url.scheme}://host:port, no more")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return Endpoint(text=text, target=f"dns:///{host}:{port}", secure=url.scheme == "https")


def _socket_endpoint(text: str, full: str) -> Endpoint:
    path = full.removeprefix("unix:")
    path = path.removeprefix("//")
    if not path.startswith("/"):
        raise ValueError(f"etcd endpoint {text!r}: the socket's path must be absolute: unix:/path")
    return Endpoint(text=text, target=f"unix:{path}", secure=False)


def parse_endpoints(text: str | Sequence[str], tls: TlsFiles | None = None) -> tuple[Endpoint, ...]:
    """Comma separated or a list. Raises ValueError, one line, for what cannot be one."""
    words = text.split(",") if isinstance(text, str) else text
    endpoints = tuple(parse_endpoint(word.strip()) for word in words if word.strip())
    if not endpoints:
        raise ValueError("no etcd endpoint is given: for example http://127.0.0.1:2379")
    if tls is not None and not all(endpoint.secure for endpoint in endpoints):
        raise ValueError("etcd TLS files are given, but not every etcd endpoint is https://")
    return endpoints


def read_credentials(tls: TlsFiles | None) -> grpc.ChannelCredentials:
    """Raises ValueError, one line, for files that are missing or of which one half is."""
    tls = tls or TlsFiles()
    if bool(tls.cert) != bool(tls.key):
        raise ValueError("etcd TLS: the client's certificate and its key must be given together")
    return grpc.ssl_channel_credentials(
        root_certificates=_read_pem(tls.ca),
        private_key=_read_pem(tls.key),
        certificate_chain=_read_pem(tls.cert),
    )


def _read_pem(path: str) -> bytes | None:
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ValueError(f"etcd TLS: cannot read {path}: {error.strerror}") from error
    if b"-----BEGIN " not in content:
        raise ValueError(f"etcd TLS: {path} is not a PEM file")
    return content


class Channels:
    """One channel per endpoint, all kept; `current` is the one that last worked.

    Must be made, used and closed inside one event loop.
    """

    def __init__(self, endpoints: Sequence[Endpoint], tls: TlsFiles | None = None) -> None:
        self._credentials = read_credentials(tls) if any(e.secure for e in endpoints) else None
        self._endpoints = tuple(endpoints)
        self._channels = [_channel(endpoint, self._credentials) for endpoint in endpoints]
        self._current = 0

    @property
    def names(self) -> str:
        return ", ".join(endpoint.text for endpoint in self._endpoints)

    def name(self, index: int) -> str:
        return self._endpoints[index].text

    def channel(self, index: int) -> grpc.aio.Channel:
        channel: grpc.aio.Channel = self._channels[index]
        return channel

    def blocking(self, index: int) -> grpc.Channel:
        """Another one to the same endpoint, for a thread; whoever asks for it closes it."""
        channel: grpc.Channel = _channel(self._endpoints[index], self._credentials, grpc)
        return channel

    def __len__(self) -> int:
        return len(self._endpoints)

    def rotate(self, failed: int) -> None:
        """The next call goes to the next endpoint, unless somebody moved on already."""
        if failed == self._current:
            self._current = (failed + 1) % len(self._endpoints)

    async def connected(self, timeout_s: float) -> int | None:
        """The index of an endpoint with a live connection, trying each once; None: there is none.

        Connecting first is what tells "never sent" from "outcome unknown".
        """
        deadline_s = monotonic_s() + timeout_s
        for _ in self._endpoints:
            index = self._current
            patience_s = min(_CONNECT_S, deadline_s - monotonic_s())
            if await _is_connected(self._channels[index], patience_s):
                return index
            self.rotate(index)
        return None

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


def _channel(
    endpoint: Endpoint, credentials: grpc.ChannelCredentials | None, kind: Any = grpc.aio
) -> Any:
    """`kind`: `grpc.aio`, or `grpc` for one that blocks."""
    options = list(_CHANNEL_OPTIONS)
    if endpoint.is_socket:
        # A path is no host name, and Go's HTTP/2 server refuses it as one.
        options.append(("grpc.default_authority", "localhost"))
    if endpoint.secure:
        assert credentials is not None
        return kind.secure_channel(endpoint.target, credentials, options=options)
    return kind.insecure_channel(endpoint.target, options=options)


async def _is_connected(channel: grpc.aio.Channel, timeout_s: float) -> bool:
    state = channel.get_state(try_to_connect=True)
    try:
        async with asyncio.timeout(timeout_s):
            while state is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    return False  # it reconnects by itself; meanwhile others may serve
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        return False
    return True
