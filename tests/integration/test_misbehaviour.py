"""Children that do what they should not: the real agent reports them right and ends all of them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from agent_program import AgentProgram, runs
from eventually import eventually
from fake_coordinator import FakeCoordinator

from formation.model import Assignment, InstanceState, Limits, ProcessType, Release, Slot

HEALTHY, BACKOFF = InstanceState.HEALTHY, InstanceState.BACKOFF
WEB_1 = Assignment(uid="u1", slot=Slot("shop", "web", 1), release=1)
MANY = 30
PERL = shutil.which("perl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`says`: what its log has in the end, in this order, without time and stream. `processes`: so
    many of it are there before it is stopped."""

    script: str
    says: tuple[bytes, ...] = ()
    processes: int = 1


RUNNING = {
    "ignores TERM": Case(
        script="import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(1000)",
        says=(b"up",),
    ),
    "stops itself": Case(
        script="import os, signal\nprint('up', flush=True); os.kill(os.getpid(), signal.SIGSTOP)",
        says=(b"up",),
    ),
    "closes its output": Case(
        script="import os, time\n"
        "os.write(1, b'up\\nlast'); os.close(1); os.close(2); time.sleep(1000)",
        says=(b"up", b"last"),
    ),
    "writes bytes and half lines": Case(
        script="import os, time\n"
        "os.write(1, b'\\x00\\xff\\x1b[31m\\r\\n'); os.write(1, b'ha'); time.sleep(0.3)\n"
        "os.write(1, b'lf\\n\\x0b\\x0c\\xe2\\x80\\xa8 one line\\nno end'); time.sleep(1000)",
        says=(b"\x00\xff\x1b[31m\r", b"half", b"\x0b\x0c\xe2\x80\xa8 one line", b"no end"),
    ),
    "leaves its session behind a double fork": Case(
        script="import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: print('far away', flush=True); time.sleep(1000)\n"
        "    os._exit(0)\n"
        "os.wait(); time.sleep(1000)",
        says=(b"far away",),
        processes=2,
    ),
    "signals everybody it can reach": Case(
        script="import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.killpg(0, signal.SIGTERM); print('still here', flush=True); time.sleep(1000)",
        says=(b"still here",),
    ),
}
ENDING = {
    "exits at once": Case(script="raise SystemExit(3)"),
    "leaves a line without an end": Case(
        script="import os\nos.write(1, b'whole\\nlast words'); os._exit(3)",
        says=(b"whole", b"last words"),
    ),
    "leaves somebody who holds its pipes": Case(
        script="import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid(); time.sleep(1000)\n"
        "print('gone', flush=True); os._exit(3)",
        says=(b"gone",),
    ),
}


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[FakeCoordinator]:
    async with FakeCoordinator(f"unix:{tmp_path / 'c.sock'}") as running:
        yield running


@pytest.fixture
async def agent(tmp_path: Path, coordinator: FakeCoordinator) -> AsyncIterator[AgentProgram]:
    argv = ("--coordinator", coordinator.address, "--name", "b")
    async with AgentProgram(tmp_path, *argv) as running:
        yield running


def release(directory: Path, script: str, **fields: Any) -> Release:
    program = directory / "program.py"
    program.write_text(script)
    program.chmod(0o644)
    given = {"stop_grace_s": 0.3, "ready_after_s": 0.0, **fields}
    spec = ProcessType(name="web", command=f"{sys.executable} -S {program}", **given)
    return Release(app="shop", number=1, types=(spec,), workdir="/")


def said(agent: AgentProgram) -> list[bytes]:
    log = agent.state_dir / "logs" / "shop" / "web.1.log"
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    return [line.split(b" ", 2)[2] for line in lines]


def of_it(agent: AgentProgram) -> list[psutil.Process]:
    return [item for item in agent.children() if runs(item)]


@pytest.mark.parametrize("case", RUNNING.values(), ids=RUNNING.keys())
async def test_what_misbehaves_while_it_runs_is_stopped_whole(
    case: Case, tmp_path: Path, coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    asked = release(tmp_path, case.script)
    await coordinator.assign(WEB_1, releases=[asked])
    await coordinator.sees("u1", HEALTHY)
    # What has no end yet is in the log when its stream ends.
    whole = [text for text in case.says if text not in {b"last", b"no end"}]
    await eventually(lambda: said(agent)[: len(whole)] == whole, what=f"{whole} in its log")
    await eventually(lambda: len(of_it(agent)) >= case.processes)
    processes = of_it(agent)
    await coordinator.assign(releases=[asked])
    await coordinator.sees_gone("u1")
    assert not [item for item in processes if runs(item)]
    # Its end may be told before the last of its output is read.
    await eventually(lambda: said(agent) == list(case.says), what=f"{case.says} in its log")


@pytest.mark.parametrize("case", ENDING.values(), ids=ENDING.keys())
async def test_what_ends_in_a_bad_way_is_reported_and_leaves_nothing(
    case: Case, tmp_path: Path, coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    asked = release(tmp_path, case.script)
    await coordinator.assign(WEB_1, releases=[asked])
    status = await coordinator.sees("u1", BACKOFF)
    assert status.last_exit == "exit 3"
    await coordinator.assign(releases=[asked])
    await coordinator.sees_gone("u1")
    assert not of_it(agent)
    spoken = said(agent)
    assert spoken == list(case.says) * (len(spoken) // max(1, len(case.says)))
    assert len(spoken) >= len(case.says)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: root has no limit of processes itself")
@pytest.mark.skipif(PERL is None, reason="needs perl, which every user can run")
async def test_a_fork_bomb_within_its_users_limit_is_stopped_whole(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    bomb = (
        "use POSIX; $SIG{TERM} = q(IGNORE);"
        " while (1) { my $pid = fork; POSIX::setsid() if defined $pid && !$pid;"
        " select undef, undef, undef, 0.01 unless defined $pid }"
    )
    spec = ProcessType(
        name="web",
        command=f"{PERL} -e '{bomb}'",
        stop_grace_s=0.3,
        ready_after_s=0.0,
        user="games",  # nothing else of this user runs, so its limit is this instance's
        limits=Limits(rlimits={"nproc": MANY}),
    )
    asked = Release(app="shop", number=1, types=(spec,), workdir="/")
    await coordinator.assign(WEB_1, releases=[asked])
    await coordinator.sees("u1", HEALTHY)
    await eventually(lambda: len(of_it(agent)) == MANY, what=f"{MANY} of it")
    processes = of_it(agent)
    await coordinator.assign(releases=[asked])
    await coordinator.sees_gone("u1")
    assert not [item for item in processes if runs(item)]
