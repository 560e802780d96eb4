"""The brain's end when the keeper dies; the test plays the keeper, the processes are real."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from formation.runtime import new_id
from formation_agent import link, procfs
from formation_agent.leftovers import kill_leftovers
from formation_agent.processes import KeeperGone, Processes, Started

DEADLINE_S = 20.0


class FakeKeeper:
    def __init__(self) -> None:
        self.end, theirs = link.pair()
        self.fd = theirs.detach()
        self.say(op="hello", version=link.VERSION, pid=os.getpid(), children=0)

    def say(self, **message: object) -> None:
        link.send(self.end, message)

    async def hear(self) -> link.Message:
        readable = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.end, readable.set)
        try:
            await asyncio.wait_for(readable.wait(), DEADLINE_S)
        finally:
            asyncio.get_running_loop().remove_reader(self.end)
        received = link.receive(self.end)
        assert received is not None
        return received[0]

    def say_started(self, process: subprocess.Popen[bytes], mark: str) -> None:
        ticks = procfs.start_ticks(process.pid)
        who = {"key": f"{mark}:1", "pid": process.pid, "start_ticks": ticks, "mark": mark}
        self.say(op="started", exited=None, empty=False, spawned_at_ms=0, **who)

    def die(self) -> None:
        self.end.close()


@pytest.fixture
def keeper() -> Iterator[FakeKeeper]:
    fake = FakeKeeper()
    yield fake
    fake.die()


@contextlib.asynccontextmanager
async def connected(keeper: FakeKeeper) -> AsyncIterator[Processes]:
    processes = await Processes.connect(keeper.fd)
    try:
        yield processes
    finally:
        processes.close()


@contextlib.contextmanager
def running(*argv: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        argv, env={"PATH": os.defpath, **env}, start_new_session=True, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.communicate()


async def until_gone(processes: Processes) -> None:
    async def hear_all() -> None:
        async for _ in processes.events():
            pass

    with pytest.raises(KeeperGone):
        await asyncio.wait_for(hear_all(), DEADLINE_S)


async def test_what_the_keeper_started_and_did_not_report_is_killed(keeper: FakeKeeper) -> None:
    mark = new_id()
    async with connected(keeper) as processes:
        env = {"FORMATION_INSTANCE": mark, "PATH": os.defpath}
        processes.spawn(f"{mark}:1", argv=["sleep", "1000"], env=env, cwd="/")
        assert (await keeper.hear())["op"] == "spawn"
        with running("sleep", "1000", FORMATION_INSTANCE=mark) as process:
            keeper.die()
            await until_gone(processes)
            assert process.wait(DEADLINE_S) == -9


async def test_an_old_brain_spares_what_the_next_agent_runs(
    keeper: FakeKeeper, tmp_path: Path
) -> None:
    mark, path = new_id(), tmp_path / "lock"
    async with connected(keeper) as processes:
        locking = asyncio.create_task(processes.lock(str(path)))
        assert (await keeper.hear())["op"] == "lock"
        keeper.say(op="locked")
        assert await asyncio.wait_for(locking, DEADLINE_S) is None
        with (
            path.open("w") as lock,
            running("sleep", "1000", FORMATION_INSTANCE=mark) as old,
            running("sleep", "1000", FORMATION_INSTANCE=mark) as new,
        ):
            keeper.say_started(old, mark)
            fcntl.flock(lock, fcntl.LOCK_EX)  # the next agent
            keeper.die()
            await until_gone(processes)
            assert old.wait(DEADLINE_S) == -9
            assert new.poll() is None


async def test_a_start_says_who_the_process_is(keeper: FakeKeeper) -> None:
    async with connected(keeper) as processes:
        with running("sleep", "1000") as process:
            keeper.say_started(process, "u1")
            event = await asyncio.wait_for(anext(processes.events()), DEADLINE_S)
            assert isinstance(event, Started)
            assert event.start_ticks == procfs.start_ticks(process.pid)


async def test_a_ping_is_answered_at_once(keeper: FakeKeeper) -> None:
    async with connected(keeper):
        keeper.say(op="ping")
        assert await keeper.hear() == {"op": "pong"}


async def test_a_lock_is_not_waited_for_when_the_keeper_is_gone(keeper: FakeKeeper) -> None:
    async with connected(keeper) as processes:
        keeper.die()
        await until_gone(processes)
        with pytest.raises(KeeperGone):
            await asyncio.wait_for(processes.lock("/tmp/lock"), DEADLINE_S)


async def test_a_keeper_that_died_after_its_hello_is_noticed_at_once(keeper: FakeKeeper) -> None:
    keeper.die()
    with pytest.raises(KeeperGone):
        await Processes.connect(keeper.fd)


def test_leftovers_that_overwrote_their_environment_are_known_by_their_leader() -> None:
    with running("sh", "-c", "sleep 1000 & echo $!; wait") as process:
        assert process.stdout is not None
        helper = int(process.stdout.readline())
        ticks, boot_id = procfs.start_ticks(process.pid), procfs.boot_id()
        assert ticks is not None
        others = [(boot_id, process.pid, ticks + 1), ("other", process.pid, ticks)]
        assert kill_leftovers(new_id(), [*others, ("", process.pid, ticks)]) == []
        assert process.poll() is None
        # Dead, but not reaped by us: it is killed once.
        killed = kill_leftovers(new_id(), [(boot_id, process.pid, ticks)])
        assert sorted(killed) == sorted([process.pid, helper])
