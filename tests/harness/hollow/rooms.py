"""What a hollow host has in the place of a machine: a keeper that pretends, and rooms that forget.

Session, supervisor and state machine around them are the agent's own.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from formation.memory import AgentMemory
from formation.model import Assignment, ProcessType, Release, Slot, Usage
from formation.running import spec_of
from formation_agent import processes
from formation_agent.journal import Collect, Journal
from formation_agent.launch import Launch, Launcher, LaunchError
from formation_agent.logchoice import LogChoice
from formation_agent.logs import LogBatch, Resume
from formation_agent.ports import Ports
from formation_agent.secretfiles import NOWHERE

# Descriptors of nothing: whoever closes one finds that out.
_STDOUT, _STDERR = 2**20 + 1, 2**20 + 2
_OPTIONS = processes.SpawnOptions()
_PIDS = count(1)
_PORTS = range(20_000, 60_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """`start_s`: how long a start takes. `failing`: the share of starts that end at once."""

    start_s: float = 0.0
    failing: float = 0.0


class PretendKeeper:
    """Says of everything that it was started, and of what is told to end that it has."""

    def __init__(self, behaviour: Behaviour, chance: Callable[[], float] = random.random) -> None:
        self._behaviour, self._chance = behaviour, chance
        self._loop = asyncio.get_running_loop()
        self._alive: dict[str, int] = {}
        self.hear: Callable[[processes.Event], None] = lambda event: None
        self.spawned = 0
        self.lease_until_s = 0.0

    def spawn(
        self,
        key: str,
        *,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        options: processes.SpawnOptions,
    ) -> None:
        self.spawned += 1
        if self._behaviour.start_s:
            self._loop.call_later(self._behaviour.start_s, self._started, key)
        else:
            self._loop.call_soon(self._started, key)

    def _started(self, key: str) -> None:
        pid = self._alive[key] = next(_PIDS)
        self.hear(processes.Started(key=key, pid=pid, stdout_fd=_STDOUT, stderr_fd=_STDERR))
        if self._behaviour.failing and self._chance() < self._behaviour.failing:
            self._end(key, code=1, number=None)

    def signal(self, key: str, signum: int, *, whole_group: bool = True) -> None:
        if signum != signal.SIGCONT and key in self._alive:
            self._loop.call_soon(lambda: self._end(key, code=None, number=signum))

    def _end(self, key: str, *, code: int | None, number: int | None) -> None:
        if self._alive.pop(key, None) is not None:
            self.hear(
                processes.Exited(key=key, code=code, signal=number, core_dumped=False, empty=True)
            )

    def forget(self, key: str) -> None:
        pass

    def living(self, key: str) -> tuple[processes.Living, ...]:
        return ()

    async def events(self) -> AsyncIterator[processes.Event]:
        """None: they are told at once."""
        await asyncio.Event().wait()
        yield processes.Reload()

    def lease(self, until_s: float) -> None:
        self.lease_until_s = until_s


class Forgetful(Journal):
    """Remembers as long as it lives."""

    def __init__(self, memory: AgentMemory) -> None:
        self.memory = memory
        self._collect: Collect = lambda memory: memory

    def touch(self) -> None:
        pass

    def once_written(self, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(call)

    async def commit(self, **changes: Any) -> None:
        self.memory = self._collect(replace(self.memory, **changes))


class AnyPorts(Ports):
    """One more each time, round and round; nobody is asked whether it is free."""

    def __init__(self) -> None:
        self._next = _PORTS.start

    def one(self) -> int:
        self._next = self._next + 1 if self._next + 1 in _PORTS else _PORTS.start
        return self._next

    def remember(self, slot: Slot, number: int) -> None: ...
    def hold(self, slot: Slot, number: int) -> None: ...

    def release(self, slot: Slot) -> None: ...


class PretendLauncher(Launcher):
    """Finds everything there, and looks at nothing."""

    def __init__(self) -> None:
        self.ports = self._numbers = AnyPorts()
        self.files = NOWHERE

    def prepare(
        self, assignment: Assignment, release: Release | None, *, running: int = 0
    ) -> Launch:
        spec = spec_of(release, assignment)
        if spec is None:
            raise LaunchError(f"v{assignment.release} is not known here")
        port = self._numbers.one()
        return Launch(argv=(spec.command,), env={}, cwd="/", port=port, options=_OPTIONS)

    def recall(self, assignment: Assignment, release: Release | None, port: int) -> Launch | None:
        return None


class NoLogs:
    def attach(self, slot: Slot, stdout_fd: int, stderr_fd: int) -> None: ...
    def close_pipes(self, slot: Slot) -> None: ...
    def note(self, slot: Slot, text: str) -> None: ...
    def finish(self) -> None: ...

    async def read(
        self,
        choice: LogChoice,
        *,
        tail_lines: int,
        follow: bool,
        resume: Resume | None = None,
    ) -> AsyncIterator[LogBatch]:
        return
        yield


class NoHealth:
    """Nothing is probed: a type without a probe is healthy when it has been up long enough."""

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
    ) -> None: ...
    def relax(self, uid: str) -> None: ...
    def unwatch(self, uid: str) -> None: ...


class NoUsage:
    async def sample(self, app: str) -> tuple[Usage, ...]:
        return ()
