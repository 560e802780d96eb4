"""Runs builds: one tree of processes each, below the keeper, with its output in the app's logs.

They belong to this brain: the next one ends what is left of them (`processes.PROBE`), and builds
anew. It decides nothing about when, how often, and what becomes of it (`coderoom`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol

from formation.builds import BUILD
from formation.model import Release, Slot
from formation_agent.buildplan import failed
from formation_agent.codedirs import CodeError, room_left
from formation_agent.happenings import (
    Event,
    Exited,
    SpawnFailed,
    SpawnOptions,
    Started,
    TreeEmpty,
    User,
    describe_exit,
)
from formation_agent.launch import Launch, Launcher, LaunchError
from formation_agent.logchoice import LogChoice
from formation_agent.logs import LogBatch
from formation_agent.processes import PROBE

TOLD_EVERY_S = 5.0
# After TERM, when its time is over.
GRACE_S = 5.0
KILL_AGAIN_S = 1.0
_TAIL_LINES = 50
_LINE_CHARACTERS_MAX = 200
_NOTE = b"[formation] "
_FULL_BYTES = 1 << 20


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


class LogRoom(Protocol):
    """What is needed of `logs.Logs`."""

    def attach(self, slot: Slot, stdout_fd: int, stderr_fd: int) -> None: ...
    def close_pipes(self, slot: Slot) -> None: ...
    def note(self, slot: Slot, text: str) -> None: ...
    def read(
        self, choice: LogChoice, *, tail_lines: int, follow: bool
    ) -> AsyncGenerator[LogBatch, None]: ...


class Builds:
    """`new_id`: marks the processes of each."""

    def __init__(
        self, children: Children, launcher: Launcher, logs: LogRoom, new_id: Callable[[], str]
    ) -> None:
        self._children, self._launcher, self._logs = children, launcher, logs
        self._new_id = new_id
        self._slots: set[Slot] = set()

    def user(self, release: Release) -> User | None:
        """Who gets the files meanwhile; None: whose they are. Raises `CodeError`."""
        return self._launch(release, "", Slot(release.app, BUILD, 1)).options.user

    def _launch(self, release: Release, uid: str, slot: Slot) -> Launch:
        try:
            return self._launcher.building(release, uid, slot)
        except LaunchError as error:
            raise CodeError(f"its code cannot be built: {error}") from error

    async def run(self, release: Release, told: Callable[[float], None]) -> None:
        """To its end, and that of all that it has started. `told` hears how long it has taken.
        Cancelled, all of it is killed soon. Raises `CodeError`."""
        assert release.build is not None
        slot = self._take_slot(release.app)
        uid = self._new_id()
        key = f"{PROBE}{BUILD}:{uid}"
        run = _Run(key, self._children, lambda: self._let_go(slot))
        run.begun = lambda out, err: self._logs.attach(slot, out, err)
        try:
            launch = self._launch(release, uid, slot)
            self._logs.note(slot, f"builds v{release.number}: {release.build.command}")
            self._children.spawn(
                key,
                argv=launch.argv,
                env=launch.env,
                cwd=launch.cwd,
                options=launch.options,
                on_event=run.hear,
            )
        except BaseException:
            self._let_go(slot)
            raise
        try:
            how = await run.ended(release.build.timeout_s, told)
        finally:
            run.kill()
        if how:
            raise CodeError(failed(how, await self._last_line(slot)) + _full(launch.cwd))

    def _take_slot(self, app: str) -> Slot:
        """Two at once of one app do not write into the same log."""
        free = (Slot(app, BUILD, ordinal) for ordinal in itertools.count(1))
        slot = next(slot for slot in free if slot not in self._slots)
        self._slots.add(slot)
        return slot

    def _let_go(self, slot: Slot) -> None:
        self._logs.close_pipes(slot)
        self._slots.discard(slot)

    async def _last_line(self, slot: Slot) -> str:
        choice = LogChoice(app=slot.app, targets=((slot.type, slot.ordinal),))
        found = ""
        async for batch in self._logs.read(choice, tail_lines=_TAIL_LINES, follow=False):
            for line in batch.lines:
                if line.text.startswith(_NOTE):
                    found = ""  # of an earlier one
                else:
                    found = line.text.decode(errors="replace").strip() or found
        return found[:_LINE_CHARACTERS_MAX]


def _full(directory: str) -> str:
    with contextlib.suppress(OSError):
        if room_left(directory) < _FULL_BYTES:
            return f"; no room is left in {directory}"
    return ""


class _Run:
    """One tree. `let_go` is called when nothing of it is left."""

    def __init__(self, key: str, children: Children, let_go: Callable[[], None]) -> None:
        self._key, self._children, self._let_go = key, children, let_go
        self._loop = asyncio.get_running_loop()
        self._end: Exited | SpawnFailed | None = None
        self._exited, self._over = asyncio.Event(), asyncio.Event()
        self._again: asyncio.TimerHandle | None = None
        self.begun: Callable[[int, int], None] = lambda out, err: None

    def hear(self, event: Event) -> None:
        match event:
            case Started():
                if event.notify_fd >= 0:
                    os.close(event.notify_fd)
                self.begun(event.stdout_fd, event.stderr_fd)
            case Exited() | SpawnFailed():
                self._end = event
                self._exited.set()
                if isinstance(event, SpawnFailed) or event.empty:
                    self._is_over()
            case TreeEmpty():
                self._is_over()

    def _is_over(self) -> None:
        if self._again is not None:
            self._again.cancel()
        self._over.set()
        self._let_go()

    def kill(self) -> None:
        """Again, until the keeper has seen the end of all of it."""
        if not self._over.is_set():
            self._children.signal(self._key, signal.SIGKILL)
            self._again = self._loop.call_later(KILL_AGAIN_S, self.kill)

    async def ended(self, within_s: float, told: Callable[[float], None]) -> str:
        """How it failed, or "". What it has left behind is ended too, and waited for."""
        in_time = await self._exits_within(within_s, told)
        if not in_time:
            self._children.signal(self._key, signal.SIGTERM)
            self._children.signal(self._key, signal.SIGCONT)
            await self._exits_within(GRACE_S, lambda passed_s: None)
        self.kill()
        await self._over.wait()
        if not in_time:
            return f"not done within {within_s:g} s (build_timeout)"
        assert self._end is not None
        if isinstance(self._end, SpawnFailed):
            return self._end.reason
        return "" if self._end.code == 0 else describe_exit(self._end)

    async def _exits_within(self, within_s: float, told: Callable[[float], None]) -> bool:
        begun_s = self._loop.time()
        while not self._exited.is_set():
            passed_s = self._loop.time() - begun_s
            if passed_s >= within_s:
                return False
            try:
                async with asyncio.timeout(min(TOLD_EVERY_S, within_s - passed_s)):
                    await self._exited.wait()
            except TimeoutError:
                told(self._loop.time() - begun_s)
        return True
