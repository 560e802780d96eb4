"""Limits that a kernel enforces: the real agent where cgroup v2 has cpu, memory and pids.

Skipped where it has not, as on a machine that keeps them on version 1. The tests of the words that
are written stand in test_cgroups.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import machine_cgroups
import pytest
from agent_program import AgentProgram
from eventually import eventually
from fake_coordinator import FakeCoordinator

from formation.model import (
    Ability,
    Assignment,
    InstanceState,
    Limits,
    ProcessType,
    Release,
    Slot,
)
from formation_agent import cgroups

HEALTHY, BACKOFF = InstanceState.HEALTHY, InstanceState.BACKOFF
DEADLINE_S = 20.0
MIB = 1 << 20
LIMITED = set(cgroups.CONTROLLERS)


@pytest.fixture
def service() -> Iterator[str]:
    """A cgroup as a service manager makes one for the agent, with all controllers for it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a cgroup that has controllers")
    root = machine_cgroups.root()
    if not cgroups.words(root, "cgroup.controllers") >= LIMITED:
        pytest.skip("this machine's cgroup v2 does not have cpu, memory and pids")
    cgroups.enable(root, LIMITED)
    path = f"{root}/formation-test-{os.getpid()}"
    os.mkdir(path)
    yield path
    assert cgroups.kill_and_remove(path, DEADLINE_S)


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[FakeCoordinator]:
    async with FakeCoordinator(f"unix:{tmp_path / 'c.sock'}") as fake:
        yield fake


@pytest.fixture
async def agent(
    tmp_path: Path, service: str, coordinator: FakeCoordinator
) -> AsyncIterator[AgentProgram]:
    enter = ("sh", "-c", f'echo $$ >{service}/cgroup.procs; exec "$@"', "sh")
    argv = ("--name", "b", "--coordinator", coordinator.address)
    async with AgentProgram(tmp_path, *argv, before=enter) as program:
        yield program


def release(command: str, **fields: Any) -> Release:
    given = {"stop_grace_s": 1.0, "ready_after_s": 0.0, **fields}
    return Release(
        app="shop", number=1, types=(ProcessType(name="web", command=command, **given),),
        workdir="/",
    )  # fmt: skip


WEB_1 = Assignment(uid="u1", slot=Slot("shop", "web", 1), release=1)


def python(script: str) -> str:
    return f"{sys.executable} -c '{script}'"


def in_cgroup(pid: int, file: str) -> str:
    path = cgroups.own_path(Path(f"/proc/{pid}/cgroup").read_text())
    own, shown = cgroups.own()
    return Path(own.removesuffix(shown.rstrip("/")) + str(path), file).read_text()


async def test_the_host_says_that_it_can_enforce_all_of_it(
    agent: AgentProgram, coordinator: FakeCoordinator
) -> None:
    await eventually(lambda: coordinator.hellos, deadline_s=DEADLINE_S, what="its hello")
    abilities = set(coordinator.hellos[0].host.abilities)
    wanted = {Ability.CGROUP, Ability.CPU, Ability.MEMORY, Ability.PIDS}
    assert {item.value for item in wanted} <= abilities
    assert coordinator.hellos[0].host.inability == ""


async def test_a_tree_that_takes_too_much_memory_is_killed_whole_and_that_is_said(
    agent: AgentProgram, coordinator: FakeCoordinator
) -> None:
    hog = python(
        "import os, time\n"
        "if os.fork() == 0: time.sleep(1000)\n"
        'print("child", flush=True); time.sleep(0.2); x = bytearray(300 << 20)\n'
    )
    limits = Limits(memory_bytes=100 * MIB)
    await coordinator.assign(WEB_1, releases=[release(hog, limits=limits)])
    status = await coordinator.sees("u1", BACKOFF)
    assert status.last_exit == "out of memory (signal KILL)"
    assert "out of memory" in status.reason
    hogs = [process for process in agent.children() if "bytearray" in " ".join(process.cmdline())]
    assert len(hogs) <= 2  # of the attempt that may run by now: nothing of the first is left


async def test_a_tree_has_no_more_processes_than_it_may_have_and_all_of_it_is_stopped(
    agent: AgentProgram, coordinator: FakeCoordinator
) -> None:
    bomb = (
        "import os, time\n"
        "while True:\n"
        "    try: os.fork()\n"
        "    except BlockingIOError: time.sleep(0.01)\n"
    )
    asked = release(python(bomb), limits=Limits(pids=40))
    await coordinator.assign(WEB_1, releases=[asked])
    pid = (await coordinator.sees("u1", HEALTHY)).pid
    await eventually(lambda: int(in_cgroup(pid, "pids.current")) == 40)
    assert in_cgroup(pid, "pids.max") == "40\n"
    bombs = [process for process in agent.children() if "os.fork" in " ".join(process.cmdline())]
    await coordinator.assign(releases=[asked])
    await coordinator.sees_gone("u1")
    assert not [process for process in bombs if process.is_running()]


async def test_a_tree_gets_no_more_of_the_processor_than_it_may_have(
    agent: AgentProgram, coordinator: FakeCoordinator
) -> None:
    busy = python("while True: pass")
    await coordinator.assign(WEB_1, releases=[release(busy, limits=Limits(cpus=0.2))])
    pid = (await coordinator.sees("u1", HEALTHY)).pid

    def stat() -> dict[str, int]:
        lines = in_cgroup(pid, "cpu.stat").splitlines()
        return {name: int(value) for name, value in (line.split() for line in lines)}

    await eventually(lambda: stat()["nr_periods"] >= 10, what="ten periods")
    seen = stat()
    assert in_cgroup(pid, "cpu.max") == "20000 100000\n"
    assert seen["nr_throttled"] >= 5
    # What it had before it was limited, for a moment, comes on top.
    assert seen["usage_usec"] <= 20_000 * (seen["nr_periods"] + 1) + 300_000
