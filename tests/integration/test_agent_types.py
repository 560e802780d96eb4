"""The real agent and what a process type can ask for: users, limits, restarts, health."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_program import AgentProgram
from eventually import eventually
from fake_coordinator import FakeCoordinator
from keeper_rig import NOBODY
from msgspec import structs

from formation.memory import Tries
from formation.model import (
    Ability,
    Assignment,
    InstanceState,
    Limits,
    Probe,
    ProbeKind,
    ProcessType,
    Release,
    RestartPolicy,
    Slot,
)
from formation_agent import procfs
from formation_agent.journal import load

HEALTHY, BACKOFF = InstanceState.HEALTHY, InstanceState.BACKOFF
SLEEP = "sleep 1000"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
# Says what it is told by its first argument to NOTIFY_SOCKET, then sleeps.
SAY = (
    f"{sys.executable} -c 'import os, socket, sys, time;"
    " s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
    ' name = os.environ["NOTIFY_SOCKET"];'
    ' s.connect("\\0" + name[1:] if name[0] == "@" else name);'
    " s.send(sys.argv[1].encode()); time.sleep(1000)' "
)


def release(command: str, **fields: Any) -> Release:
    fields = {"stop_grace_s": 1.0, "ready_after_s": 0.0, **fields}
    return Release(
        app="shop",
        number=1,
        types=(ProcessType(name="web", command=command, **fields),),
        workdir="/",
    )


def stay(uid: str = "u1", ordinal: int = 1, *, mark: int = 0) -> Assignment:
    return Assignment(uid=uid, slot=Slot("shop", "web", ordinal), release=1, retry_mark=mark)


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[FakeCoordinator]:
    async with FakeCoordinator(f"unix:{tmp_path / 'c.sock'}") as running:
        yield running


@pytest.fixture
async def agent(tmp_path: Path, coordinator: FakeCoordinator) -> AsyncIterator[AgentProgram]:
    argv = ("--coordinator", coordinator.address, "--name", "b", "--verbose")
    async with AgentProgram(tmp_path, *argv) as running:
        yield running


async def written(agent: AgentProgram, text: str) -> str:
    """What web.1 wrote, once `text` is in it."""
    log = agent.state_dir / "logs" / "shop" / "web.1.log"

    def found() -> bool:
        return log.exists() and text in log.read_text()

    await eventually(found, what=f"{text!r} in its log\n{agent.text}")
    return log.read_text()


# -- how it runs -----------------------------------------------------------------------------------


@needs_root
async def test_a_type_runs_as_its_user_with_all_its_limits(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    show = "sh -c 'echo who=$(id -u):$(id -g) home=$HOME in=$PWD umask=$(umask) files=$(ulimit -n)"
    show += " nice=$(nice); exec sleep 1000'"
    limits = Limits(rlimits={"nofile": 77})
    asked = release(show, user="nobody", workdir="tmp", umask=0o27, nice=3, limits=limits)
    await coordinator.assign(stay(), releases=[asked])
    pid = (await coordinator.sees("u1", HEALTHY)).pid
    nobody = pwd.getpwnam("nobody")
    who = f"who={nobody.pw_uid}:{nobody.pw_gid} home={nobody.pw_dir} in=/tmp"
    await written(agent, f"{who} umask=0027 files=77 nice=3")
    groups = (Path("/proc") / str(pid) / "status").read_text().split("Groups:")[1].split("\n")[0]
    assert groups.split() == [str(gid) for gid in sorted({nobody.pw_gid})]


@needs_root
async def test_an_agent_that_is_not_root_says_that_it_cannot_switch_users(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    coordinator = FakeCoordinator(f"unix:{tmp_path / 'c.sock'}")
    argv = ("--name", "b", "--coordinator", coordinator.address)
    async with coordinator, AgentProgram(tmp_path, *argv, before=NOBODY):
        (tmp_path / "c.sock").chmod(0o777)
        await coordinator.assign(stay(), releases=[release(SLEEP, user="daemon")])
        status = await coordinator.sees("u1", BACKOFF)
        assert status.reason.startswith("cannot run as user daemon: the agent is not root")
        host = coordinator.hellos[0].host
        assert Ability.USER.value not in host.abilities
        assert "cannot switch users: not root" in host.inability


async def test_what_this_host_cannot_enforce_is_said_and_not_started_where_it_is_required(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    limits = Limits(memory_bytes=1 << 30)
    await coordinator.assign(stay(), releases=[release(SLEEP, limits=limits)])
    await coordinator.sees("u1", HEALTHY)
    host = coordinator.hellos[0].host
    if Ability.MEMORY.value in host.abilities:
        pytest.skip("this machine has the memory controller")
    assert host.inability
    await written(agent, "runs without its limit of memory, which this host lacks")
    needs = replace(release(SLEEP, requires=(Ability.MEMORY,)), number=2)
    await coordinator.assign(structs.replace(stay("u2", 2), release=2), releases=[needs])
    status = await coordinator.sees("u2", BACKOFF)
    assert status.reason == f"requires memory, which this host cannot enforce ({host.inability})"


async def test_a_fixed_port_that_somebody_has_is_waited_for(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        await coordinator.assign(stay(), releases=[release(SLEEP, port=port)])
        status = await coordinator.sees("u1", BACKOFF)
        assert status.reason == f"port {port} is taken by another program"
    await coordinator.assign(stay(mark=1))
    assert (await coordinator.sees("u1", HEALTHY)).port == port


# -- what follows its end --------------------------------------------------------------------------


async def test_what_is_done_stays_done_until_somebody_wants_another_try(
    coordinator: FakeCoordinator, agent: AgentProgram, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    job = f"sh -c 'echo ran >> {ledger}'"
    asked = release(job, restart=RestartPolicy.ON_FAILURE)
    await coordinator.assign(stay(), releases=[asked])
    done = await coordinator.sees("u1", InstanceState.FINISHED)
    assert (done.last_exit, done.pid, done.failures) == ("exit 0", 0, 0)
    (await agent.brain()).kill()
    await eventually(lambda: len(coordinator.hellos) == 2)
    await coordinator.sees("u1", InstanceState.FINISHED)
    await eventually(lambda: load(agent.state_dir, "").memory.tries.get("u1", Tries()).over)
    agent.signal(signal.SIGKILL)
    await agent.ended()
    agent.start()
    await eventually(lambda: len(coordinator.hellos) == 3)
    await coordinator.assign(stay())
    await coordinator.sees("u1", InstanceState.FINISHED)
    assert ledger.read_text() == "ran\n"
    await coordinator.assign(stay(mark=1))
    await coordinator.sees("u1", InstanceState.FINISHED, attempt=2)
    assert ledger.read_text() == "ran\nran\n"


async def test_what_loops_says_so_and_can_be_tried_at_once(
    coordinator: FakeCoordinator, agent: AgentProgram, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    command = f"sh -c '[ -e {mended} ] && exec sleep 1000; exit 3'"
    await coordinator.assign(stay(), releases=[release(command)])
    for mark in range(1, 5):
        await coordinator.sees("u1", BACKOFF, attempt=mark + 1)
        if mark == 4:
            mended.touch()
        await coordinator.assign(stay(mark=mark))
    up = await coordinator.sees("u1", HEALTHY)
    assert (up.attempt, up.failures, up.crash_looping) == (6, 5, False)
    looping = next(item for item in coordinator.history if item.crash_looping)
    assert looping.reason.endswith("(5th time in a row)")
    assert looping.failures == 5


# -- its health ------------------------------------------------------------------------------------


async def test_who_has_said_ready_is_healthy_and_still_is_for_the_next_brain(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    asked = release(f'{SAY} "READY=1\nSTATUS=42 clients"', notify=True)
    await coordinator.assign(stay(), releases=[asked])
    before = await coordinator.sees("u1", HEALTHY)
    await eventually(lambda: coordinator.table["u1"].told == "42 clients")
    await eventually(lambda: load(agent.state_dir, "").memory.tries.get("u1", Tries()).ready)
    seen = len(coordinator.history)
    (await agent.brain()).kill()
    await eventually(lambda: len(coordinator.hellos) == 2)
    after = await coordinator.sees("u1", HEALTHY)
    assert (after.pid, after.attempt) == (before.pid, 1), agent.text
    assert {item.state for item in coordinator.history[seen:]} == {HEALTHY}


async def test_who_does_not_say_ready_in_time_is_ended_and_tried_again(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(stay(), releases=[release(SLEEP, notify=True, start_grace_s=0.3)])
    await coordinator.sees("u1", InstanceState.STARTING)
    await eventually(lambda: any(item.attempt == 2 for item in coordinator.history))
    assert "shop/web.1: not ready within 0.3 s" in agent.text


async def test_who_is_not_alive_is_ended_with_its_tree_and_started_again(
    coordinator: FakeCoordinator, agent: AgentProgram, tmp_path: Path
) -> None:
    sick = tmp_path / "sick"
    # Its child ignores the signal and outlives it.
    command = "sh -c '(trap \"\" TERM; sleep 1000; sleep 1000) & exec sleep 1000'"
    probe = Probe(
        kind=ProbeKind.EXEC, target=f"test ! -e {sick}", period_s=0.1, timeout_s=5, failures=1
    )
    asked = release(command, liveness=probe, start_grace_s=0, stop_grace_s=0.2)
    await coordinator.assign(stay(), releases=[asked])
    first = await coordinator.sees("u1", HEALTHY)
    tree = await eventually(lambda: procfs.children(first.pid))
    sick.touch()
    await eventually(lambda: any("not alive" in item.reason for item in coordinator.history))
    sick.unlink()
    second = await coordinator.sees("u1", HEALTHY, attempt=2)
    assert second.pid != first.pid
    assert not any(Path(f"/proc/{pid}").exists() for pid in (first.pid, *tree))
    states = [item.state for item in coordinator.history]
    assert InstanceState.RESTARTING in states or BACKOFF in states
