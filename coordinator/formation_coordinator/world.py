"""The whole cluster as one immutable value: what placement, reconcile, views and plans look at.

A `World` is built from records only (`apply`), so the leader, a follower, a test and the simulator
see the same thing. It holds no clock: `silent_since_s` is a reading of the clock of whoever built
it, and is compared only with a `now_s` of that same clock; so are `draining_since_s` and
`healthy_since_s`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from msgspec import Struct, structs

from formation.automation import Autoscale, Delivery, Webhook
from formation.builds import Build, outcome_of
from formation.identity import IssuedIdentity, JoinToken, Trust
from formation.model import (
    App,
    Assignment,
    AssignmentDocument,
    Bundle,
    Cluster,
    Coordinator,
    Host,
    HostState,
    HostStatus,
    InstanceState,
    InstanceStatus,
    ProcessType,
    Release,
    Session,
)
from formation.requests import Rebalance, Run
from formation.secrets import needed, versions

Record = (
    App
    | AssignmentDocument
    | Autoscale
    | Cluster
    | Coordinator
    | Delivery
    | Host
    | HostStatus
    | IssuedIdentity
    | JoinToken
    | Rebalance
    | Release
    | Run
    | Session
    | Trust
    | Webhook
)
# No host is replaced while at least this many, and more than half of all, are silent.
BRAKE_HOSTS_MIN = 3
# Ended, and not started again by themselves.
OVER = frozenset({InstanceState.FINISHED, InstanceState.FAILED})
# No process of it runs any more.
GONE = OVER | {InstanceState.STOPPED}
# Who is healthy for longer than this is not asked since when.
HEALTHY_KNOWN_S = 3_600.0
# What people and the leader decide; sessions and statuses are only seen.
DECIDED = frozenset({"apps", "assignments", "autoscale", "hosts", "rebalance", "releases", "runs"})
Key = tuple[str, tuple[str, ...]]


class HostEntry(Struct, frozen=True, kw_only=True, gc=False):
    """One host from all sides: the operator's word, the agent's, the leader's.

    `healthy_since_s`: by uid, of those that are HEALTHY since it can matter.
    """

    name: str
    host: Host | None = None
    status: HostStatus | None = None
    session: Session | None = None
    document: AssignmentDocument | None = None
    silent_since_s: float | None = None
    draining_since_s: float | None = None
    healthy_since_s: Mapping[str, float] = msgspec.field(default_factory=dict)

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

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        return self.document.bundles if self.document else ()

    @property
    def draining(self) -> bool:
        return self.host is not None and self.host.draining

    @property
    def cordoned(self) -> bool:
        return self.host is not None and (self.host.cordoned or self.host.draining)

    @property
    def labels(self) -> dict[str, str]:
        """The operator's go before the agent's; an empty one takes the agent's away."""
        theirs = self.status.labels if self.status else {}
        ours = self.host.labels if self.host else {}
        kept = {name: value for name, value in theirs.items() if name not in ours}
        return kept | {name: value for name, value in ours.items() if value}

    def observed(self, app: str = "") -> dict[str, InstanceStatus]:
        """What the agent last said, by uid; of one app if it is named."""
        said = self.status.instances if self.status else ()
        return {item.uid: item for item in said if not app or item.slot.app == app}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """`unreadable`: what a newer version wrote and we cannot read, by kind and names, with why.

    `decided_revision`: the newest at which something was decided, by people or the leader. `runs`:
    by app and id. `autoscale`: by app and type. `trust`: None in a cluster without certificates.
    `identities`: by role and name.
    """

    revision: int = 0
    decided_revision: int = 0
    cluster: Cluster | None = None
    leader: Coordinator | None = None
    apps: Mapping[str, App] = field(default_factory=dict)
    releases: Mapping[tuple[str, int], Release] = field(default_factory=dict)
    hosts: Mapping[str, HostEntry] = field(default_factory=dict)
    coordinators: Mapping[str, Coordinator] = field(default_factory=dict)
    runs: Mapping[tuple[str, str], Run] = field(default_factory=dict)
    rebalance: Rebalance | None = None
    trust: Trust | None = None
    identities: Mapping[tuple[str, str], IssuedIdentity] = field(default_factory=dict)
    tokens: Mapping[str, JoinToken] = field(default_factory=dict)
    autoscale: Mapping[tuple[str, str], Autoscale] = field(default_factory=dict)
    webhooks: Mapping[str, Webhook] = field(default_factory=dict)
    deliveries: Mapping[str, Delivery] = field(default_factory=dict)
    unreadable: Mapping[Key, str] = field(default_factory=dict)

    @property
    def cluster_epoch(self) -> int:
        return self.cluster.epoch if self.cluster else 0

    def current_release(self, app: App) -> Release | None:
        return self.releases.get((app.name, app.release))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One record that came, or (record None) went. `kind` and `names` are its parsed key.

    `problem` non-empty: it came, but cannot be read; what was known before stays. `revision`: its
    own, where that is known.
    """

    kind: str
    names: tuple[str, ...]
    record: Record | None
    problem: str = ""
    revision: int = 0


def apply(world: World, changes: Iterable[Change], *, revision: int, now_s: float) -> World:
    """The world after these changes; maps that nothing touched are shared with the old one."""
    tables = _Tables(world)
    for change in changes:
        tables.note(change, revision)
        if not change.problem:
            tables.take(change, now_s)
    return tables.world(revision)


class _Tables:
    """Copies a map of the old world at its first change, so that a batch copies each once."""

    def __init__(self, world: World) -> None:
        self._old = world
        self._copies: dict[str, dict[Any, Any]] = {}
        self._single: dict[str, Any] = {
            "cluster": world.cluster, "leader": world.leader, "rebalance": world.rebalance,
            "trust": world.trust,
        }  # fmt: skip
        self._decided_revision = world.decided_revision

    def take(self, change: Change, now_s: float) -> None:
        record, names = change.record, change.names
        match change.kind:
            case "apps" | "coordinators" | "deliveries" | "tokens" | "webhooks":
                _put(self._table(change.kind), names[0], record)
            case "releases":
                _put(self._table("releases"), (names[0], int(names[1])), record)
            case "autoscale" | "runs" | "identities":
                _put(self._table(change.kind), names, record)
            case "cluster" | "leader" | "rebalance" | "trust":
                self._single[change.kind] = record
            case "hosts" | "sessions" | "assignments" | "status":
                self._take_host(change, now_s)
            case _:
                pass  # a newer version's key: not ours to judge

    def _table(self, name: str) -> dict[Any, Any]:
        if name not in self._copies:
            self._copies[name] = dict(getattr(self._old, name))
        return self._copies[name]

    def note(self, change: Change, revision: int) -> None:
        """Remember what could not be read, forget what now can."""
        if change.kind in DECIDED:
            newest = max(self._decided_revision, change.revision or revision)
            self._decided_revision = newest
        key = (change.kind, change.names)
        known = self._copies.get("unreadable", self._old.unreadable)
        if known.get(key, "") != change.problem:
            _put(self._table("unreadable"), key, change.problem or None)

    def _take_host(self, change: Change, now_s: float) -> None:
        hosts = self._table("hosts")
        name, record = change.names[0], change.record
        entry = hosts.get(name) or HostEntry(name=name, silent_since_s=now_s)
        match change.kind:
            case "hosts":
                host = record if isinstance(record, Host) else None
                since_s = (entry.draining_since_s or now_s) if host and host.draining else None
                entry = structs.replace(entry, host=host, draining_since_s=since_s)
            case "assignments":
                document = record if isinstance(record, AssignmentDocument) else None
                entry = structs.replace(entry, document=document)
            case "status":
                status = record if isinstance(record, HostStatus) else None
                since = _healthy_since_s(entry, status, now_s)
                entry = structs.replace(entry, status=status, healthy_since_s=since)
            case _:
                session = record if isinstance(record, Session) else None
                silent = None if session else (entry.silent_since_s or now_s)
                entry = structs.replace(entry, session=session, silent_since_s=silent)
        if (entry.host, entry.status, entry.session, entry.document) == (None, None, None, None):
            hosts.pop(name, None)
        else:
            hosts[name] = entry

    def world(self, revision: int) -> World:
        fields: dict[str, Any] = {**self._copies, **self._single}
        return replace(
            self._old,
            revision=max(revision, self._old.revision),
            decided_revision=self._decided_revision,
            **fields,
        )


def _healthy_since_s(
    entry: HostEntry, status: HostStatus | None, now_s: float
) -> Mapping[str, float]:
    """By uid; who was healthy before and has no time here has been it for long. Another attempt
    begins anew, also when nobody saw the end of the one before."""
    if status is None:
        return {}
    before = entry.healthy_since_s
    were = entry.status.instances if entry.status else ()
    healthy = {s.uid: s.attempt for s in were if s.state is InstanceState.HEALTHY}
    for_long = healthy.keys() - before.keys()
    horizon_s = now_s - HEALTHY_KNOWN_S
    found = {}
    for item in status.instances:
        if item.state is InstanceState.HEALTHY:
            same = healthy.get(item.uid) == item.attempt
            since_s = before.get(item.uid, now_s) if same else now_s
            if since_s > horizon_s and not (same and item.uid in for_long):
                found[item.uid] = since_s
    return found


def _put(table: dict[Any, Any], key: object, record: object) -> None:
    if record is None:
        table.pop(key, None)
    else:
        table[key] = record


def restamp_silence(world: World, *, now_s: float) -> World:
    """Nobody is judged by what happened before `now_s`: done by a new leader."""
    hosts = {
        name: entry if entry.connected else structs.replace(entry, silent_since_s=now_s)
        for name, entry in world.hosts.items()
    }
    return replace(world, hosts=hosts)


def host_state(
    entry: HostEntry, *, now_s: float, replace_after_s: float, judged_from_s: float = -math.inf
) -> HostState:
    """A host that said goodbye is gone at once; a silent one after `replace_after_s`, of which what
    was before `judged_from_s` does not count."""
    if entry.connected:
        return HostState.READY
    if entry.status is not None and entry.status.departed:
        return HostState.LOST
    silent_since_s = entry.silent_since_s if entry.silent_since_s is not None else now_s
    counts_from_s = max(silent_since_s, judged_from_s)
    return HostState.SUSPECT if now_s < counts_from_s + replace_after_s else HostState.LOST


def bundle_order(bundle: Bundle) -> tuple[object, ...]:
    """In which a document lists them."""
    return bundle.terms.app, bundle.terms.type, bundle.ordinals, bundle.terms.stem


def departed(entry: HostEntry) -> bool:
    return not entry.connected and entry.status is not None and entry.status.departed


def same_definition(world: World, app: str, type_name: str, one: int, other: int) -> bool:
    """Would an instance of the type run the same in both releases? False when one is not known."""
    if one == other:
        return True
    first, second = world.releases.get((app, one)), world.releases.get((app, other))
    if first is None or second is None:
        return False
    a, b = first.type_named(type_name), second.type_named(type_name)
    return (
        a is not None
        and b is not None
        and essence(a) == essence(b)
        and (dict(first.env), dict(first.config)) == (dict(second.env), dict(second.config))
        and (first.workdir, first.artifact) == (second.workdir, second.artifact)
        and _outcome(first) == _outcome(second)
        and versions(first.secrets, needed(a, first.secrets))
        == versions(second.secrets, needed(b, second.secrets))
    )


def _outcome(release: Release) -> Build | None:
    return outcome_of(release.build) if release.artifact else None


def essence(spec: ProcessType) -> ProcessType:
    """What makes a difference to a process that runs: not how many, where or how it is replaced."""
    return replace(
        spec,
        initial_quantity=0,
        where=_NOTHING_SAID.where,
        rollout=_NOTHING_SAID.rollout,
        on_host_loss=_NOTHING_SAID.on_host_loss,
        schedule=None,
        per_host=False,
    )


_NOTHING_SAID = ProcessType(name="any", command="any")


def is_current(world: World, item: Assignment) -> bool:
    """Does it run what the current release says, and has every restart asked for reached it?"""
    slot, app = item.slot, world.apps.get(item.slot.app)
    return (
        app is not None
        and same_definition(world, slot.app, slot.type, item.release, app.release)
        and item.restart_mark == app.restart_mark(slot.type, slot.ordinal)
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
        if app.release and world.current_release(app) is None
    ]
    return problems


def is_healthy(entry: HostEntry, status: InstanceStatus | None) -> bool:
    """Is it as wanted? HEALTHY counts only while its host is heard, FINISHED in any case."""
    if status is None:
        return False
    if status.state is InstanceState.FINISHED:
        return True
    return entry.connected and status.state is InstanceState.HEALTHY


def says_the_same(one: HostEntry, other: HostEntry) -> bool:
    """But for since when something is so: a new leader stamps all silent hosts anew."""
    return one is other or (
        one.host is other.host
        and one.session is other.session
        and one.status is other.status
        and one.document is other.document
    )


def surely_gone(entry: HostEntry, status: InstanceStatus | None) -> bool:
    """No process of a stay that is `ending` runs any more, and none will: its agent says so, of the
    document as it is; or has said goodbye."""
    if departed(entry):
        return True
    if not entry.connected or entry.status is None or entry.document is None:
        return False
    seen = status is None or status.state in GONE
    return seen and entry.status.generation >= entry.document.generation


def is_over(status: InstanceStatus | None) -> bool:
    """It has ended, and only a restart, a retry or a new release runs it again."""
    return status is not None and status.state in OVER
