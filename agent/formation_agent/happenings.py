"""What the brain asks of the keeper and what it hears from it, as data. `processes` is the way."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from formation_agent import link


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """`groups`: the supplementary ones, all of them. `name` is for people."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """`private_tmp`: /tmp and /var/tmp in memory, that nobody shares. `read_only`: all but these,
    /dev, /proc, /sys and what is in or below the directories `writable`."""

    private_tmp: bool = False
    read_only: bool = False
    writable: tuple[str, ...] = ()

    def fields(self) -> link.Message:
        asked = {
            "private_tmp": self.private_tmp,
            "read_only": self.read_only,
            "writable": list(self.writable),
        }
        return {name: value for name, value in asked.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnOptions:
    """What a process is given beside its program; the defaults change nothing.

    `umask` None, `user` None and `nice` 0 are the keeper's own. `rlimits`: (soft, hard) by
    lower-case name, -1 is unlimited. `limits`, for the tree: `cpus`, `memory_bytes`, `pids`, only
    those that shall hold, where a cgroup can hold them. `notify`: a socket for sd_notify. `join`:
    the key of a living process in whose cgroup it shall run, as a tree of its own nevertheless.
    `fence_s`: it is exclusive, and killed so long after the agent's lease; None: it is not.
    `within`: the directories in or below which it may run; none is anywhere. `sandbox`: its own
    view of the file system; None is the machine's. `streams`: the standard descriptors that it is
    given, closed here when the keeper has them; none: pipes of the keeper's. `terminal`: the one
    there is is a terminal, for all three.
    """

    umask: int | None = None
    user: User | None = None
    rlimits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    nice: int = 0
    limits: Mapping[str, float] = field(default_factory=dict)
    notify: bool = False
    join: str = ""
    fence_s: float | None = None
    within: tuple[str, ...] = ()
    sandbox: Sandbox | None = None
    streams: tuple[int, ...] = ()
    terminal: bool = False

    def fields(self) -> link.Message:
        """As `spawn` says them: what is not asked for is absent."""
        user = self.user and {
            "uid": self.user.uid,
            "gid": self.user.gid,
            "groups": list(self.user.groups),
            "name": self.user.name,
        }
        asked = {
            "user": user,
            "rlimits": {name: list(pair) for name, pair in self.rlimits.items()},
            "nice": self.nice,
            "limits": dict(self.limits),
            "notify": self.notify,
            "join": self.join,
            "within": list(self.within),
            "sandbox": self.sandbox and self.sandbox.fields(),
            "takes": len(self.streams),
            "terminal": self.terminal,
        }
        numbers = {"umask": self.umask, "fence_s": self.fence_s}
        given = {name: number for name, number in numbers.items() if number is not None}
        return {**given, **{name: value for name, value in asked.items() if value}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """`stdout_fd`, `stderr_fd` and `notify_fd` now belong to the receiver; -1 when there is none.

    `pid` and `start_ticks` (0: not known) name the process for as long as the machine runs.
    `notify_fd` is a datagram socket that does not block and tells who sent (SO_PASSCRED). `cgroup`:
    the directory of the tree's own, "" when it has none.
    """

    key: str
    pid: int
    stdout_fd: int
    stderr_fd: int
    start_ticks: int = 0
    notify_fd: int = -1
    cgroup: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnFailed:
    """`reason` is for people: "command not found: X"."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The main process ended; `empty` when nothing else of its tree is left.

    `oom_killed`: the kernel killed something of this tree for want of memory since it was started.
    """

    key: str
    code: int | None
    signal: int | None
    core_dumped: bool
    empty: bool
    oom_killed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEmpty:
    """The last process of the tree is gone, some time after `Exited(empty=False)`."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminate:
    """Somebody wants the agent to end; `urgent` from the second time on. `drain`: what is to be
    drained before its stop is."""

    urgent: bool
    drain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """This brain shall end soon and stop nothing: say `again` and exit 0."""


Event = Started | SpawnFailed | Exited | TreeEmpty | Terminate | Reload


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One child that the keeper had when this brain connected; its descriptors are the brain's."""

    key: str
    pid: int
    start_ticks: int
    exited: Exited | None
    empty: bool
    stdout_fd: int
    stderr_fd: int
    spawned_at_ms: int = 0
    notify_fd: int = -1
    cgroup: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contained:
    """`path`: below it every tree gets a cgroup, "" when none does. `controllers`: those that limit
    them. `problem`, for people, says what does not work and why; "" when all does.
    """

    path: str
    controllers: tuple[str, ...]
    problem: str


def started(message: link.Message, fds: Sequence[int]) -> Started:
    return Started(
        key=message["key"],
        pid=message["pid"],
        start_ticks=message["start_ticks"],
        cgroup=message.get("cgroup", ""),
        **_descriptors(fds),
    )


def child(message: link.Message, fds: Sequence[int]) -> Child:
    end = message["exited"]
    return Child(
        key=message["key"],
        pid=message["pid"],
        start_ticks=message["start_ticks"],
        exited=None if end is None else exited({**message, **end}),
        empty=message["empty"],
        spawned_at_ms=message["spawned_at_ms"],
        cgroup=message.get("cgroup", ""),
        **_descriptors(fds),
    )


def _descriptors(fds: Sequence[int]) -> dict[str, Any]:
    """Fewer arrive when this process had no room for more."""
    stdout, stderr, notify, *_ = (*fds, -1, -1, -1)
    return {"stdout_fd": stdout, "stderr_fd": stderr, "notify_fd": notify}


def exited(message: link.Message) -> Exited:
    return Exited(
        key=message["key"],
        code=message["code"],
        signal=message["signal"],
        core_dumped=message["core_dumped"],
        empty=message["empty"],
        oom_killed=message.get("oom_killed", False),
    )


def describe_exit(event: Exited) -> str:
    """`exit 1`, `signal KILL`, `signal SEGV (core dumped)`, `out of memory (signal KILL)`."""
    how = _how(event)
    return f"out of memory ({how})" if event.oom_killed else how


def _how(event: Exited) -> str:
    if event.signal is None:
        return f"exit {event.code}"
    try:
        name = signal.Signals(event.signal).name.removeprefix("SIG")
    except ValueError:  # real-time signals have numbers only
        name = str(event.signal)
    return f"signal {name}{' (core dumped)' if event.core_dumped else ''}"
