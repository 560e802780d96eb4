"""The vocabulary as data: what users want, what the leader decides, what agents see.

Frozen and without behaviour beyond naming; every other room speaks in these. Three owners, never
the same field: spec (`App`, `Release`: the user), desired (`AssignmentDocument`: the leader) and
observed (`HostStatus`: the agent).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from msgspec import Struct

from formation.artifacts import Artifact
from formation.builds import Build
from formation.releasecommand import CommandEnd, ReleaseCommand
from formation.rules import HostLoss, Resources, RolloutRules, Schedule, Where
from formation.secrets import Secret
from formation.seen import (
    Ability,
    App,
    Capacity,
    FormationChange,
    Host,
    HostState,
    HostStatus,
    InstanceState,
    InstanceStatus,
    Rollout,
    Slot,
    Usage,
)

__all__ = [
    "Ability",
    "App",
    "Capacity",
    "FormationChange",
    "Host",
    "HostState",
    "HostStatus",
    "InstanceState",
    "InstanceStatus",
    "Rollout",
    "Slot",
    "Usage",
]

QUANTITY_MAX = 1_000_000


class RestartPolicy(StrEnum):
    """Which ends are followed by another start. Without ALWAYS, exit 0 means: it is done."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class StopTo(StrEnum):
    """Who gets the stop signal; what is left after the grace is killed, whoever it is."""

    GROUP = "group"
    MAIN = "main"


class ProbeKind(StrEnum):
    HTTP = "http"
    TCP = "tcp"
    EXEC = "exec"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """`target`: the path of HTTP, the command of EXEC, the service of GRPC ("": the whole server).

    `port` 0 is the instance's own PORT. It counts as failed after `failures` in a row, as passed
    after `successes` in a row.
    """

    kind: ProbeKind
    target: str = ""
    port: int = 0
    period_s: float = 5.0
    timeout_s: float = 1.0
    failures: int = 3
    successes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """0 and absent: no limit. `rlimits`: soft = hard, by lower-case name; -1 is unlimited."""

    cpus: float = 0.0
    memory_bytes: int = 0
    pids: int = 0
    rlimits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessType:
    """One kind of work: a command and how to run it.

    Ready is what passes `readiness`, or says so itself (`notify`), or else is up `ready_after_s`.
    `start_grace_s`: so long failed probes do not count, and so long it may take to say READY=1.
    `stop_drain_s`: so long before its stop signal it is no endpoint any more.
    `watchdog_s`: it must say WATCHDOG=1 at least so often; 0 is never. `user`, `group` "": the
    agent's own. `workdir` is absolute, or below the release's. `umask` -1 and `nice` 0 are the
    agent's. `port` 0: any free one. `env` goes before the release's, `exclusive`: never two copies
    of a slot at once, whatever breaks. `per_host`: the quantity is that of every host that fits.
    With a `schedule` it runs at those times only, the quantity at once. `secrets`: which it gets,
    None is all; those of `secret_files` as files.
    """

    name: str
    command: str
    initial_quantity: int = 0
    restart: RestartPolicy = RestartPolicy.ALWAYS
    stop_signal: str = "TERM"
    stop_grace_s: float = 30.0
    stop_to: StopTo = StopTo.GROUP
    stop_drain_s: float = 0.0
    ready_after_s: float = 1.0
    readiness: Probe | None = None
    liveness: Probe | None = None
    notify: bool = False
    watchdog_s: float = 0.0
    start_grace_s: float = 30.0
    port: int = 0
    limits: Limits = Limits()
    nice: int = 0
    user: str = ""
    group: str = ""
    workdir: str = ""
    umask: int = -1
    requires: tuple[Ability, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()
    where: Where = Where()
    rollout: RolloutRules = RolloutRules()
    exclusive: bool = False
    per_host: bool = False
    schedule: Schedule | None = None
    on_host_loss: HostLoss = HostLoss()
    secrets: tuple[str, ...] | None = None
    secret_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Immutable and numbered per app; holds no quantity.

    `env` is the project's own, `config` the operator's: it goes before that, and `secrets` before
    everything. Both are handed on from release to release. `artifact`: its code, then `workdir`
    means nothing. `build`: what is done to that on a host first; means nothing without one.
    means nothing. `command` runs once before anything of it starts; `command_end` is written when
    that is over, the one thing that ever is.
    """

    app: str
    number: int
    types: tuple[ProcessType, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""
    created_by: str = ""
    created_at_ms: int = 0
    reason: str = ""
    config: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    artifact: Artifact | None = None
    build: Build | None = None
    command: ReleaseCommand | None = None
    command_end: CommandEnd | None = None

    def type_named(self, name: str) -> ProcessType | None:
        for spec in self.types:  # asked for each instance: no generator
            if spec.name == name:
                return spec
        return None


class Assignment(Struct, frozen=True, kw_only=True, gc=False):
    """One stay: a slot on one host under a uid that is never used again.

    `failures`: how often the slot failed in a row before it came here. `avoided_hosts`: where this
    release crash-looped in this slot. `retry_mark` may grow during the stay, and `ending` may
    become true: it is to be stopped, and stays listed until it surely is. `surge`: one more than
    the quantity, for a change that is under way. `moved_from`: the host whose stay it follows when
    it is healthy; `after_loss`: because that host was lost. `revision`: of the world that it was
    placed in, `reason`: why it is here. `run`: the id of the run that it is; with `command` that
    one instead of the type's, with `like` the settings of that type.
    """

    uid: str
    slot: Slot
    release: int
    restart_mark: int = 0
    retry_mark: int = 0
    failures: int = 0
    avoided_hosts: tuple[str, ...] = ()
    surge: bool = False
    ending: bool = False
    moved_from: str = ""
    after_loss: bool = False
    revision: int = 0
    reason: str = ""
    run: str = ""
    command: str = ""
    like: str = ""


class Terms(Struct, frozen=True, kw_only=True, gc=False):
    """What many stays of one type have in common: the fields of `Assignment`, without the ordinal.

    `stem`, which is never used again, makes their uids: `<type>.<ordinal>-<stem>`.
    """

    app: str
    type: str
    release: int
    stem: str
    restart_mark: int = 0
    retry_mark: int = 0
    failures: int = 0
    avoided_hosts: tuple[str, ...] = ()
    surge: bool = False
    ending: bool = False
    moved_from: str = ""
    after_loss: bool = False
    revision: int = 0
    reason: str = ""
    run: str = ""
    command: str = ""
    like: str = ""


class Bundle(Struct, frozen=True, gc=False):
    """Stays of one type on one host that differ in nothing but their ordinals.

    Small, since a cluster has hundreds of thousands; their terms are shared.
    """

    terms: Terms
    ordinals: tuple[int, ...]

    def uid(self, ordinal: int) -> str:
        return f"{self.terms.type}.{ordinal}-{self.terms.stem}"

    def stay(self, ordinal: int) -> Assignment:
        terms = self.terms
        return Assignment(
            uid=self.uid(ordinal),
            slot=Slot(terms.app, terms.type, ordinal),
            release=terms.release,
            restart_mark=terms.restart_mark,
            retry_mark=terms.retry_mark,
            failures=terms.failures,
            avoided_hosts=terms.avoided_hosts,
            surge=terms.surge,
            ending=terms.ending,
            moved_from=terms.moved_from,
            after_loss=terms.after_loss,
            revision=terms.revision,
            reason=terms.reason,
            run=terms.run,
            command=terms.command,
            like=terms.like,
        )

    def stays(self) -> Iterator[Assignment]:
        return map(self.stay, self.ordinals)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentDocument:
    """Everything the leader wants on one host."""

    host: str
    generation: int
    epoch: int
    bundles: tuple[Bundle, ...]
    cluster_epoch: int = 0

    @property
    def instances(self) -> tuple[Assignment, ...]:
        """One by one, made anew at each call: a host may have thousands."""
        return tuple(stay for bundle in self.bundles for stay in bundle.stays())

    @property
    def size(self) -> int:
        """How many stays it lists."""
        return sum(len(bundle.ordinals) for bundle in self.bundles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignments:
    """One order of the leader to one agent: all of its document, or a change of it.

    `complete`: what is not listed goes. Otherwise it touches only what it names, and only builds
    on generation `applies_to`.
    """

    complete: bool
    epoch: int
    results_in: int
    applies_to: int = 0
    instances: tuple[Assignment, ...] = ()
    removed_uids: tuple[str, ...] = ()
    releases: tuple[Release, ...] = ()
    cluster_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    session_id: str
    coordinator_id: str
    agent_id: str
    since_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinator:
    """`insecure`: it serves on TCP without certificates."""

    id: str
    address: str
    version: str = ""
    since_ms: int = 0
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """`epoch` grows with every operator's word that the store, as it is, counts. `held`: why
    nothing is started, moved or stopped until that word."""

    id: str
    schema_version: int
    created_at_ms: int = 0
    epoch: int = 0
    held: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """Who did what to what, from which value to which, and why."""

    at_ms: int
    who: str
    action: str
    subject: str
    detail: str = ""
    before: str = ""
    after: str = ""
    why: str = ""
