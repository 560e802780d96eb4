"""Rules for what a coordinator asks of, and tells to, URLs that people gave it. Pure."""

from __future__ import annotations

import json
import math
import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

# More is no measure of anything that instances could be counted by.
VALUE_MAX = 1e15
_NUMBER = re.compile(r"(?ai)[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?|[+-]?(nan|inf)")
# Where clouds tell a machine its own secrets, beyond the link-local 169.254.169.254.
_METADATA = frozenset({ip_address("100.100.100.200"), ip_address("fd00:ec2::254")})
_NAT64 = IPv6Network("64:ff9b::/96")
_FIRST_RETRY_S, RETRY_MAX_S = 1.0, 300.0
_DOUBLINGS_MAX = 9


class RubbishError(ValueError):
    """What came is no measure; one line for people."""


def problem_with_address(text: str) -> str:
    """Why nothing may be sent there; or "". Loopback and private networks are fine: that is where
    an operator's own programs are."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return "no address"
    address = _inner(address)
    if address.is_link_local or address in _METADATA:
        return f"{address} is where clouds keep a machine's secrets (link-local)"
    if address.is_multicast or address.is_unspecified or _is_broadcast(address):
        return f"{address} is no address of one machine"
    return ""


def _inner(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that one of IPv6 stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_broadcast(address: IPv4Address | IPv6Address) -> bool:
    return address == IPv4Address("255.255.255.255")


def retry_after_s(failures: int, jitter: float, asked_s: float = 0.0) -> float:
    """`failures` in a row, at least one; `jitter` from 0 to 1: who waits for the same receiver does
    not come back in step. `asked_s`: what the receiver asked for (Retry-After)."""
    steps_s = _FIRST_RETRY_S * 2.0 ** min(failures - 1, _DOUBLINGS_MAX)
    waited_s = min(steps_s, RETRY_MAX_S) * (0.5 + jitter / 2)
    return min(max(waited_s, asked_s), RETRY_MAX_S)


def read_value(body: bytes, bytes_max: int) -> float:
    """A plain number, or Prometheus' answer to an instant query. Raises `RubbishError`."""
    if len(body) > bytes_max:
        raise RubbishError(f"more than {bytes_max} bytes came")
    try:
        text = body.decode().strip()
    except UnicodeDecodeError:
        raise RubbishError("what came is no text") from None
    value = _number(text) if _NUMBER.fullmatch(text) else _of_prometheus(text)
    if math.isnan(value):
        raise RubbishError("it says NaN: there is nothing to measure")
    if value < 0:
        raise RubbishError(f"it says {value:g}: less than nothing")
    if value > VALUE_MAX:
        raise RubbishError(f"it says {value:g}: more than anything can be")
    return value


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise RubbishError(f"{text[:40]!r} is no number")
    return float(text)


def _of_prometheus(text: str) -> float:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        raise RubbishError(
            f"{text[:40]!r} is neither a number nor an answer of Prometheus"
        ) from None
    if isinstance(answer, dict) and answer.get("status") == "error":
        raise RubbishError(f"Prometheus says: {str(answer.get('error'))[:100]!r}")
    try:
        kind, result = answer["data"]["resultType"], answer["data"]["result"]
        sample = result if kind == "scalar" else _only(result)["value"]
        return _number(str(sample[1]))
    except (KeyError, TypeError, IndexError):
        raise RubbishError("it is JSON, but no answer to an instant query") from None


def _only(result: Any) -> Any:
    if isinstance(result, list) and not result:
        raise RubbishError("the query finds nothing")
    if isinstance(result, list) and len(result) > 1:
        raise RubbishError(f"the query finds {len(result)} series, one is needed: sum(…)")
    return result[0]
