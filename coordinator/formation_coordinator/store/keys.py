"""The key layout: one function per kind of record, `parse` back, and what a mirror holds.

Who writes what is in docs/design/store.md. Keys are relative to the store's prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

from formation_coordinator.store.base import Span

CLUSTER = "cluster"
LEADER = "leader"
REBALANCE = "rebalance"
TRUST = "trust"
AUDIT = Span.prefix("audit/")
# In the names of what autoscaling writes there, which is bounded on its own.
AUDIT_AUTOSCALE = "autoscale-"
# Everything except the audit trail, which only grows and which nothing at start-up reads whole.
MIRRORED = (Span("", AUDIT.start), Span(AUDIT.end, ""))

# How many names follow each kind in a key.
_NAMES = {
    "apps": 1,
    "assignments": 1,
    "audit": 1,
    "autoscale": 2,
    "cluster": 0,
    "coordinators": 1,
    "deliveries": 1,
    "hosts": 1,
    "identities": 2,
    "leader": 0,
    "rebalance": 0,
    "releases": 2,
    "runs": 2,
    "sessions": 1,
    "status": 1,
    "tokens": 1,
    "trust": 0,
    "webhooks": 1,
}


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """`releases/shop/7` → kind `releases`, names `("shop", "7")`."""

    kind: str
    names: tuple[str, ...]


def cluster() -> str:
    return CLUSTER


def leader() -> str:
    return LEADER


def coordinator(coordinator_id: str) -> str:
    return f"coordinators/{coordinator_id}"


def app(name: str) -> str:
    return f"apps/{name}"


def release(app_name: str, number: int) -> str:
    return f"releases/{app_name}/{number}"


def releases(app_name: str) -> Span:
    """All releases of one app."""
    return Span.prefix(f"releases/{app_name}/")


def run(app_name: str, run_id: str) -> str:
    return f"runs/{app_name}/{run_id}"


def runs(app_name: str) -> Span:
    """All runs of one app."""
    return Span.prefix(f"runs/{app_name}/")


def autoscale(app_name: str, type_name: str) -> str:
    return f"autoscale/{app_name}/{type_name}"


def autoscales(app_name: str) -> Span:
    """All rules of one app."""
    return Span.prefix(f"autoscale/{app_name}/")


def webhook(name: str) -> str:
    return f"webhooks/{name}"


def delivery(name: str) -> str:
    return f"deliveries/{name}"


def rebalance() -> str:
    return REBALANCE


def trust() -> str:
    return TRUST


def identity(role: str, name: str) -> str:
    return f"identities/{role}/{name}"


def token(token_id: str) -> str:
    return f"tokens/{token_id}"


def host(name: str) -> str:
    return f"hosts/{name}"


def session(host_name: str) -> str:
    return f"sessions/{host_name}"


def assignments(host_name: str) -> str:
    return f"assignments/{host_name}"


def status(host_name: str) -> str:
    return f"status/{host_name}"


def audit(at_ms: int, record_id: str) -> str:
    """Padded, so that the keys' order is that of time."""
    return f"audit/{at_ms:015d}-{record_id}"


def parse(key: str) -> ParsedKey | None:
    """None for a key that this version does not know: a newer one's, not ours to judge."""
    kind, *names = key.split("/")
    if _NAMES.get(kind) != len(names) or not all(names):
        return None
    if kind == "releases" and not (names[1].isascii() and names[1].isdigit()):
        return None
    return ParsedKey(kind, tuple(names))
