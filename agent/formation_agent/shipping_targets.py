"""Where an agent's log lines are shipped to, as `--log-to` says it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

JOURNAL_SOCKET = "/run/systemd/journal/socket"
SYSLOG_SOCKET = "/dev/log"
_OTLP_PATH = "/v1/logs"
_SYSLOG_PORTS = {"udp": 514, "tcp": 601, "tls": 6514}
_OTLP_PORT = 4318
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Kind(Enum):
    JOURNALD = "journald"
    SYSLOG_UNIX = "syslog+unix"
    SYSLOG_UDP = "syslog+udp"
    SYSLOG_TCP = "syslog+tcp"
    SYSLOG_TLS = "syslog+tls"
    OTLP_HTTP = "otlp+http"
    OTLP_HTTPS = "otlp+https"


_SYSLOG = {
    "udp": Kind.SYSLOG_UDP,
    "tcp": Kind.SYSLOG_TCP,
    "tls": Kind.SYSLOG_TLS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`path`: of a Unix socket, or of a URL."""

    kind: Kind
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_otlp(self) -> bool:
        return self.kind in (Kind.OTLP_HTTP, Kind.OTLP_HTTPS)

    @property
    def reads_along(self) -> bool:
        """Somebody between could read what is sent."""
        open_kinds = (Kind.OTLP_HTTP, Kind.SYSLOG_TCP, Kind.SYSLOG_UDP)
        return self.kind in open_kinds and self.host not in _LOOPBACK

    @property
    def url(self) -> str:
        """Of an OTLP receiver."""
        scheme = self.kind.value.removeprefix("otlp+")
        return f"{scheme}://{_bracketed(self.host)}:{self.port}{self.path}"

    def __str__(self) -> str:
        if not self.host:
            return f"{self.kind.value}:{self.path}"
        return f"{self.kind.value}://{_bracketed(self.host)}:{self.port}{self.path}"


def parse(text: str) -> Target:
    """Raises ValueError with what is wrong."""
    scheme, _, rest = text.partition(":")
    if scheme in ("journald", "syslog", "syslog+unix") and not rest.startswith("//"):
        return _local(text, scheme, rest)
    url = urlsplit(text)
    if url.username or url.password or url.query or url.fragment:
        raise ValueError(f"{_shown(text)!r}: a host and a port only; secrets go in a file")
    try:
        port = url.port
    except ValueError:
        raise ValueError(f"{text!r}: no such port") from None
    if not url.hostname:
        raise ValueError(f"{text!r} is none of {', '.join(kind.value for kind in Kind)}")
    if url.scheme.startswith("otlp+"):
        return _otlp(text, url.scheme, url.hostname, port, url.path)
    kind = _SYSLOG.get(url.scheme.removeprefix("syslog+"))
    if kind is None or not url.scheme.startswith("syslog+") or url.path not in ("", "/"):
        raise ValueError(f"{text!r} is none of {', '.join(kind.value for kind in Kind)}")
    default = _SYSLOG_PORTS[url.scheme.removeprefix("syslog+")]
    return Target(kind=kind, host=url.hostname, port=port or default)


def _otlp(text: str, scheme: str, host: str, port: int | None, path: str) -> Target:
    try:
        kind = Kind(scheme)
    except ValueError:
        raise ValueError(f"{text!r}: otlp+http or otlp+https (OTLP over gRPC is not)") from None
    return Target(
        kind=kind, host=host, port=port or _OTLP_PORT, path=path if path.strip("/") else _OTLP_PATH
    )


def _local(text: str, scheme: str, path: str) -> Target:
    if path and not path.startswith("/"):
        raise ValueError(f"{text!r}: the path of a socket must be absolute")
    if scheme == "journald":
        return Target(kind=Kind.JOURNALD, path=path or JOURNAL_SOCKET)
    return Target(kind=Kind.SYSLOG_UNIX, path=path or SYSLOG_SOCKET)


def _shown(text: str) -> str:
    """Without what may be a password."""
    scheme, _, rest = text.partition("://")
    return f"{scheme}://…@{rest.rpartition('@')[2]}" if "@" in rest else text.partition("?")[0]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def headers(text: str) -> dict[str, str]:
    """`Name: value` a line; empty lines and those that begin with # do not count. Raises ValueError
    that does not repeat a value."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        token = name.replace("-", "").replace("_", "")
        if not colon or not token.isalnum() or not token.isascii() or not value.isprintable():
            raise ValueError(f"line {number} is not 'Name: value'")
        found[name] = value
    return found
