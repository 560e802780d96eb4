"""How the lives of one instance ended lately, from the events that told of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from formation_coordinator.chronicle import Event

KEPT_MAX = 20
_BEGINS = frozenset({"instance.starting"})
_RUNS = frozenset({"instance.healthy", "instance.unready"})
_ENDS = frozenset(
    {
        "instance.backoff", "instance.failed", "instance.finished", "instance.restarting",
        "instance.stopped",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """`ran_ms` -1: nobody here saw it begin."""

    at_ms: int
    how: str
    host: str
    ran_ms: int = -1


def ends(events: Iterable[Event]) -> list[End]:
    """Newest first, at most `KEPT_MAX`. `events`: of one instance, oldest first."""
    found: list[End] = []
    began: dict[str, int] = {}
    last: dict[str, str] = {}
    for event in events:
        what, host = event.happening.what, event.happening.host
        if what in _BEGINS:
            began[host] = event.at_ms
        elif what in _RUNS:
            began.setdefault(host, event.at_ms)
        elif what in _ENDS and not _is_told(last.get(host, ""), what):
            since = began.pop(host, None)
            ran_ms = -1 if since is None else event.at_ms - since
            found.append(End(at_ms=event.at_ms, how=event.happening.text, host=host, ran_ms=ran_ms))
        last[host] = what
    return found[: -KEPT_MAX - 1 : -1]


def _is_told(before: str, what: str) -> bool:
    """Being stopped, and then stopped, is one end; so is one that is cleared away later."""
    return before == "instance.restarting" or (before in _ENDS and what == "instance.stopped")
