"""What is seen of a cluster by whoever looks: its instances, its hosts and how its apps stand.

A part of `formation.model`'s vocabulary in a file of its own: nearly every command shows these, and
loads nothing else of it. Each frozen dataclass takes Python a millisecond to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

import msgspec
from msgspec import Struct

from formation.releasecommand import Candidate


class InstanceState(IntEnum):
    """The numbers are those of the protocol; docs/design/states.md tells what each means."""

    PENDING = 1
    WAITING = 2
    STARTING = 3
    HEALTHY = 4
    BACKOFF = 5
    STOPPING = 6
    STOPPED = 7
    UNREADY = 8
    RESTARTING = 9
    FINISHED = 10
    FAILED = 11
    DRAINING = 12  # on the wire it is STOPPING with a flag, which is what it is to older ones


class HostState(IntEnum):
    READY = 1
    SUSPECT = 2
    LOST = 3


class Ability(StrEnum):
    """What a host may be able to enforce, and a type may require."""

    CGROUP = "cgroup"
    CPU = "cpu"
    MEMORY = "memory"
    PIDS = "pids"
    USER = "user"


class Slot(Struct, frozen=True, order=True, gc=False):
    """`shop/web.3`: a place in the formation, kept across moves."""

    app: str
    type: str
    ordinal: int

    def __str__(self) -> str:
        return f"{self.app}/{self.type}.{self.ordinal}"

    @property
    def short(self) -> str:
        return f"{self.type}.{self.ordinal}"


class InstanceStatus(Struct, frozen=True, kw_only=True, gc=False):
    """`failures`: in a row. `crash_looping`: so often within so short a time on this host that
    another one should be tried. `unbuildable`: why the code that it waits for cannot be built
    there. `told`: what the process last said with STATUS=."""

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
    failures: int = 0
    crash_looping: bool = False
    unbuildable: str = ""
    told: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the processes of one instance use now. `memory_bytes`: resident; shared pages count
    once where a cgroup counts them. `files`: open descriptors, -1 when we may not look.
    `log_bytes_per_s`: over the last sampling interval."""

    uid: str
    cpu_s: float = 0.0
    cpu_share: float = 0.0
    memory_bytes: int = 0
    processes: int = 0
    files: int = -1
    log_bytes: int = 0
    log_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """`instances_max` 0 means no limit of its own."""

    instances_max: int = 0
    cpus: float = 0.0
    memory_bytes: int = 0


class HostStatus(Struct, frozen=True, kw_only=True, gc=False):
    """`abilities`: what the host can enforce; `inability`: what it cannot and why, for people.
    `generation`, `cluster_epoch`: of the assignment document that it follows. `ahead`: it has
    refused one as older than that."""

    host: str
    agent_id: str
    boot_id: str = ""
    agent_version: str = ""
    capacity: Capacity = Capacity()
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    address: str = ""
    instances: tuple[InstanceStatus, ...] = ()
    departed: bool = False
    complaint: str = ""
    abilities: tuple[Ability, ...] = ()
    inability: str = ""
    generation: int = 0
    cluster_epoch: int = 0
    ahead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The operator's word on a host; made when it first joins.

    `cordoned`: it takes nothing new. `draining`: what it has goes elsewhere too, and after
    `drain_deadline_s` is stopped (0: never). `labels` go before those of its agent; an empty
    value takes a label away.
    """

    name: str
    joined_at_ms: int = 0
    cordoned: bool = False
    draining: bool = False
    drain_deadline_s: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormationChange:
    """What the formation was before somebody changed it."""

    before: Mapping[str, int]
    who: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The word on the way to the current release. `canary`: so many of each changed type get it,
    the others wait; 0: all. `undone_release`: the last one that was taken back, `reason`: why.
    """

    paused: bool = False
    canary: int = 0
    undone_release: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """`release` is what is wanted, `stable_release` the last one that arrived everywhere (0: none
    yet). `candidate`: what becomes wanted when its release command has passed; of a first release
    `release` is 0 until then. `formation_history`: oldest first, bounded. `runs_made`: how many
    runs were ever asked for."""

    name: str
    formation: Mapping[str, int]
    release: int
    latest_release: int
    restart_marks: Mapping[str, int] = field(default_factory=dict)
    created_at_ms: int = 0
    retry_marks: Mapping[str, int] = field(default_factory=dict)
    stable_release: int = 0
    rollout: Rollout = Rollout()
    formation_history: tuple[FormationChange, ...] = ()
    runs_made: int = 0
    candidate: Candidate | None = None

    @property
    def newest(self) -> int:
        """The release that the next one builds on: the candidate, else the current one; where the
        first has not passed, that."""
        return self.candidate.release if self.candidate else self.release or self.latest_release

    def restart_mark(self, type_name: str, ordinal: int) -> int:
        """How often a restart was asked for that reaches this slot; it only grows."""
        return _mark(self.restart_marks, type_name, ordinal)

    def retry_mark(self, type_name: str, ordinal: int) -> int:
        """How often an instance in this slot was told to try again now; it only grows."""
        return _mark(self.retry_marks, type_name, ordinal)


def _mark(marks: Mapping[str, int], type_name: str, ordinal: int) -> int:
    return marks.get(type_name, 0) + marks.get(f"{type_name}.{ordinal}", 0)
