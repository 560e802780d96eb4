"""The whole cluster as one immutable value: what placement, reconcile, views and plans look at.

A `World` is built from records only (`apply`), so the leader, a follower, a test and the simulator
see the same thing. It holds no clock: `silent_since_s` is a reading of the clock of whoever built
it, and is compared only with a `now_s` of that same clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from formation.model import (
    App,
    Assignment,
    AssignmentDocument,
    Cluster,
    Coordinator,
    Host,
    HostState,
    HostStatus,
    InstanceState,
    InstanceStatus,
    Release,
    Session,
)
from formation.requests import Rebalance, Run

Record = (
    App
    | AssignmentDocument
    | Cluster
    | Coordinator
    | Host
    | HostStatus
    | Rebalance
    | Release
    | Run
    | Session
)
# No host is replaced while at least this many, and more than half of all, are silent.
BRAKE_HOSTS_MIN = 3
# Ended, and not started again by themselves.
OVER = frozenset({InstanceState.FINISHED, InstanceState.FAILED})
Key = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEntry:
    """One host from all sides: the operator's word, the agent's, the leader's."""

    name: str
    host: Host | None = None
    status: HostStatus | None = None
    session: Session | None = None
    document: AssignmentDocument | None = None
    silent_since_s: float | None = None

    @property
    def connected(self) -> bool:
        return self.session is not None

    @property
    def known(self) -> bool:
        """False for what is left of a forgotten host: its empty document keeps the generation."""
        return self.host is not None or self.session is not None

    @property
    def assigned(self) -> tuple[Assignment, ...]:
        return self.document.instances if self.document else ()

    def observed(self) -> dict[str, InstanceStatus]:
        """What the agent last said, by uid."""
        return {item.uid: item for item in self.status.instances} if self.status else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """`unreadable`: what a newer version wrote and we cannot read, by kind and names, with why."""

    revision: int = 0
    cluster: Cluster | None = None
    leader: Coordinator | None = None
    apps: Mapping[str, App] = field(default_factory=dict)
    releases: Mapping[tuple[str, int], Release] = field(default_factory=dict)
    hosts: Mapping[str, HostEntry] = field(default_factory=dict)
    coordinators: Mapping[str, Coordinator] = field(default_factory=dict)
    unreadable: Mapping[Key, str] = field(default_factory=dict)

    def current_release(self, app: App) -> Release | None:
        return self.releases.get((app.name, app.release))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One record that came, or (record None) went. `kind` and `names` are its parsed key.

    `problem` non-empty: it came, but cannot be read; what was known before stays.
    """

    kind: str
    names: tuple[str, ...]
    record: Record | None
    problem: str = ""


def apply(world: World, changes: Iterable[Change], *, revision: int, now_s: float) -> World:
    """The world after these changes; maps that nothing touched are shared with the old one."""
    tables = _Tables(world)
    for change in changes:
        tables.note(change)
        if not change.problem:
            tables.take(change, now_s)
    return tables.world(revision)


class _Tables:
    """Copies a map of the old world at its first change, so that a batch copies each once."""

    def __init__(self, world: World) -> None:
        self._old = world
        self._apps: dict[str, App] | None = None
        self._releases: dict[tuple[str, int], Release] | None = None
        self._hosts: dict[str, HostEntry] | None = None
        self._coordinators: dict[str, Coordinator] | None = None
        self._unreadable: dict[Key, str] | None = None
        self._cluster = world.cluster
        self._leader = world.leader

    def take(self, change: Change, now_s: float) -> None:
        record, names = change.record, change.names
        match change.kind:
            case "apps":
                self._apps = self._apps if self._apps is not None else dict(self._old.apps)
                _put(self._apps, names[0], record)
            case "releases":
                if self._releases is None:
                    self._releases = dict(self._old.releases)
                _put(self._releases, (names[0], int(names[1])), record)
            case "coordinators":
                if self._coordinators is None:
                    self._coordinators = dict(self._old.coordinators)
                _put(self._coordinators, names[0], record)
            case "cluster":
                self._cluster = record if isinstance(record, Cluster) else None
            case "leader":
                self._leader = record if isinstance(record, Coordinator) else None
            case "hosts" | "sessions" | "assignments" | "status":
                if self._hosts is None:
                    self._hosts = dict(self._old.hosts)
                self._take_host(change, now_s)
            case _:
                pass  # a newer version's key: not ours to judge

    def note(self, change: Change) -> None:
        """Remember what could not be read, forget what now can."""
        key = (change.kind, change.names)
        known = self._old.unreadable if self._unreadable is None else self._unreadable
        if known.get(key, "") == change.problem:
            return
        self._unreadable = dict(known)
        self._unreadable.pop(key, None)
        if change.problem:
            self._unreadable[key] = change.problem

    def _take_host(self, change: Change, now_s: float) -> None:
        assert self._hosts is not None
        name, record = change.names[0], change.record
        entry = self._hosts.get(name) or HostEntry(name=name, silent_since_s=now_s)
        match change.kind:
            case "hosts":
                entry = replace(entry, host=record if isinstance(record, Host) else None)
            case "assignments":
                document = record if isinstance(record, AssignmentDocument) else None
                entry = replace(entry, document=document)
            case "status":
                status = record if isinstance(record, HostStatus) else None
                entry = replace(entry, status=status)
            case _:
                session = record if isinstance(record, Session) else None
                silent = None if session else (entry.silent_since_s or now_s)
                entry = replace(entry, session=session, silent_since_s=silent)
        if (entry.host, entry.status, entry.session, entry.document) == (None, None, None, None):
            self._hosts.pop(name, None)
        else:
            self._hosts[name] = entry

    def world(self, revision: int) -> World:
        old = self._old
        return World(
            revision=max(revision, old.revision),
            cluster=self._cluster,
            leader=self._leader,
            apps=old.apps if self._apps is None else self._apps,
            releases=old.releases if self._releases is None else self._releases,
            hosts=old.hosts if self._hosts is None else self._hosts,
            coordinators=old.coordinators if self._coordinators is None else self._coordinators,
            unreadable=old.unreadable if self._unreadable is None else self._unreadable,
        )


def _put(table: dict[Any, Any], key: object, record: Record | None) -> None:
    if record is None:
        table.pop(key, None)
    else:
        table[key] = record


def restamp_silence(world: World, *, now_s: float) -> World:
    """Nobody is judged by what happened before `now_s`: done by a new leader."""
    hosts = {
        name: entry if entry.connected else replace(entry, silent_since_s=now_s)
        for name, entry in world.hosts.items()
    }
    return replace(world, hosts=hosts)


def host_state(entry: HostEntry, *, now_s: float, replace_after_s: float) -> HostState:
    """A host that said goodbye is gone at once; a silent one after `replace_after_s`."""
    if entry.connected:
        return HostState.READY
    if entry.status is not None and entry.status.departed:
        return HostState.LOST
    silent_since_s = entry.silent_since_s if entry.silent_since_s is not None else now_s
    return HostState.SUSPECT if now_s < silent_since_s + replace_after_s else HostState.LOST


def brake_is_on(world: World) -> bool:
    """More than half of the hosts, and at least three, are silent: it is us who are cut off.

    A silent host whose instances were all replaced, or that said goodbye, is an old story.
    """
    connected = sum(entry.connected for entry in world.hosts.values())
    silent = sum(
        not entry.connected and not departed(entry) and bool(entry.assigned)
        for entry in world.hosts.values()
    )
    return silent >= BRAKE_HOSTS_MIN and silent > connected


def departed(entry: HostEntry) -> bool:
    return not entry.connected and entry.status is not None and entry.status.departed


def is_current(app: App, assignment: Assignment) -> bool:
    """Does this stay run the current release, and has every restart asked for reached it?"""
    slot = assignment.slot
    return assignment.release == app.release and assignment.restart_mark == app.restart_mark(
        slot.type, slot.ordinal
    )


def validate(world: World) -> list[str]:
    """What may never be true of a world, each as a sentence. Empty when all is well."""
    problems = []
    seen: dict[str, str] = {}
    for entry in world.hosts.values():
        if entry.document and entry.document.host != entry.name:
            problems.append(f"document of {entry.name} names {entry.document.host}")
        slots = set()
        for item in entry.assigned:
            if item.uid in seen:
                problems.append(f"uid {item.uid} is on {seen[item.uid]} and on {entry.name}")
            if item.slot in slots:
                problems.append(f"slot {item.slot} twice on {entry.name}")
            seen[item.uid] = entry.name
            slots.add(item.slot)
    problems += [
        f"app {app.name} has no release v{app.release}"
        for app in world.apps.values()
        if world.current_release(app) is None
    ]
    return problems


def is_healthy(entry: HostEntry, status: InstanceStatus | None) -> bool:
    """Is it as wanted? HEALTHY counts only while its host is heard, FINISHED in any case."""
    if status is None:
        return False
    if status.state is InstanceState.FINISHED:
        return True
    return entry.connected and status.state is InstanceState.HEALTHY


def is_over(status: InstanceStatus | None) -> bool:
    """It has ended, and only a restart, a retry or a new release runs it again."""
    return status is not None and status.state in OVER
