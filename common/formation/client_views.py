"""What `formation.client` tells: a few frozen records, and how they come from the wire.

Names and meanings stay; later versions may add fields. Times are seconds since 1970, 0 for never.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from formation import wire
from formation.v1 import agent_pb2, types_pb2
from formation.v1 import control_pb2 as pb

_MS, _US = 1000, 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """`formation`: how many of each type of the current release are wanted. `wanted`, `healthy`:
    instances."""

    name: str
    release: int
    formation: Mapping[str, int]
    wanted: int
    healthy: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One copy that runs, or shall. `state`: "healthy", "starting", "backoff"…, as `formctl ps`
    says it; of one without a host "pending". `leaving`: it is not wanted any more. `outdated`:
    another comes in its place. `silent`: its host is not heard of, this is the last it said."""

    uid: str
    app: str
    type: str
    ordinal: int
    state: str
    host: str
    port: int
    pid: int
    release: int
    restarts: int
    started_at: float
    reason: str
    leaving: bool
    outdated: bool
    silent: bool

    @property
    def name(self) -> str:
        return f"{self.type}.{self.ordinal}"

    @property
    def is_good(self) -> bool:
        """Exactly what was asked for: it works, or has done its work."""
        counts = not (self.leaving or self.outdated or self.silent)
        return counts and self.state in ("healthy", "finished")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`state`: "ready", "suspect" or "lost". `labels`: the operator's before the agent's."""

    name: str
    state: str
    address: str
    labels: Mapping[str, str]
    cordoned: bool
    draining: bool
    instances: int
    healthy: int
    cpus: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    number: int
    types: tuple[str, ...]
    created_at: float
    created_by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`what`: "instance.healthy", "host.silent"…; `subject`: "shop/web.1", "a"."""

    number: int
    at: float
    what: str
    subject: str
    app: str
    host: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """`text`: without its newline; bytes, since programs write what they like. `at`: by the host's
    clock. `unfinished`: it goes on in the next line of that instance."""

    app: str
    type: str
    ordinal: int
    host: str
    at: float
    stderr: bool
    text: bytes
    unfinished: bool


def app(view: pb.AppView) -> App:
    wanted = view.app.formation
    return App(
        name=view.app.name,
        release=view.app.release,
        formation={spec.name: wanted[spec.name] for spec in view.release.types},
        wanted=view.wanted,
        healthy=view.healthy,
    )


def instance(view: pb.InstanceView) -> Instance:
    """Raises `wire.WireError` for a state of a later version."""
    status = wire.instance_status_from_pb(view.status)
    return Instance(
        uid=status.uid,
        app=status.slot.app,
        type=status.slot.type,
        ordinal=status.slot.ordinal,
        state=status.state.name.lower(),
        host=view.host,
        port=status.port,
        pid=status.pid,
        release=status.release,
        restarts=max(0, status.attempt - 1),
        started_at=status.started_at_ms / _MS,
        reason=status.reason,
        leaving=view.surplus,
        outdated=not view.current,
        silent=view.host_silent,
    )


def host(view: pb.HostView) -> Host:
    said, word = view.status, view.host
    theirs = {name: text for name, text in said.labels.items() if name not in word.labels}
    ours = {name: text for name, text in word.labels.items() if text}
    state = pb.HostState.Name(view.state) if view.state in pb.HostState.values() else ""
    return Host(
        name=said.host,
        state=state.removeprefix("HOST_STATE_").lower(),
        address=said.address,
        labels=theirs | ours,
        cordoned=word.cordoned,
        draining=word.draining,
        instances=view.instances,
        healthy=view.healthy,
        cpus=said.capacity.cpus,
        memory_bytes=said.capacity.memory_bytes,
    )


def release(message: types_pb2.Release) -> Release:
    return Release(
        number=message.number,
        types=tuple(spec.name for spec in message.types),
        created_at=message.created_at_ms / _MS,
        created_by=message.created_by,
        reason=message.reason,
    )


def event(message: pb.Event) -> Event:
    return Event(
        number=message.number,
        at=message.at_ms / _MS,
        what=message.what,
        subject=message.subject,
        app=message.app,
        host=message.host,
        text=message.text,
    )


def log_line(message: agent_pb2.LogLine) -> LogLine:
    return LogLine(
        app=message.app,
        type=message.type,
        ordinal=message.ordinal,
        host=message.host,
        at=message.at_us / _US,
        stderr=message.stderr,
        text=message.text,
        unfinished=message.partial,
    )
