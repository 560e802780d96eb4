"""Addresses as people write them, and lists of them. Light: every formctl reads them.

Raises ValueError with what is wrong.
"""

from __future__ import annotations

_PORT_MAX = 65535


def address(text: str) -> str:
    """`host:port`, `[v6]:port` or `unix:/path`, as it came."""
    if text.startswith("unix:"):
        if not text.removeprefix("unix:").startswith("/"):
            raise ValueError(f"{text!r}: the path after unix: must be absolute")
        return text
    host, colon, port = text.rpartition(":")
    bare_v6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not colon or not host or bare_v6 or not is_port(port):
        raise ValueError(f"{text!r} is not HOST:PORT, [V6]:PORT or unix:/PATH")
    return text


def addresses(text: str) -> tuple[str, ...]:
    found = tuple(map(address, words(text)))
    if not found:
        raise ValueError("no address given")
    return found


def words(text: str) -> tuple[str, ...]:
    """Between commas; empty ones do not count."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) <= _PORT_MAX


def is_loopback(address: str) -> bool:
    """Can only this machine reach what listens at that `HOST:PORT`?"""
    host = address.rpartition(":")[0].strip("[]")
    try:
        import ipaddress

        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
