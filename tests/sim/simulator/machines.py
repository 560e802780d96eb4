"""A machine with a keeper's processes, a disk and the real brain of an agent on it.

Processes do what their environment says (`BEHAVE`), unless the machine is bad: then all crash. They
outlive a brain that crashes, never the keeper or the machine. Exclusive ones are killed when the
lease and their grace are over, as the keeper does it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGKILL
from typing import Any

from supervisor_bench import FDS, FakeLogs

from formation.memory import AgentMemory
from formation.model import Assignment, Capacity, HostStatus, ProcessType, Slot, Usage
from formation.releasecommand import RELEASE
from formation_agent import entries, machine, processes
from formation_agent.environment import Surroundings
from formation_agent.journal import Journal, JournalError
from formation_agent.launch import Launch, Launcher
from formation_agent.ports import Ports
from formation_agent.session import Session
from formation_agent.supervisor import Supervisor

SPAWN_S = (0.001, 0.05)
JOB_S = (0.2, 6.0)
CRASH_S = (0.01, 1.5)
READY_S = (0.01, 0.6)
BRAIN_BACK_S = (0.05, 1.0)
GOODBYE_S = 2.0
_Asked = tuple[str, dict[str, str], processes.SpawnOptions]
_PORTS = range(20_000, 20_200)


@dataclass(slots=True, kw_only=True, eq=False)
class Process:
    key: str
    slot: Slot
    release: int
    pid: int
    host: str
    started_s: float
    behaves: str
    options: processes.SpawnOptions
    stubborn: bool = False
    exited: processes.Exited | None = None
    ended_s: float | None = None

    @property
    def uid(self) -> str:
        return entries.uid_of(self.key)

    @property
    def alive(self) -> bool:
        return self.exited is None

    @property
    def exclusive(self) -> bool:
        return self.options.fence_s is not None


class Watcher:
    """What is told of everything that happens to processes."""

    def started(self, process: Process) -> None: ...
    def signalled(self, process: Process, signum: int, on: Machine) -> None: ...
    def ended(self, process: Process) -> None: ...


class DiskJournal(Journal):
    """On the machine's disk, which is a variable; a brain that is dead writes nothing."""

    def __init__(self, on: Machine, memory: AgentMemory) -> None:
        super().__init__(Path("/"), memory)
        self._machine, self._alive = on, True

    def die(self) -> None:
        self._alive = False
        self.close()

    async def _write(self, memory: AgentMemory) -> None:
        await asyncio.sleep(self._machine.dice.uniform(0.0005, 0.008))
        if not self._alive:
            raise asyncio.CancelledError
        if self._machine.disk_full:
            raise JournalError("the disk is full")
        self._machine.disk = memory


class KeeperLink:
    """The keeper as one brain sees it."""

    def __init__(self, on: Machine) -> None:
        self._machine = on
        self.alive = True
        self.events_of_it: asyncio.Queue[processes.Event] = asyncio.Queue()

    @property
    def lease_until_s(self) -> float:
        return self._machine.lease_until_s

    @lease_until_s.setter
    def lease_until_s(self, value: float) -> None:
        raise AssertionError("it is the keeper's")

    def lease(self, until_s: float) -> None:
        if self.alive:
            self._machine.extend(until_s)

    def spawn(
        self,
        key: str,
        *,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        options: processes.SpawnOptions,
    ) -> None:
        if self.alive:
            self._machine.spawn(key, env, options)

    def signal(self, key: str, signum: int, *, whole_group: bool = True) -> None:
        if self.alive:
            self._machine.signal(key, signum)

    def forget(self, key: str) -> None:
        if self.alive:
            self._machine.forget(key)

    def living(self, key: str) -> tuple[processes.Living, ...]:
        return ()

    async def events(self) -> AsyncIterator[processes.Event]:
        while True:
            yield await self.events_of_it.get()


class Probing:
    """Readiness of types that have a probe: a while after the start, or never."""

    def __init__(self, on: Machine) -> None:
        self._machine = on
        self.report: Callable[[str, int, machine.Event], None] = lambda *_: None

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
        process = self._machine.processes.get(entries.key_of(uid, attempt))
        if spec.readiness is None or process is None or process.behaves == "deaf":
            return
        after_s = self._machine.dice.uniform(*READY_S)
        asyncio.get_running_loop().call_later(
            after_s, lambda: self.report(uid, attempt, machine.Ready())
        )

    def relax(self, uid: str) -> None: ...
    def unwatch(self, uid: str) -> None: ...


class NoUsage:
    async def sample(self, app: str) -> tuple[Usage, ...]:
        return ()


class NoLogs:
    def finish(self) -> None: ...

    async def read(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        return
        yield


@dataclass(slots=True)
class Brain:
    link: KeeperLink
    journal: DiskJournal
    supervisor: Supervisor
    session: Session
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Machine:
    def __init__(
        self,
        name: str,
        *,
        labels: Mapping[str, str],
        dice: random.Random,
        watcher: Watcher,
        dial: Callable[[str, float], Any],
        coordinators: tuple[str, ...],
        failed: Callable[[asyncio.Task[Any]], None],
    ) -> None:
        self.name, self.labels, self.dice = name, dict(labels), dice
        self._watcher, self._dial, self._coordinators = watcher, dial, coordinators
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self.disk = AgentMemory(agent_id=f"agent-{name}")
        self.disk_full = False
        self.bad = False
        self.up = False
        self.ending = False
        self.processes: dict[str, Process] = {}
        self.lease_until_s = 0.0
        self.brain: Brain | None = None
        self._asked: dict[str, tuple[asyncio.TimerHandle, _Asked]] = {}
        self._pid = 1000 * (sum(map(ord, name)) % 97 + 1)
        self._fence: asyncio.TimerHandle | None = None

    # -- the agent: keeper and brain

    def start(self) -> None:
        """The agent, with its first brain; nothing runs."""
        assert not self.up
        self.up, self.ending = True, False
        self.lease_until_s = 0.0
        self.start_brain()

    def start_brain(self) -> None:
        if not self.up or self.brain is not None:
            return
        for timer, asked in list(self._asked.values()):  # what was asked for comes first
            timer.cancel()
            self._spawned(*asked)
        link, probing = KeeperLink(self), Probing(self)
        journal = DiskJournal(self, self.disk)
        taken = {p.pid for p in self.processes.values() if p.alive}
        supervisor = Supervisor(
            children=link,
            logs=FakeLogs(),
            health=probing,
            launcher=Launcher(
                Surroundings(environ={"PATH": "/bin"}, host=self.name, agent_id=self.disk.agent_id),
                Ports(_PORTS, is_free=lambda port: port not in taken),
            ),
            journal=journal,
            jitter=self.dice.random,
        )
        probing.report = supervisor.report
        session = Session(
            supervisor=supervisor,
            journal=journal,
            logs=NoLogs(),
            usage=NoUsage(),
            addresses=lambda: self._coordinators,
            describe=self._describe,
            dial=self._dial,
        )
        self.brain = brain = Brain(link, journal, supervisor, session)
        journal.touch()
        supervisor.start(self._children())
        for work in (journal.run, supervisor.run, session.run):
            task = asyncio.create_task(work())
            task.add_done_callback(self._failed)
            brain.tasks.append(task)

    def stop_brain(self) -> None:
        """It crashes, or is killed: nothing of it goes on."""
        brain, self.brain = self.brain, None
        if brain is None:
            return
        brain.link.alive = False
        brain.journal.die()
        brain.supervisor.exclusives.lease.close()
        for task in brain.tasks:
            task.cancel()

    def stop_keeper(self) -> None:
        """With everything that it had: the processes are killed with it."""
        self.stop_brain()
        self.up = False
        for timer, _ in self._asked.values():
            timer.cancel()
        self._asked.clear()
        for process in self.processes.values():
            self._end(process, told=False)
        self.processes.clear()

    async def end(self) -> None:
        """As a service manager stops it: everything in order, and a goodbye."""
        brain = self.brain
        if brain is None:
            return
        self.ending = True
        await brain.supervisor.stop_all()
        if self.brain is not brain:
            return
        brain.session.goodbye()
        with suppress(JournalError):
            try:
                await asyncio.wait_for(brain.session.left.wait(), GOODBYE_S)
            except TimeoutError:
                await brain.journal.flush()
            else:
                await brain.supervisor.forget_orders()
        if self.brain is brain:
            self.stop_keeper()

    def _children(self) -> list[processes.Child]:
        ticks = 100
        return [
            processes.Child(
                key=process.key,
                pid=process.pid,
                start_ticks=int(process.started_s * ticks),
                exited=process.exited,
                empty=process.exited is not None,
                stdout_fd=FDS[0],
                stderr_fd=FDS[1],
            )
            for process in self.processes.values()
        ]

    async def _describe(self, _coordinator: str) -> HostStatus:
        return HostStatus(
            host=self.name,
            agent_id=self.disk.agent_id,
            labels=self.labels,
            capacity=Capacity(instances_max=50, cpus=4.0, memory_bytes=2**30),
            address=f"10.0.0.{self._pid % 250}",
        )

    @property
    def assigned(self) -> tuple[Assignment, ...]:
        return self.brain.journal.memory.assigned if self.brain else self.disk.assigned

    # -- the keeper's processes

    def spawn(self, key: str, env: Mapping[str, str], options: processes.SpawnOptions) -> None:
        after_s = self.dice.uniform(*SPAWN_S)
        asked = key, dict(env), options
        self._asked[key] = self._loop.call_later(after_s, self._spawned, *asked), asked

    def _spawned(self, key: str, env: dict[str, str], options: processes.SpawnOptions) -> None:
        self._asked.pop(key, None)
        if not self.up:
            return
        self._pid += 1
        type_name, _, ordinal = env["PS"].rpartition(".")
        process = Process(
            key=key,
            slot=Slot(env["FORMATION_APP"], type_name, int(ordinal)),
            release=int(env["FORMATION_RELEASE"].removeprefix("v")),
            pid=self._pid,
            host=self.name,
            started_s=self._loop.time(),
            behaves="crash" if self.bad else _behaviour(type_name, env),
            options=options,
            stubborn=self.dice.random() < 0.05,
        )
        self.processes[key] = process
        self._watcher.started(process)
        started = processes.Started(
            key=key,
            pid=process.pid,
            stdout_fd=FDS[0],
            stderr_fd=FDS[1],
            start_ticks=int(process.started_s * 100),
        )
        self._tell(started)
        lasts_s = {"crash": CRASH_S, "job": JOB_S}.get(process.behaves)
        if lasts_s is not None:
            code = 0 if process.behaves == "job" else 1
            self._loop.call_later(self.dice.uniform(*lasts_s), self._exit, process, code, None)
        self._look_at_fences()

    def signal(self, key: str, signum: int) -> None:
        process = self.processes.get(key)
        if process is None or not process.alive or signum == SIGCONT:
            return
        self._watcher.signalled(process, signum, self)
        if signum == SIGKILL:
            self._loop.call_later(0.001, self._exit, process, None, int(SIGKILL))
        elif not process.stubborn:
            self._loop.call_later(self.dice.uniform(0.001, 1.0), self._exit, process, 0, None)

    def crash(self, process: Process) -> None:
        self._exit(process, 1, None)

    def _exit(self, process: Process, code: int | None, signum: int | None) -> None:
        if process.alive and self.processes.get(process.key) is process:
            self._end(process, code=code, signum=signum)

    def _end(
        self,
        process: Process,
        *,
        code: int | None = None,
        signum: int | None = int(SIGKILL),
        told: bool = True,
    ) -> None:
        if not process.alive:
            return
        process.ended_s = self._loop.time()
        process.exited = processes.Exited(
            key=process.key, code=code, signal=signum, core_dumped=False, empty=True
        )
        self._watcher.ended(process)
        if told:
            self._tell(process.exited)

    def forget(self, key: str) -> None:
        process = self.processes.get(key)
        if process is not None and not process.alive:
            del self.processes[key]

    def _tell(self, event: processes.Event) -> None:
        if self.brain is not None:
            self.brain.link.events_of_it.put_nowait(event)

    # -- fences

    def extend(self, until_s: float) -> None:
        self.lease_until_s = max(self.lease_until_s, until_s)
        self._look_at_fences()

    def _look_at_fences(self) -> None:
        if self._fence is not None:
            self._fence.cancel()
            self._fence = None
        fenced = [p for p in self.processes.values() if p.alive and p.exclusive]
        now_s = self._loop.time()
        for process in fenced:
            if self._fence_s(process) <= now_s:
                self._exit(process, None, int(SIGKILL))
        left = [self._fence_s(p) for p in fenced if p.alive]
        if left:
            self._fence = self._loop.call_at(min(left), self._look_at_fences)

    def _fence_s(self, process: Process) -> float:
        return self.lease_until_s + (process.options.fence_s or 0.0)


def _behaviour(type_name: str, env: Mapping[str, str]) -> str:
    """A release command has one of its own."""
    asked = env.get("BEHAVE", "well")
    return (env.get("COMMAND") or asked) if type_name == RELEASE else asked
