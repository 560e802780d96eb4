"""The vocabulary as data: what users want, what the leader decides, what agents see.

Frozen and without behaviour beyond naming; every other room speaks in these. Three owners, never
the same field: spec (`App`, `Release`: the user), desired (`AssignmentDocument`: the leader) and
observed (`HostStatus`: the agent).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

# An app's, host's and process type's name end up in keys, file names and host names.
APP_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
TYPE_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
QUANTITY_MAX = 1_000_000


class InstanceState(IntEnum):
    """In the order of a stay's life; the numbers are those of the protocol."""

    PENDING = 1
    WAITING = 2
    STARTING = 3
    HEALTHY = 4
    BACKOFF = 5
    STOPPING = 6
    STOPPED = 7


class HostState(IntEnum):
    READY = 1
    SUSPECT = 2
    LOST = 3


class ChangeKind(StrEnum):
    SET = "="
    ADD = "+"
    SUBTRACT = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantityChange:
    """One word of `formctl scale`: `web=5`, `worker+1`, `worker-2`."""

    type: str
    kind: ChangeKind
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessType:
    name: str
    command: str
    initial_quantity: int = 0
    stop_signal: str = "TERM"
    stop_grace_s: float = 30.0
    ready_after_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Immutable and numbered per app; holds no quantity."""

    app: str
    number: int
    types: tuple[ProcessType, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""
    created_by: str = ""
    created_at_ms: int = 0
    reason: str = ""

    def type_named(self, name: str) -> ProcessType | None:
        return next((spec for spec in self.types if spec.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    name: str
    formation: Mapping[str, int]
    release: int
    latest_release: int
    restart_marks: Mapping[str, int] = field(default_factory=dict)
    created_at_ms: int = 0

    def restart_mark(self, type_name: str, ordinal: int) -> int:
        """How often a restart was asked for that reaches this slot; it only grows."""
        marks = self.restart_marks
        return marks.get(type_name, 0) + marks.get(f"{type_name}.{ordinal}", 0)


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """`shop/web.3`: a place in the formation, kept across moves."""

    app: str
    type: str
    ordinal: int

    def __str__(self) -> str:
        return f"{self.app}/{self.type}.{self.ordinal}"

    @property
    def short(self) -> str:
        return f"{self.type}.{self.ordinal}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One stay: a slot on one host under a uid that is never used again."""

    uid: str
    slot: Slot
    release: int
    restart_mark: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentDocument:
    """Everything the leader wants on one host."""

    host: str
    generation: int
    epoch: int
    instances: tuple[Assignment, ...]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStatus:
    uid: str
    slot: Slot
    release: int
    state: InstanceState
    pid: int = 0
    port: int = 0
    attempt: int = 0
    started_at_ms: int = 0
    reason: str = ""
    last_exit: str = ""
    retry_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """`instances_max` 0 means no limit of its own."""

    instances_max: int = 0
    cpus: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    host: str
    agent_id: str
    boot_id: str = ""
    agent_version: str = ""
    capacity: Capacity = Capacity()
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    instances: tuple[InstanceStatus, ...] = ()
    departed: bool = False
    complaint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    session_id: str
    coordinator_id: str
    agent_id: str
    since_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinator:
    id: str
    address: str
    version: str = ""
    since_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    id: str
    schema_version: int
    created_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The operator's word on a host; made when it first joins."""

    name: str
    joined_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    at_ms: int
    who: str
    action: str
    subject: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """How often a stay was started, how often it failed in a row, and its process (pid 0: none)."""

    attempt: int = 0
    failures: int = 0
    pid: int = 0
    start_ticks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentMemory:
    """What an agent keeps on its own disk. `ending`: no longer wanted, but not all gone yet."""

    agent_id: str
    cluster_id: str = ""
    epoch: int = 0
    generation: int = 0
    assigned: tuple[Assignment, ...] = ()
    ending: tuple[Assignment, ...] = ()
    releases: tuple[Release, ...] = ()
    ports: Mapping[Slot, int] = field(default_factory=dict)
    tries: Mapping[str, Tries] = field(default_factory=dict)
    # Of the machine when the processes in `tries` ran.
    boot_id: str = ""
