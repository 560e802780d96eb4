"""What the page's map shows of a world, as numbers in columns, and how that changes.

Pure: no clock, no I/O. Every instance has a small number as long as it is shown, so that a change
of its state costs two numbers. It is the same for everybody who may look: encoded once, whoever
looks. What a picture does not hold (reasons, pids, ports) is asked for when somebody opens it.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from formation.model import App, InstanceState, InstanceStatus
from formation_coordinator import timeline, views
from formation_coordinator.plan import Plan
from formation_coordinator.web import looks
from formation_coordinator.web.looks import CURRENT_UNKNOWN, NOWHERE, Cell
from formation_coordinator.world import HostEntry, World

COLUMNS = ("host", "kind", "ordinal", "look", "release")
# Reasons for what has no host, and letters of each.
UNPLACED_MAX, REASON_MAX = 50, 400
# Numbers of names that are gone are not used again; beyond so many all begins anew.
_WORN_OUT = 10_000


@dataclass(slots=True)
class _Host:
    """`cells`: by uid, the number and what it looks like. `apps`: whose change is its, too."""

    number: int
    entry: HostEntry | None = None
    record: list[Any] = field(default_factory=list)
    cells: dict[str, tuple[int, Cell]] = field(default_factory=dict)
    apps: frozenset[str] = frozenset()
    silent: tuple[float, int] = (0.0, 0)

    def since_ms(self, entry: HostEntry, now_s: float, wall_ms: int) -> int:
        """From when on it is heard, or is not. Reckoned once: our two clocks do not run alike."""
        if entry.session is not None:
            return entry.session.since_ms
        since_s = entry.silent_since_s
        if since_s is not None and self.silent[0] != since_s:
            self.silent = since_s, wall_ms - int(1_000 * (now_s - since_s))
        return 0 if since_s is None else self.silent[1]


@dataclass(slots=True)
class Step:
    """What changed. `full`: cells with all their columns; `looks`: only that one column."""

    kinds: list[list[str]] = field(default_factory=list)
    hosts: list[list[Any]] = field(default_factory=list)
    full: list[int] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.kinds or self.hosts or self.full or self.looks or self.gone or self.said)

    def record(self) -> dict[str, Any]:
        """As it is sent: only what there is."""
        named = {
            "k": self.kinds, "h": self.hosts, "c": self.full, "l": self.looks, "g": self.gone,
            **self.said,
        }  # fmt: skip
        return {name: value for name, value in named.items() if value or name in self.said}


class Atlas:
    """`step` brings it to the present world; `head` and `columns` are everything."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], int] = {}
        self._hosts: dict[str, _Host] = {"": _Host(NOWHERE)}
        self._numbers = 0
        self._columns = [array("I") for _ in COLUMNS]
        self._free: list[int] = []
        self._said: dict[str, Any] = {}
        self._world = World()
        self._plan: Plan | None = None
        self._same: dict[tuple[str, str, int], bool] = {}

    @property
    def worn_out(self) -> bool:
        """Too many names were met that are gone: a new one is to take its place."""
        kinds = sum(len(app.formation) for app in self._world.apps.values())
        return max(self._numbers - len(self._hosts), len(self._kinds) - kinds) > _WORN_OUT

    def step(
        self, world: World, plan: Plan, *, said: Mapping[str, Any], now_s: float, wall_ms: int,
        replace_after_s: float,
    ) -> Step:  # fmt: skip
        """`plan`: reasons for what has no host. `said`: what the page is told beside the map."""
        made, before = Step(), self._world
        if world.apps is not before.apps or world.releases is not before.releases:
            self._same.clear()
        everything = world.cluster is not before.cluster or world.releases is not before.releases
        changed = _changed_apps(before, world)
        for name, entry in world.hosts.items():
            host = self._hosts.get(name)
            if host is None:
                host = self._hosts[name] = _Host(self._numbers)
                self._numbers += 1
            if host.entry is not entry or not entry.connected:
                since_ms = host.since_ms(entry, now_s, wall_ms)
                record = looks.host_record(entry, since_ms, now_s, replace_after_s)
                if record != host.record:
                    host.record = record
                    made.hosts.append([host.number, *record])
            elsewhere = everything or not changed.isdisjoint(host.apps)
            if elsewhere or not self._retouched(made, host, entry):
                self._redraw(made, host, self._cells(entry, world))
                host.apps = _apps_on(entry)
            host.entry = entry
        for name in self._hosts.keys() - world.hosts.keys() - {""}:
            host = self._hosts.pop(name)
            made.hosts.append([host.number])
            self._redraw(made, host, {})
        if plan is not self._plan:
            self._redraw(made, self._hosts[""], _pending_cells(plan, world))
        self._say(made, {"a": apps_record(world), "u": unplaced_record(plan), **said})
        self._world, self._plan = world, plan
        return made

    def head(self) -> dict[str, Any]:
        """All but the columns."""
        return {
            "count": len(self._columns[0]),
            "columns": COLUMNS,
            "k": [list(kind) for kind in self._kinds],
            "h": [[host.number, *host.record] for name, host in self._hosts.items() if name],
            **self._said,
        }

    def columns(self) -> list[bytes]:
        """Little-endian numbers of 32 bits; a free place is of a kind that nothing is of."""
        if sys.byteorder == "little":
            return [column.tobytes() for column in self._columns]
        turned = [array("I", column) for column in self._columns]
        for column in turned:
            column.byteswap()
        return [column.tobytes() for column in turned]

    # ------------------------------------------------------------------ cells

    def _retouched(self, made: Step, host: _Host, entry: HostEntry) -> bool:
        """By far the most that happens: a few of its instances are in another state."""
        if host.entry is entry:
            return True
        news = looks.news(host.entry, entry)
        if news is None:
            return False
        known = [(status, host.cells.get(status.uid)) for status in news]
        if any(k is None or s.state is InstanceState.STOPPED for s, k in known):
            return False
        for status, found in known:
            assert found is not None
            number, was = found
            look = was.look & ~(looks.STATE | looks.LOOPING) | looks.seen(status)
            cell = Cell(was.kind, was.ordinal, look, status.release)
            if cell != was:
                host.cells[status.uid] = self._put(made, host.number, number, was, cell), cell
        return True

    def _redraw(self, made: Step, host: _Host, cells: Mapping[str, Cell]) -> None:
        old, kept = host.cells, {}
        for uid, cell in cells.items():
            number, was = old.pop(uid, (-1, None))
            if was != cell:
                number = self._put(made, host.number, number, was, cell)
            kept[uid] = number, cell
        for number, _ in old.values():
            made.gone.append(number)
            self._columns[1][number] = looks.NO_KIND
            self._free.append(number)
        host.cells = kept

    def _put(self, made: Step, host: int, number: int, was: Cell | None, cell: Cell) -> int:
        kind = self._kinds.get(cell.kind)
        if kind is None:
            kind = self._kinds[cell.kind] = len(self._kinds)
            made.kinds.append(list(cell.kind))
        if was is not None and (was.kind, was.ordinal, was.release) == (
            cell.kind, cell.ordinal, cell.release,
        ):  # fmt: skip
            self._columns[3][number] = cell.look
            made.looks += (number, cell.look)
            return number
        values = (host, kind, cell.ordinal, cell.look, cell.release & 0xFFFFFFFF)
        if number < 0 and self._free:
            number = self._free.pop()
        if number < 0:
            number = len(self._columns[0])
            for column, value in zip(self._columns, values, strict=True):
                column.append(value)
        else:
            for column, value in zip(self._columns, values, strict=True):
                column[number] = value
        made.full += (number, *values)
        return number

    def _cells(self, entry: HostEntry, world: World) -> dict[str, Cell]:
        """As `views.host_instances`, without what the map does not show."""
        observed = entry.observed()
        found: dict[str, Cell] = {}
        for bundle in entry.bundles:
            terms = bundle.terms
            app, kind = world.apps.get(terms.app), (terms.app, terms.type)
            flags = looks.flags_of(world, app, terms)
            same = self._is_same(world, app, terms.type, terms.release)
            for ordinal in bundle.ordinals:
                uid = bundle.uid(ordinal)
                seen = observed.pop(uid, None)
                look = flags | looks.seen(seen)
                if not terms.run and not (same and looks.is_restarted(app, terms, ordinal)):
                    look |= looks.STALE
                if look & looks.STATE != InstanceState.STOPPED:
                    release = seen.release if seen else terms.release
                    found[uid] = Cell(kind, ordinal, look, release)
        if observed:
            found.update(_unasked(observed, kept=timeline.is_held(world, entry)))
        return found

    def _is_same(self, world: World, app: App | None, type_name: str, release: int) -> bool:
        if app is None:
            return False
        key = (app.name, type_name, release)
        if key not in self._same:
            self._same[key] = looks.is_same(world, app, type_name, release)
        return self._same[key]

    def _say(self, made: Step, said: Mapping[str, Any]) -> None:
        for name, value in said.items():
            if name not in self._said or self._said[name] != value:
                self._said[name] = made.said[name] = value


def _unasked(observed: Mapping[str, InstanceStatus], *, kept: bool) -> Iterator[tuple[str, Cell]]:
    """What a host still runs that no document names."""
    flags = 0 if kept else looks.SURPLUS | looks.STALE
    for uid, status in observed.items():
        if status.state is not InstanceState.STOPPED:
            slot, look = status.slot, flags | looks.seen(status)
            yield uid, Cell((slot.app, slot.type), slot.ordinal, look, status.release)


def _apps_on(entry: HostEntry) -> frozenset[str]:
    return frozenset(bundle.terms.app for bundle in entry.bundles)


def _changed_apps(before: World, after: World) -> set[str]:
    """Those of which something else is wanted, also of their runs."""
    found: set[str] = set()
    if before.apps is not after.apps:
        names = before.apps.keys() | after.apps.keys()
        found |= {name for name in names if before.apps.get(name) is not after.apps.get(name)}
    if before.runs is not after.runs:
        keys = before.runs.keys() | after.runs.keys()
        found |= {key[0] for key in keys if before.runs.get(key) is not after.runs.get(key)}
    return found


def _pending_cells(plan: Plan, world: World) -> dict[str, Cell]:
    look = InstanceState.PENDING | CURRENT_UNKNOWN
    return {
        str(slot): Cell((slot.app, slot.type), slot.ordinal, look, world.apps[slot.app].release)
        for slot in plan.pending
        if slot.app in world.apps
    }


# ---------------------------------------------------------------------------- beside the map


def apps_record(world: World) -> list[dict[str, Any]]:
    return [_app_record(world, world.apps[name]) for name in sorted(world.apps)]


def _app_record(world: World, app: App) -> dict[str, Any]:
    """`types`: in their order, each with how many are wanted and how many were asked for."""
    release = world.current_release(app)
    word = app.rollout
    said: dict[str, Any] = {
        "name": app.name,
        "release": app.release,
        "stable": app.stable_release,
        "types": [
            [name, wanted, app.formation.get(name, 0), looks.kind_of_work(release, name)]
            for name, wanted in views.wanted_of(world, app).items()
        ],
    }
    more = {
        "since_ms": release.created_at_ms if release else 0,
        "by": release.created_by if release else "",
        "why": release.reason if release else _why_without(app),
        "candidate": app.candidate.release if app.candidate else 0,
        "paused": word.paused,
        "canary": word.canary,
        "undone": word.undone_release,
        "undone_why": word.reason,
    }
    return said | {name: value for name, value in more.items() if value}


def _why_without(app: App) -> str:
    return "its release cannot be read" if app.release else "its first release has not passed"


def unplaced_record(plan: Plan) -> list[list[Any]]:
    """[app, type, how many, why], most first; the rest of more than `UNPLACED_MAX` in one."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for slot, reason in plan.pending.items():
        counted[slot.app, slot.type, reason[:REASON_MAX]] += 1
    for (app, type_name), more in plan.unnamed.items():
        if more:
            counted[app, type_name, "like those that are named"] += more
    listed = counted.most_common(UNPLACED_MAX)
    rest = sum(counted.values()) - sum(count for _, count in listed)
    found: list[list[Any]] = [[*key[:2], count, key[2]] for key, count in listed]
    return found + ([["", "", rest, "for reasons that are not listed"]] if rest else [])


def left_alone_record(plan: Plan) -> Sequence[list[str]]:
    return [[app, reason[:REASON_MAX]] for app, reason in sorted(plan.left_alone.items())]
