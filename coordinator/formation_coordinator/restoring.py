"""A backup and a store → what to write, and how to tell it. Pure.

Of apps, their autoscaling, releases and hosts the backup's word counts, and of webhooks that it
knows. What only grows (numbers of releases and runs, marks of restarts) never goes back, or
something new would be taken for something old. Documents and runs of now stay: they tell what hosts
follow, and which ticks were run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from formation.model import App
from formation.quantities import show
from formation.requests import Run, RunState
from formation_coordinator.backup import About, Backup
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Delete, Operation, Put, Snapshot

_BACKED_UP = ("apps/", "autoscale/", "releases/")
_UNFINISHED = frozenset({RunState.PENDING, RunState.PLACED})
_NOBODY_KNOWS = "a backup was restored since: nobody knows its end"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredApp:
    """`before`, `after`: "v8 web=5 worker=2", or "" for none."""

    name: str
    before: str
    after: str


def held_for(about: About) -> str:
    made = datetime.fromtimestamp(about.made_at_ms / 1000, UTC)
    return f"a backup of {made:%Y-%m-%d %H:%M:%S} UTC was restored"


def compared(given: Backup, now: Snapshot) -> Iterator[RestoredApp]:
    theirs, ours = _apps(given.values), _apps({item.key: item.value for item in now.items})
    for name in sorted(theirs.keys() | ours.keys()):
        yield RestoredApp(name=name, before=_shown(ours.get(name)), after=_shown(theirs.get(name)))


def operations(given: Backup, now: Snapshot) -> Sequence[Operation]:
    """Everything but the cluster's own record; nothing for what is right already."""
    ours = {item.key: item.value for item in now.items}
    wanted = dict(_wanted(given, ours))
    gone = [key for key in ours if key.startswith(_BACKED_UP) and key not in given.values]
    puts = [Put(key, value) for key, value in sorted(wanted.items()) if ours.get(key) != value]
    return [*(Delete(key) for key in gone), *puts]


def _wanted(given: Backup, ours: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for key, value in given.values.items():
        kind = key.partition("/")[0]
        if key == keys.CLUSTER or (kind in ("runs", "assignments") and key in ours):
            continue
        if kind == "apps" and key in ours:
            yield key, _grown(key, value, ours[key])
        elif kind == "runs":
            yield key, _ended(key, value)
        else:
            yield key, value


def _grown(key: str, value: bytes, now: bytes) -> bytes:
    theirs, ours = codec.decode(key, value), codec.decode(key, now)
    assert isinstance(theirs, App)
    assert isinstance(ours, App)
    merged = replace(
        theirs,
        latest_release=max(theirs.latest_release, ours.latest_release),
        runs_made=max(theirs.runs_made, ours.runs_made),
        restart_marks=_higher(theirs.restart_marks, ours.restart_marks),
        retry_marks=_higher(theirs.retry_marks, ours.retry_marks),
    )
    return value if merged == theirs else codec.encode(merged, value)


def _higher(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {key: max(one.get(key, 0), other.get(key, 0)) for key in one.keys() | other.keys()}


def _ended(key: str, value: bytes) -> bytes:
    run = codec.decode(key, value)
    assert isinstance(run, Run)
    if run.state not in _UNFINISHED:
        return value
    return codec.encode(replace(run, state=RunState.LOST, reason=_NOBODY_KNOWS), value)


def _apps(values: Mapping[str, bytes]) -> dict[str, App]:
    found = {}
    for key, value in values.items():
        if key.startswith("apps/"):
            record = codec.decode(key, value)
            assert isinstance(record, App)
            found[record.name] = record
    return found


def _shown(app: App | None) -> str:
    return f"v{app.release} {show(app.formation)}" if app else ""
