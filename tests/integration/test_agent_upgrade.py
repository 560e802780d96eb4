"""The real agent becomes the program on disk, and what else its keeper decides about its brain."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from agent_program import AS_NOBODY, PROGRAM, AgentProgram, needs_nobody
from eventually import eventually
from fake_coordinator import FakeCoordinator

from formation.model import Assignment, InstanceState, ProcessType, Release, Slot

HEALTHY, BACKOFF = InstanceState.HEALTHY, InstanceState.BACKOFF
# No other agent on this machine has instances of these names.
UID = f"up-{secrets.token_hex(4)}-"
COUNT = (
    f"{sys.executable} -uc 'import itertools, time\n"
    "for n in itertools.count(): print(n); time.sleep(0.001)'"
)


def release(**commands: str) -> Release:
    types = tuple(
        ProcessType(name=name, command=command, stop_grace_s=1.0, ready_after_s=0.0)
        for name, command in commands.items()
    )
    return Release(app="shop", number=1, types=types, workdir="/")


def stay(name: str, type_name: str) -> Assignment:
    return Assignment(uid=UID + name, slot=Slot("shop", type_name, 1), release=1)


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[FakeCoordinator]:
    async with FakeCoordinator(f"unix:{tmp_path / 'c.sock'}") as running:
        yield running


@pytest.fixture
async def agent(tmp_path: Path, coordinator: FakeCoordinator) -> AsyncIterator[AgentProgram]:
    argv = ("--coordinator", coordinator.address, "--config", str(tmp_path / "agent.toml"))
    (tmp_path / "agent.toml").write_text('name = "b"\n')
    async with AgentProgram(tmp_path, *argv) as running:
        yield running


async def reexec(agent: AgentProgram, *before: str) -> tuple[int, str, str]:
    """Exit code and outputs of the command."""
    process = await asyncio.create_subprocess_exec(
        *before, PROGRAM, "reexec", "--state-dir", agent.state_dir, stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_an_upgrade_stops_nothing_and_loses_no_line(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(stay("a", "web"), releases=[release(web=COUNT)])
    before = await coordinator.sees(UID + "a", HEALTHY)
    old = await agent.brain()
    code, out, err = await reexec(agent)
    assert (code, err) == (0, "")
    assert re.fullmatch(
        f"re-executing process {agent.pid}\n"
        rf"process {agent.pid} is the new program, after \d+\.\d s\n",
        out,
    )
    await eventually(lambda: len(coordinator.hellos) == 2)
    after = await coordinator.sees(UID + "a", HEALTHY)
    assert (after.pid, after.attempt) == (before.pid, 1)
    assert (await agent.brain()).pid != old.pid
    # It still counts, and every number is in the log once and in order.
    log = agent.state_dir / "logs" / "shop" / "web.1.log"
    seen = len(log.read_bytes())
    await eventually(lambda: len(log.read_bytes()) > seen + 5000)
    *texts, _ = log.read_text().splitlines()
    pieces = [text.split(" ", 2)[1:] for text in texts]
    joined = "".join(text + ("" if tag == "OP" else "\n") for tag, text in pieces)
    numbers = [int(line) for line in joined.splitlines()]
    assert numbers == list(range(len(numbers)))


async def test_settings_that_cannot_be_read_any_more_are_refused_before_anything_happens(
    coordinator: FakeCoordinator, agent: AgentProgram, tmp_path: Path
) -> None:
    await coordinator.assign(stay("a", "web"), releases=[release(web="sleep 1000")])
    before = await coordinator.sees(UID + "a", HEALTHY)
    brain = await agent.brain()
    config = tmp_path / "agent.toml"
    config.write_text('nmae = "b"\n')
    code, _, err = await reexec(agent)
    assert code == 1
    assert err == (
        f"formation-agent: process {agent.pid} goes on as before: the program on disk cannot take"
        f" over: formation-agent: {config}: nmae: unknown; did you mean name?\n"
    )
    assert (await agent.brain()).pid == brain.pid
    assert psutil.pid_exists(before.pid)


@needs_nobody
async def test_whoever_runs_an_agent_can_replace_it_without_any_privilege() -> None:
    """Although a keeper lets not even its own user look into it."""
    with tempfile.TemporaryDirectory(prefix="fmn-") as name:
        os.chown(name, 65534, 65534)
        async with (
            FakeCoordinator(f"unix:{name}/c.sock") as coordinator,
            AgentProgram(
                Path(name), "--coordinator", coordinator.address, before=AS_NOBODY, rails=()
            ) as agent,
        ):
            os.chmod(f"{name}/c.sock", 0o666)
            await eventually(lambda: coordinator.hellos, what=agent.text)
            code, out, err = await reexec(agent, *AS_NOBODY)
            assert (code, err) == (0, "")
            assert "is the new program" in out
            await eventually(lambda: len(coordinator.hellos) == 2)
            code, out, err = await reexec(agent, "setpriv", "--reuid=65533", "--clear-groups")
            assert (code, out) == (1, "")
            assert "(run this as the agent's user)" in err


async def test_where_nothing_runs_the_command_says_so(tmp_path: Path) -> None:
    code, out, err = await reexec(AgentProgram(tmp_path))
    assert (code, out) == (1, "")
    assert err == f"formation-agent: no agent runs on {tmp_path / 'state'}\n"


async def test_a_second_agent_on_the_same_directory_is_refused(
    coordinator: FakeCoordinator, agent: AgentProgram, tmp_path: Path
) -> None:
    await eventually(lambda: coordinator.hellos)
    code, _, _ = await reexec(agent)
    assert code == 0
    (tmp_path / "second").mkdir()
    second = AgentProgram(tmp_path / "second", "--coordinator", coordinator.address)
    second.argv = (*second.argv, "--name", "c")
    second.argv = tuple(
        str(agent.state_dir) if word == str(second.state_dir) else word for word in second.argv
    )
    second.start()
    assert await second.ended() == 2
    why = f"already running on {agent.state_dir} (process {agent.pid})"
    assert why in second.text


async def test_a_killed_brain_is_started_once_more_to_say_goodbye(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(stay("a", "web"), releases=[release(web="no-such-command")])
    await coordinator.sees(UID + "a", BACKOFF)
    brain = await agent.brain()
    brain.suspend()
    agent.signal(signal.SIGTERM)
    os.kill(brain.pid, signal.SIGKILL)
    assert await agent.ended() == 0
    assert coordinator.goodbyes == 1
