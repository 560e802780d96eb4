"""What one instance and one host look like on the page's map, as few numbers. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from formation.model import App, InstanceState, InstanceStatus, Release, Terms
from formation_coordinator import views
from formation_coordinator.world import HostEntry, World, departed, host_state, same_definition

# The state is in the lowest four bits.
STATE = 15
SURPLUS, STALE, SURGE, RUN, LOOPING = 16, 32, 64, 128, 256
# What has no host runs nothing that could be old.
CURRENT_UNKNOWN = STALE
# The host of what has none, and the kind of a place that is free.
NOWHERE = NO_KIND = 0xFFFFFFFF
CORDONED, DRAINING, DEPARTED = 1, 2, 4
_COMPLAINT_MAX, _LABELS_MAX = 400, 64


class Cell(NamedTuple):
    kind: tuple[str, str]
    ordinal: int
    look: int
    release: int


def flags_of(world: World, app: App | None, terms: Terms) -> int:
    """What all stays of a bundle have in common."""
    found = SURGE if terms.surge else 0
    if terms.run:
        found |= RUN
        wanted = views.is_run_wanted(world, terms.app, terms.run)
    else:
        wanted = app is not None and app.formation.get(terms.type, 0) > 0
    return found | (0 if wanted and not terms.ending else SURPLUS)


def seen(status: InstanceStatus | None) -> int:
    """What its agent says; nothing was said of what was only just sent there."""
    if status is None:
        return InstanceState.WAITING
    return status.state | (LOOPING if status.crash_looping else 0)


def news(before: HostEntry | None, after: HostEntry) -> list[InstanceStatus] | None:
    """What its agent says anew, where nothing but that has changed; None where more may have."""
    if before is None or before.document is not after.document:
        return None
    old, new = before.status, after.status
    if old is None or new is None or len(old.instances) != len(new.instances):
        return None
    if (old.ahead, old.cluster_epoch) != (new.ahead, new.cluster_epoch):
        return None
    found = []
    for was, now in zip(old.instances, new.instances, strict=True):
        if was is not now:
            if was.uid != now.uid:
                return None
            found.append(now)
    return found


def is_restarted(app: App | None, terms: Terms, ordinal: int) -> bool:
    """Has every restart that was asked for reached it?"""
    if app is None or not app.restart_marks:
        return app is not None and not terms.restart_mark
    return terms.restart_mark == app.restart_mark(terms.type, ordinal)


def is_same(world: World, app: App, type_name: str, release: int) -> bool:
    return same_definition(world, app.name, type_name, release, app.release)


def kind_of_work(release: Release | None, type_name: str) -> str:
    """What its quantity means, where it is not simply so many."""
    spec = release.type_named(type_name) if release else None
    if spec is None:
        return ""
    return "schedule" if spec.schedule else "per host" if spec.per_host else ""


def host_record(entry: HostEntry, since_ms: int, now_s: float, replace_after_s: float) -> list[Any]:
    """[name, state, flags, since when, labels, complaint, coordinator, address]. One that is not
    known any more has only its name, and no state."""
    if not entry.known:
        return [entry.name, 0]
    state = int(host_state(entry, now_s=now_s, replace_after_s=replace_after_s))
    status = entry.status
    flags = (CORDONED if entry.cordoned else 0) | (DRAINING if entry.draining else 0)
    return [
        entry.name,
        state,
        flags | (DEPARTED if departed(entry) else 0),
        since_ms,
        dict(sorted(entry.labels.items())[:_LABELS_MAX]),
        status.complaint[:_COMPLAINT_MAX] if status else "",
        entry.session.coordinator_id if entry.session else "",
        status.address if status else "",
    ]
