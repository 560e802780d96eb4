"""When the process of an instance that one looks at has ended, and how. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from formation.model import InstanceState, Slot
from formctl.views import Instance, Update

_RUNNING = (InstanceState.STARTING, InstanceState.HEALTHY, InstanceState.UNREADY)
# Its process has ended, if it is the same try.
_ENDED = (
    InstanceState.BACKOFF,
    InstanceState.FINISHED,
    InstanceState.FAILED,
    InstanceState.STOPPED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One process: a stay, and which try of it."""

    uid: str
    attempt: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """`last_exit` "": nobody has told. `successor_us`: when the next one of its stay was started,
    by its host's clock; 0: not known."""

    last_exit: str
    reason: str = ""
    successor_us: int = 0


def chosen(instances: Iterable[Instance], slot: Slot) -> Watched | str:
    """Or why there is none, for people; "" when there is no such instance."""
    found = sorted((i for i in instances if i.slot == slot), key=lambda i: (i.surplus, i.uid))
    running = [i for i in found if i.state in _RUNNING and i.status.pid]
    if running:
        status = running[0].status
        return Watched(uid=status.uid, attempt=status.attempt, pid=status.pid)
    if not found:
        return ""
    status = found[0].status
    why = status.reason or status.last_exit
    return f"{slot.short} does not run now, it is {status.state.name.lower()}" + (
        f": {why}" if why else ""
    )


def end_in(update: Update, watched: Watched) -> End | None:
    """None while it goes on."""
    found = [item.status for item in update.changed if item.uid == watched.uid]
    for status in found:
        another = status.attempt > watched.attempt or (status.pid and status.pid != watched.pid)
        if another or status.state in _ENDED:
            started_us = status.started_at_ms * 1000 if another and status.pid else 0
            return End(last_exit=status.last_exit, reason=status.reason, successor_us=started_us)
    if watched.uid in update.gone_uids or (update.complete and not found):
        return End(last_exit="", reason="it is not there any more")
    return None
