"""What is written, whoever shall run it: works, files, and what gets lost on the way. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from formation.model import ProcessType
from formation.releasecommand import RELEASE

SHELL = "/bin/sh"
PRIVATE, PLAIN, PROGRAM = 0o600, 0o644, 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One instance: `web.1`. `port` 0: it gets none."""

    spec: ProcessType
    ordinal: int
    port: int = 0

    @property
    def name(self) -> str:
        return f"{self.spec.name}.{self.ordinal}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Formation:
    """`env`: of all types. `user`: who runs what names nobody; "" is whoever the manager takes.
    `command`: the release command, if there is one."""

    app: str
    workdir: str
    works: tuple[Work, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    command: str = ""

    @property
    def types(self) -> tuple[ProcessType, ...]:
        """Those that are written, each once, in order."""
        return tuple({work.spec.name: work.spec for work in self.works}.values())

    def of_type(self, name: str) -> tuple[Work, ...]:
        return tuple(work for work in self.works if work.spec.name == name)

    def directory(self, spec: ProcessType) -> str:
        if not spec.workdir or spec.workdir.startswith("/"):
            return spec.workdir or self.workdir
        return f"{self.workdir.rstrip('/')}/{spec.workdir}"

    def who(self, spec: ProcessType) -> str:
        return spec.user or self.user

    def variables(self, spec: ProcessType) -> dict[str, str]:
        """What all instances of the type share."""
        return {**self.env, **spec.env}


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """`path` is below the directory that is written to. `mode`: 0600 where values are in it."""

    path: str
    text: str
    mode: int = PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """`notes`: what this manager does not know. `then`: what to do with the files."""

    files: tuple[File, ...]
    notes: tuple[str, ...] = ()
    then: tuple[str, ...] = ()


def own(work: Work) -> dict[str, str]:
    """What this instance alone has."""
    port = {"PORT": str(work.port)} if work.port else {}
    return {**port, "PS": work.name}


# What there may be to say of a type, and how it is named in formation.toml.
def lost(formation: Formation, kept: Iterable[str]) -> tuple[str, ...]:
    """One line for each setting that a type has and the manager has not (`kept`: has)."""
    known = frozenset(kept)
    left_out = [
        f"{spec.name}: {key} is not known there, and left out"
        for spec in formation.types
        for key in _set(spec)
        if key not in known
    ]
    if formation.command and RELEASE not in known:
        told = "is not known there: run it yourself before something new starts"
        left_out.append(f"{RELEASE}: {formation.command} {told}")
    return tuple(left_out)


def _set(spec: ProcessType) -> list[str]:
    plain = ProcessType(name=spec.name, command=spec.command)
    said = {
        "ready": spec.readiness is not None,
        "live": spec.liveness is not None,
        "notify": spec.notify,
        "live.watchdog": spec.watchdog_s > 0,
        "exclusive": spec.exclusive,
        "per_host": spec.per_host,
        "schedule": spec.schedule is not None,
        "placement": spec.where != plain.where,
        "resources": spec.resources != plain.resources,
        "restart": spec.restart is not plain.restart,
        "stop.signal": spec.stop_signal != plain.stop_signal,
        "stop.grace": spec.stop_grace_s != plain.stop_grace_s,
        "stop.to": spec.stop_to is not plain.stop_to,
        "limits.memory": spec.limits.memory_bytes > 0,
        "limits.cpus": spec.limits.cpus > 0,
        "limits.pids": spec.limits.pids > 0,
        "limits.*": bool(spec.limits.rlimits),
        "nice": spec.nice != 0,
        "umask": spec.umask >= 0,
        "user": bool(spec.user),
        "group": bool(spec.group),
        "secrets": bool(spec.secrets),
        "secret_files": bool(spec.secret_files),
    }
    return [key for key, is_so in said.items() if is_so]


def number(value: float) -> str:
    """`10`, `0.5`."""
    return f"{value:g}"


def whole(seconds: float) -> int:
    """Where only whole ones are known: never less."""
    return max(1, int(-(-seconds // 1)))
