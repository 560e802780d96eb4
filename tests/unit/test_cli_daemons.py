"""Programs kept running: stand-ins that die, refuse to stop, or lose their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eventually import eventually

from formctl.dev import daemons
from formctl.dev.daemons import Daemon, stop_all
from formctl.dev.plan import Program

OBEYS = "import signal; print('up', flush=True); signal.pause()"
REFUSES = (
    "import signal; signal.signal(signal.SIGINT, lambda *_: print('no', flush=True))\n"
    "print('up', flush=True)\nwhile True: signal.pause()"
)
SECOND_TIME = (
    "import signal, sys\n"
    "asked = []\n"
    "def on_term(*_):\n"
    "    asked.append(1)\n"
    "    print('asked', flush=True)\n"
    "    if len(asked) == 2: sys.exit(0)\n"
    "signal.signal(signal.SIGINT, on_term)\n"
    "print('up', flush=True)\n"
    "while True: signal.pause()"
)

LAUNCHER = str(Path(daemons.__file__).with_name("launch.py"))


class StandIn:
    """A daemon around a line of Python, with what it was said to have done."""

    def __init__(self, directory: Path, code: str) -> None:
        self.notices: list[str] = []
        self.log = directory / "stand-in.log"
        program = Program(name="agent a", argv=(sys.executable, "-c", code), log=str(self.log))
        self.daemon = Daemon(program, environ=os.environ, notice=self.notices.append)
        self.task = asyncio.create_task(self.daemon.run())

    def wrote(self, text: str, times: int = 1) -> bool:
        return self.log.exists() and self.log.read_text().count(text) >= times

    async def up(self, times: int = 1) -> None:
        await eventually(lambda: self.wrote("up", times))


@asynccontextmanager
async def stand_in(directory: Path, code: str) -> AsyncIterator[StandIn]:
    found = StandIn(directory, code)
    try:
        yield found
    finally:
        found.daemon.kill()
        await asyncio.wait([found.task], timeout=10)


def is_alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


async def stop(found: StandIn, urgent: asyncio.Event | None = None, **deadlines: float) -> None:
    await stop_all(
        [found.daemon],
        [found.task],
        deadline_s=deadlines.get("deadline_s", 10.0),
        urgent=urgent or asyncio.Event(),
        urgent_deadline_s=deadlines.get("urgent_deadline_s", 10.0),
    )


async def test_a_daemon_that_dies_is_started_again_and_quoted(tmp_path: Path) -> None:
    async with stand_in(tmp_path, OBEYS) as found:
        await found.up()
        first = found.daemon.pid
        os.kill(first, signal.SIGKILL)
        await found.up(times=2)
        assert found.daemon.pid != first
        assert found.daemon.died.is_set()
        assert found.notices == ["agent a was killed by signal KILL, starts again in 0.5s: up"]
        await stop(found)


async def test_a_stopped_daemon_ends_and_stays_so(tmp_path: Path) -> None:
    async with stand_in(tmp_path, OBEYS) as found:
        await found.up()
        pid = found.daemon.pid
        await stop(found)
        assert found.task.done()
        assert not is_alive(pid)
        assert found.notices == []


async def test_a_daemon_may_be_stopped_before_it_has_started(tmp_path: Path) -> None:
    async with stand_in(tmp_path, OBEYS) as found:
        await stop(found)
        assert found.task.done()


async def test_a_daemon_that_waits_for_its_next_start_is_stopped_at_once(tmp_path: Path) -> None:
    async with stand_in(tmp_path, "print('dead')") as found:
        await eventually(lambda: found.notices)
        await stop(found)
        assert len(found.notices) == 1
        assert found.daemon.quoted() == ["dead"]


async def test_a_daemon_that_refuses_is_killed_at_its_deadline(tmp_path: Path) -> None:
    async with stand_in(tmp_path, REFUSES) as found:
        await found.up()
        pid = found.daemon.pid
        await stop(found, deadline_s=0.2)
        assert found.wrote("no")
        assert not is_alive(pid)


async def test_an_urgent_stop_asks_a_second_time(tmp_path: Path) -> None:
    async with stand_in(tmp_path, SECOND_TIME) as found:
        await found.up()
        urgent = asyncio.Event()
        stopping = asyncio.create_task(stop(found, urgent, deadline_s=60.0))
        await eventually(lambda: found.wrote("asked"))
        urgent.set()
        await asyncio.wait_for(stopping, 10)
        assert found.wrote("asked", times=2)


async def test_an_urgent_stop_kills_who_still_refuses(tmp_path: Path) -> None:
    async with stand_in(tmp_path, REFUSES) as found:
        await found.up()
        urgent = asyncio.Event()
        urgent.set()
        await stop(found, urgent, deadline_s=60.0, urgent_deadline_s=0.2)
        assert found.task.done()


async def test_a_daemon_has_a_session_of_its_own_and_ends_with_its_parent() -> None:
    code = (
        "import os, subprocess, sys\n"
        f"words = [sys.executable, '-I', '-S', {LAUNCHER!r}, str(os.getpid()), sys.executable]\n"
        "child = subprocess.Popen(\n"
        "    [*words, '-c', 'import signal; print(1, flush=True); signal.pause()'],\n"
        "    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)\n"
        "child.stdout.readline(); print(child.pid, flush=True); input()"
    )
    pipe = asyncio.subprocess.PIPE
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=pipe, stdout=pipe
    )
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 10))
    assert os.getsid(pid) == pid
    parent.kill()
    await parent.communicate()
    await eventually(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    """A zombie that nobody reaps here does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_daemon_whose_parent_is_another_does_not_start() -> None:
    words = [sys.executable, "-I", "-S", LAUNCHER, "1", sys.executable, "-c", "print('ran')"]
    done = subprocess.run(words, check=True, capture_output=True, timeout=30)
    assert done.stdout == b""
