"""A supervisor with a real journal; children and logs are whatever the test says of them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from formation.memory import AgentMemory
from formation.model import (
    Assignment,
    Assignments,
    InstanceState,
    Probe,
    ProbeKind,
    ProcessType,
    Release,
    RestartPolicy,
    Slot,
    StopTo,
)
from formation_agent import orders, processes
from formation_agent.environment import Surroundings
from formation_agent.journal import Journal
from formation_agent.launch import Launch, Launcher, Powers
from formation_agent.ports import Ports
from formation_agent.supervisor import Supervisor

PROBE = Probe(kind=ProbeKind.TCP)
TYPES = (
    ProcessType(name="web", command="sleep 1000", stop_grace_s=600, ready_after_s=0),
    ProcessType(name="slow", command="sleep 1000", stop_grace_s=0.05, ready_after_s=0.05),
    ProcessType(name="quit", command="sleep 1000", stop_signal="QUIT", ready_after_s=0),
    ProcessType(name="drained", command="sleep 1000", stop_drain_s=0.3, ready_after_s=0),
    ProcessType(name="main", command="sleep 1000", stop_to=StopTo.MAIN, ready_after_s=0),
    ProcessType(name="job", command="sleep 1000", restart=RestartPolicy.ON_FAILURE),
    ProcessType(name="once", command="sleep 1000", restart=RestartPolicy.NEVER),
    ProcessType(name="probed", command="sleep 1000", readiness=PROBE, start_grace_s=600),
)
# Of nothing; what closes them finds that out.
FDS = (2**20 + 1, 2**20 + 2)
NO_POWERS = Powers()
V1 = Release(app="shop", number=1, types=TYPES, workdir="/")


class FakeChildren:
    """A keeper that writes down what it is asked for."""

    def __init__(self) -> None:
        self.spawned: list[str] = []
        self.environments: dict[str, dict[str, str]] = {}
        self.options: dict[str, processes.SpawnOptions] = {}
        self.signals: list[tuple[str, int]] = []
        self.to_main: list[tuple[str, int]] = []
        self.forgotten: list[str] = []
        self.alive: dict[str, tuple[processes.Living, ...]] = {}
        self.queue: asyncio.Queue[processes.Event] = asyncio.Queue()
        self.lease_until_s = 0.0

    def lease(self, until_s: float) -> None:
        self.lease_until_s = until_s

    def spawn(
        self,
        key: str,
        *,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        options: processes.SpawnOptions,
    ) -> None:
        self.spawned.append(key)
        self.environments[key] = dict(env)
        self.options[key] = options

    def signal(self, key: str, signum: int, *, whole_group: bool = True) -> None:
        (self.signals if whole_group else self.to_main).append((key, signum))

    def living(self, key: str) -> tuple[processes.Living, ...]:
        return self.alive.get(key, ())

    def forget(self, key: str) -> None:
        self.forgotten.append(key)

    async def events(self) -> AsyncIterator[processes.Event]:
        while True:
            yield await self.queue.get()

    def told(self, key: str) -> list[int]:
        return [number for to, number in self.signals if to == key and number != signal.SIGCONT]


class FakeLogs:
    """Remembers in which order pipes came and went."""

    def __init__(self) -> None:
        self.story: list[str] = []

    def attach(self, slot: Slot, stdout_fd: int, stderr_fd: int) -> None:
        self.story.append(f"attach {slot.short}")

    def close_pipes(self, slot: Slot) -> None:
        self.story.append(f"close {slot.short}")

    def note(self, slot: Slot, text: str) -> None:
        self.story.append(f"note {slot.short}: {text}")


class FakeHealth:
    """Remembers who is watched, and what was said of that."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.watched: dict[str, tuple[int, Launch | None, int, int, int]] = {}

    def watch(
        self,
        uid: str,
        attempt: int,
        spec: ProcessType,
        launch: Launch | None,
        pid: int,
        port: int,
        notify_fd: int,
        ready: bool,
    ) -> None:
        self.story.append(f"watch {uid}:{attempt}{' ready' if ready else ''}")
        self.watched[uid] = attempt, launch, pid, port, notify_fd

    def relax(self, uid: str) -> None:
        if uid in self.watched:
            self.story.append(f"relax {uid}")

    def unwatch(self, uid: str) -> None:
        if self.watched.pop(uid, None) is not None:
            self.story.append(f"unwatch {uid}")


class Bench:
    """A supervisor with fakes around it and a real journal."""

    def __init__(
        self,
        directory: Path,
        memory: AgentMemory | None = None,
        *,
        journal: Journal | None = None,
        files_max: int | None = None,
        start_wait_s: float = 0.0,
        powers: Powers = NO_POWERS,
    ) -> None:
        self.directory = directory
        self.children, self.logs, self.health = FakeChildren(), FakeLogs(), FakeHealth()
        self.journal = journal or Journal(directory, memory or AgentMemory(agent_id="a1"))
        self.taken: set[int] = set()
        self.ports = Ports(range(20000, 22000), is_free=lambda port: port not in self.taken)
        around = Surroundings(environ={"PATH": "/usr/bin:/bin"}, host="b", agent_id="a1")
        self.supervisor = Supervisor(
            children=self.children,
            logs=self.logs,
            health=self.health,
            launcher=Launcher(around, self.ports, files_max, powers),
            journal=self.journal,
            jitter=lambda: 0.5,
            start_wait_s=start_wait_s,
        )
        self.generation = 0

    async def want(self, *assigned: Assignment) -> None:
        self.generation += 1
        verdict = await self.supervisor.take(wanted(self.generation, *assigned))
        assert isinstance(verdict, orders.Obey)

    def started(self, key: str, pid: int = 100, fds: tuple[int, int] = FDS) -> None:
        out, err = fds
        self.supervisor.hear(
            processes.Started(key=key, pid=pid, stdout_fd=out, stderr_fd=err, start_ticks=pid * 10)
        )

    def exited(self, key: str, *, code: int = 1, empty: bool = True) -> None:
        self.supervisor.hear(exit_of(key, code=code, empty=empty))

    @staticmethod
    def now_ticks() -> int:
        """The start time of a process that starts now."""
        return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))

    def state(self, uid: str) -> InstanceState | None:
        table = {status.uid: status for status in self.supervisor.statuses()}
        return table[uid].state if uid in table else None


def exit_of(key: str, *, code: int = 1, empty: bool = True) -> processes.Exited:
    return processes.Exited(key=key, code=code, signal=None, core_dumped=False, empty=empty)


def wanted(generation: int, *assigned: Assignment, epoch: int = 1) -> Assignments:
    return Assignments(
        complete=True, epoch=epoch, results_in=generation, instances=assigned, releases=(V1,)
    )


def stay(uid: str, type_name: str = "web", ordinal: int = 1) -> Assignment:
    return Assignment(uid=uid, slot=Slot("shop", type_name, ordinal), release=1)


def child(
    key: str,
    *,
    exited: processes.Exited | None = None,
    empty: bool = False,
    fds: tuple[int, int] = FDS,
) -> processes.Child:
    return processes.Child(
        key=key,
        pid=2**22 + 1,  # no process has this number
        start_ticks=0,
        exited=exited,
        empty=empty,
        stdout_fd=fds[0],
        stderr_fd=fds[1],
        spawned_at_ms=1234,
    )
