"""Keeps programs running until they are to stop: starts them, starts them again, quotes them.

Each has its own session, so that the terminal's Ctrl-C reaches formctl alone, and a parent-death
signal, so that a killed formctl takes all along.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from formctl.dev.plan import Program

_LAUNCHER = str(Path(__file__).with_name("launch.py"))
_DELAY_FIRST_S, _DELAY_MAX_S = 0.5, 10.0
# Up for so long, and the next end is a new story.
_HEALED_AFTER_S = 60.0
_QUOTED_BYTES = 4096
# A KILL cannot be refused; only a kernel that hangs takes longer.
_KILLED_WITHIN_S = 10.0


class Daemon:
    """One program. `run` is its life; `stop` and `kill` end it; nothing else touches its pid."""

    def __init__(
        self, program: Program, *, environ: Mapping[str, str], notice: Callable[[str], None]
    ) -> None:
        self.program = program
        self.died = asyncio.Event()
        self._environ = dict(environ)
        self._notice = notice
        self._process: asyncio.subprocess.Process | None = None
        self._stop_wanted = asyncio.Event()

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    async def run(self) -> None:
        """Ends only after `stop`, and only when the process has ended."""
        loop = asyncio.get_running_loop()
        deaths = 0
        while not self._stop_wanted.is_set():
            started_s = loop.time()
            self._process = await self._spawn()
            if self._stop_wanted.is_set():
                self._signal(signal.SIGINT)
            code = await self._process.wait()
            self._process = None
            if self._stop_wanted.is_set():
                return
            deaths = 1 if loop.time() - started_s >= _HEALED_AFTER_S else deaths + 1
            await self._pause(code, restart_delay_s(deaths))

    def stop(self) -> None:
        """Asks it to end, as a terminal would: without draining. Asked again it should hurry."""
        self._stop_wanted.set()
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        self._stop_wanted.set()
        self._signal(signal.SIGKILL)

    def quoted(self, lines_max: int = 5) -> list[str]:
        """The last lines that it wrote."""
        with contextlib.suppress(OSError), open(self.program.log, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _QUOTED_BYTES))
            return log.read().decode(errors="replace").splitlines()[-lines_max:]
        return []

    async def _spawn(self) -> asyncio.subprocess.Process:
        launcher = (sys.executable, "-I", "-S", _LAUNCHER, str(os.getpid()))
        with Path(self.program.log).open("ab") as log:  # noqa: ASYNC230  a local file, at once
            return await asyncio.create_subprocess_exec(
                *launcher,
                *self.program.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                cwd=os.path.dirname(self.program.log),
                start_new_session=True,
            )

    async def _pause(self, code: int, delay_s: float) -> None:
        self.died.set()
        last = "".join(f": {line}" for line in self.quoted(1))
        self._notice(f"{self.program.name} {_ended(code)}, starts again in {delay_s:g}s{last}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._stop_wanted.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def restart_delay_s(deaths: int) -> float:
    """0.5 s, doubled with each death in a row, at most 10 s."""
    return min(_DELAY_MAX_S, _DELAY_FIRST_S * 2.0 ** min(deaths - 1, 10))


async def stop_all(
    daemons: Iterable[Daemon],
    runs: Iterable[asyncio.Task[None]],
    *,
    deadline_s: float,
    urgent: asyncio.Event,
    urgent_deadline_s: float = 10.0,
) -> None:
    """Asks all; asks again when it becomes urgent; kills what has not ended by the deadline."""
    daemons, waiting = list(daemons), set(runs)
    for daemon in daemons:
        daemon.stop()
    hurry = asyncio.create_task(urgent.wait())
    ended = asyncio.create_task(_all_done(waiting))
    try:
        await asyncio.wait({ended, hurry}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if hurry.done() and any(not run.done() for run in waiting):
            for daemon in daemons:
                daemon.stop()
            await asyncio.wait(waiting, timeout=urgent_deadline_s)
    finally:
        hurry.cancel()
        ended.cancel()
        for daemon in daemons:
            daemon.kill()
    if waiting:
        await asyncio.wait(waiting, timeout=_KILLED_WITHIN_S)


async def _all_done(tasks: set[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    return f"was killed by signal {signal.Signals(-code).name.removeprefix('SIG')}"
