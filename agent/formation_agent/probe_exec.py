"""Asks a process by running a command beside it: in its cgroup, with its environment, user,
directory and limits. Never two at once for one process.

The keeper starts and ends the command; what of its output is not wanted is read and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from formation.model import Probe
from formation_agent import command
from formation_agent.happenings import (
    Event,
    Exited,
    SpawnFailed,
    SpawnOptions,
    Started,
    TreeEmpty,
    describe_exit,
)
from formation_agent.notify import readable
from formation_agent.probes import PASSED, Outcome, Target, no_answer
from formation_agent.processes import PROBE

_LINE_BYTES_MAX = 200
_READ_BYTES = 64 * 1024
_STARTED_WITHIN_S = 10.0
_plan = functools.lru_cache(maxsize=1024)(command.plan)


class Children(Protocol):
    """What is needed of `processes.Processes`."""

    def spawn(
        self,
        key: str,
        *,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        options: SpawnOptions,
        on_event: Callable[[Event], None],
    ) -> None: ...
    def signal(self, key: str, signum: int, *, whole_group: bool = True) -> None: ...


class ExecProbes:
    """Exit 0 within `timeout_s` passes; what runs longer is killed with all its descendants."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._runs: dict[str, _Run] = {}  # by the key of the process that is asked about
        self._numbers = itertools.count(1)

    async def ask(self, probe: Probe, target: Target) -> Outcome:
        if target.launch is None:
            return Outcome(passed=None, reason="how the process was started is not known")
        try:
            await self._wait_for_turn(target.key, probe.timeout_s)
        except TimeoutError:
            return Outcome(passed=False, reason="its last run was killed and is still there")
        run = self._runs[target.key] = _Run(lambda: self._runs.pop(target.key, None))
        # This brain's alone: an earlier one's may still be ending.
        key = f"{PROBE}{target.key}:{os.getpid()}.{next(self._numbers)}"
        self._children.spawn(
            key,
            argv=_plan(probe.target).argv,
            env=target.launch.env,
            cwd=target.launch.cwd,
            options=replace(target.launch.options, notify=False, limits={}, join=target.key),
            on_event=run.hear,
        )
        try:
            return await _outcome(run, probe)
        finally:
            run.let_go()
            if not run.over.is_set():
                self._children.signal(key, signal.SIGKILL)

    async def _wait_for_turn(self, key: str, timeout_s: float) -> None:
        """Raises TimeoutError when a run that was killed does not end in this time."""
        while (before := self._runs.get(key)) is not None:
            await before.let_go_of.wait()
            async with asyncio.timeout(timeout_s):
                await before.over.wait()


async def _outcome(run: _Run, probe: Probe) -> Outcome:
    try:
        async with asyncio.timeout(_STARTED_WITHIN_S):
            await run.begun.wait()
    except TimeoutError:
        return Outcome(passed=None, reason="the agent is too busy to start it")
    deadline_s = asyncio.get_running_loop().time() + probe.timeout_s
    try:
        async with asyncio.timeout_at(deadline_s):
            end = await run.end
    except TimeoutError:
        return no_answer(probe, deadline_s)
    if isinstance(end, SpawnFailed):
        return Outcome(passed=None, reason=end.reason)
    if end.code == 0:
        return PASSED
    line = run.first_line()
    return Outcome(passed=False, reason=describe_exit(end) + (f": {line}" if line else ""))


class _Run:
    """One process that was asked for. `begun`: the keeper has answered. `let_go_of`: nobody waits
    for its end; `over`: nothing of it is left."""

    def __init__(self, forget: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._forget = forget
        self._fds: list[int] = []
        self._output = b""
        self.begun = asyncio.Event()
        self.end: asyncio.Future[Exited | SpawnFailed] = self._loop.create_future()
        self.let_go_of = asyncio.Event()
        self.over = asyncio.Event()

    def hear(self, event: Event) -> None:
        match event:
            case Started():
                self._open((event.stdout_fd, event.stderr_fd))
                self.begun.set()
            case Exited() | SpawnFailed():
                self._ended(event)
                self.begun.set()
                if isinstance(event, SpawnFailed) or event.empty:
                    self._is_over()
            case TreeEmpty():
                self._is_over()

    def _ended(self, event: Exited | SpawnFailed) -> None:
        for fd in self._fds:
            self._read(fd)
        if not self.end.done():
            self.end.set_result(event)

    def _is_over(self) -> None:
        self.over.set()
        self._forget()

    def let_go(self) -> None:
        self.let_go_of.set()
        self._close()

    # -- its output --------------------------------------------------------------------------------

    def _open(self, fds: Sequence[int]) -> None:
        self._fds = [fd for fd in fds if fd >= 0]
        if self.let_go_of.is_set():
            self._close()
            return
        for fd in self._fds:
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._read, fd)

    def _read(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(fd, _READ_BYTES)
            if not chunk:
                self._loop.remove_reader(fd)
            self._output += chunk[: _LINE_BYTES_MAX - len(self._output)]

    def _close(self) -> None:
        for fd in self._fds:
            self._loop.remove_reader(fd)
            os.close(fd)
        self._fds = []

    def first_line(self) -> str:
        """Of what it wrote to either output, for people."""
        return readable(self._output.strip().split(b"\n", 1)[0], _LINE_BYTES_MAX)
