"""A real keeper with many children, whose pipes it puts away: all of them come out again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from eventually import eventually
from keeper_rig import NOBODY, Brain, KeeperRig, gone, inside, keeper_rig

COUNT = 200
AS_ROOT = os.geteuid() == 0
USERS = [(), pytest.param(NOBODY, marks=pytest.mark.skipif(not AS_ROOT, reason="needs root"))]
# More than what a keeper has open beside the pipes of those that it has not put away.
FILES_MAX = 170


def open_files(rig: KeeperRig) -> int:
    return len(os.listdir(inside(rig.pid) / "fd"))


async def start(rig: KeeperRig, brain: Brain) -> tuple[list[str], Path]:
    """They write to both outputs and end when somebody opens the fifo."""
    fifo = rig.directory / "go"
    os.mkfifo(fifo, 0o777)
    fifo.chmod(0o777)
    keys = [f"u{number}:1" for number in range(COUNT)]
    for number, key in enumerate(keys):
        text = f"read x <{fifo}; echo out {number}; echo err {number} >&2; exit 7"
        rig.spawn(brain, key, "sh", "-c", text)
    for key in keys:
        await brain.event("Started", key)
    await eventually(lambda: open_files(rig) < FILES_MAX)
    return keys, fifo


async def whole(brain: Brain, keys: list[str]) -> None:
    for number, key in enumerate(keys):
        assert await brain.text(key) == f"out {number}\n"
        assert await brain.text(key, "stderr") == f"err {number}\n"
        child = brain.children[key]
        assert (child["exited"] or await brain.event("Exited", key))["code"] == 7


def go(fifo: Path) -> int:
    """A line for each; who opens it later finds its own there until what this returns is closed."""
    fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, b"\n" * COUNT)
    return fd


@pytest.mark.parametrize("user", USERS, ids=["as we are", "unprivileged"])
async def test_the_next_brain_gets_every_pipe_and_loses_no_output(user: tuple[str, ...]) -> None:
    async with keeper_rig(user) as rig:
        first = await rig.brain()
        keys, fifo = await start(rig, first)
        os.kill(first.pid, signal.SIGSTOP)  # so that what is written stays in the pipes
        fd = go(fifo)
        await gone(*[(await first.event("Started", key))["pid"] for key in keys])
        os.close(fd)
        os.kill(first.pid, signal.SIGKILL)
        second = await rig.brain()
        assert set(second.children) == set(keys)
        await whole(second, keys)


async def test_the_next_program_gets_every_pipe_and_puts_them_away_again() -> None:
    async with keeper_rig() as rig:
        first = await rig.brain()
        keys, fifo = await start(rig, first)
        rig.keeper.send_signal(signal.SIGHUP)
        await first.event("Reload")
        first.tell("again")
        first.tell("exit", code=0)
        second = await rig.brain()
        second.tell("ready", status="up")
        await eventually(lambda: open_files(rig) < FILES_MAX)
        fd = go(fifo)
        await whole(second, keys)
        os.close(fd)


async def test_pipes_of_those_that_are_no_more_are_closed() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        keys, fifo = await start(rig, brain)
        fd = go(fifo)
        for key in keys:
            await brain.event("Exited", key)
            brain.tell("forget", key)
        os.close(fd)
        # Nobody is left, so not even the two sockets of the depot.
        await eventually(lambda: open_files(rig) < 20)


async def test_a_child_that_is_started_then_gets_none_of_them() -> None:
    async with keeper_rig() as rig:
        first = await rig.brain()
        await start(rig, first)
        os.kill(first.pid, signal.SIGKILL)
        second = await rig.brain()
        rig.spawn(second, "a:1", "ls", "-x", "/proc/self/fd")
        assert (await second.text("a:1")).split() == ["0", "1", "2", "3"]
