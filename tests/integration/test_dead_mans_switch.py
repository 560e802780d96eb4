"""The brain's end when the keeper dies; the test plays the keeper, the processes are real."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from eventually import eventually

from formation.runtime import new_id
from formation_agent import cgroups, link, procfs
from formation_agent.leftovers import kill_leftovers
from formation_agent.processes import (
    Contained,
    Event,
    Exited,
    KeeperGone,
    Processes,
    Reload,
    SpawnFailed,
    Started,
    describe_exit,
)

DEADLINE_S = 20.0


class FakeKeeper:
    def __init__(self, version: int = link.VERSION) -> None:
        self.end, theirs = link.pair()
        self.fd = theirs.detach()
        self.say(op="hello", version=version, pid=os.getpid(), children=0)

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

    def say_started(
        self, process: subprocess.Popen[bytes], mark: str, key: str = "", cgroup: str = ""
    ) -> None:
        ticks = procfs.start_ticks(process.pid)
        who = {"key": key or f"{mark}:1", "pid": process.pid, "start_ticks": ticks, "mark": mark}
        rest = {"exited": None, "empty": False, "spawned_at_ms": 0, "cgroup": cgroup}
        pidfd = os.pidfd_open(process.pid)
        link.send(self.end, {"op": "started", "pidfd": True, **who, **rest}, [pidfd])
        os.close(pidfd)

    def say_exited(self, key: str, *, empty: bool) -> None:
        how = {"code": 0, "signal": None, "core_dumped": False, "oom_killed": False}
        self.say(op="exited", key=key, empty=empty, **how)

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


@pytest.fixture
def cgroup() -> Iterator[str]:
    own, _ = cgroups.own()
    if not own or not os.access(own, os.W_OK):
        pytest.skip("this process may make no cgroups")
    path = f"{own}/formation-test-{os.getpid()}"
    os.makedirs(f"{path}/a")
    yield path
    assert cgroups.kill_and_remove(path, DEADLINE_S)


@pytest.mark.parametrize("is_another_here", [True, False])
async def test_a_cgroup_whose_main_process_is_gone_is_killed_only_with_the_lock(
    keeper: FakeKeeper, tmp_path: Path, cgroup: str, is_another_here: bool
) -> None:
    path = tmp_path / "lock"
    async with connected(keeper) as processes:
        locking = asyncio.create_task(processes.lock(str(path)))
        assert (await keeper.hear())["op"] == "lock"
        keeper.say(op="locked")
        await asyncio.wait_for(locking, DEADLINE_S)
        containing = asyncio.create_task(processes.contain("me"))
        assert await keeper.hear() == {"op": "contain", "name": "me", "new_privileges": True}
        keeper.say(op="contained", path=cgroup, controllers=["cpu"], problem="")
        contained = await asyncio.wait_for(containing, DEADLINE_S)
        assert contained == Contained(path=cgroup, controllers=("cpu",), problem="")
        with path.open("w") as lock, running("sleep", "1000") as old, running("true") as main:
            cgroups.enter(f"{cgroup}/a", old.pid)
            keeper.say_started(main, "u1", cgroup=f"{cgroup}/a")
            keeper.say_exited("u1:1", empty=False)
            if is_another_here:
                fcntl.flock(lock, fcntl.LOCK_EX)
            keeper.die()
            await until_gone(processes)
            assert old.poll() is None if is_another_here else old.wait(DEADLINE_S) == -9


async def test_a_cgroup_whose_main_process_lives_is_killed_whoever_has_the_lock(
    keeper: FakeKeeper, tmp_path: Path, cgroup: str
) -> None:
    path = tmp_path / "lock"
    async with connected(keeper) as processes:
        locking = asyncio.create_task(processes.lock(str(path)))
        await keeper.hear()
        keeper.say(op="locked")
        await asyncio.wait_for(locking, DEADLINE_S)
        with (
            path.open("w") as lock,
            running("sleep", "1000") as main,
            running("sleep", "1000") as stray,
        ):
            for process in (main, stray):
                cgroups.enter(f"{cgroup}/a", process.pid)
            keeper.say_started(main, "u1", cgroup=f"{cgroup}/a")
            fcntl.flock(lock, fcntl.LOCK_EX)
            keeper.die()
            await until_gone(processes)
            assert [process.wait(DEADLINE_S) for process in (main, stray)] == [-9, -9]


async def test_an_older_keeper_is_asked_for_nothing_that_it_does_not_know() -> None:
    keeper = FakeKeeper(version=1)
    async with connected(keeper) as processes:
        contained = await processes.contain("me")
        assert (contained.path, contained.controllers) == ("", ())
        assert contained.problem == "the keeper is older than its brain: formation-agent reexec"
        processes.ready("up")
        processes.status("fine")
        processes.again()
        processes.bye()
        assert await keeper.hear() == {"op": "bye"}
        keeper.die()


async def test_what_the_brain_has_to_say_of_itself_reaches_the_keeper(keeper: FakeKeeper) -> None:
    async with connected(keeper) as processes:
        processes.ready("up")
        processes.status("fine")
        processes.again()
        heard = [await keeper.hear() for _ in range(3)]
        assert heard == [
            {"op": "ready", "status": "up"},
            {"op": "status", "text": "fine"},
            {"op": "again"},
        ]


async def test_a_reload_is_an_event(keeper: FakeKeeper) -> None:
    async with connected(keeper) as processes:
        keeper.say(op="reload")
        assert await asyncio.wait_for(anext(processes.events()), DEADLINE_S) == Reload()


async def test_who_asked_for_a_probe_alone_hears_of_it(keeper: FakeKeeper) -> None:
    async with connected(keeper) as processes:
        heard: asyncio.Queue[Event] = asyncio.Queue()
        env = {"PATH": os.defpath}
        processes.spawn("probe:1", argv=["true"], env=env, cwd="/", on_event=heard.put_nowait)
        assert (await keeper.hear())["key"] == "probe:1"
        with running("true") as process:
            keeper.say_started(process, "u1", key="probe:1")
            assert isinstance(await asyncio.wait_for(heard.get(), DEADLINE_S), Started)
            keeper.say_exited("probe:1", empty=True)
            assert isinstance(await asyncio.wait_for(heard.get(), DEADLINE_S), Exited)
            assert await keeper.hear() == {"op": "forget", "key": "probe:1"}
        keeper.say(op="reload")
        assert await asyncio.wait_for(anext(processes.events()), DEADLINE_S) == Reload()


async def test_a_probe_that_cannot_be_started_is_told_of_after_it_was_asked_for(
    keeper: FakeKeeper,
) -> None:
    async with connected(keeper) as processes:
        heard: list[Event] = []
        processes.spawn("probe:1", argv=["no-such"], env={}, cwd="/", on_event=heard.append)
        assert heard == []
        await eventually(lambda: heard)
        assert heard == [SpawnFailed(key="probe:1", reason="command not found: no-such")]


async def test_an_error_in_one_probe_harms_nothing_else(keeper: FakeKeeper) -> None:
    def fail(_event: Event) -> None:
        raise ValueError("a mistake")

    async with connected(keeper) as processes:
        processes.spawn("probe:1", argv=["true"], env={}, cwd="/", on_event=fail)
        keeper.say(op="spawn_failed", key="probe:1", reason="no")
        keeper.say(op="reload")
        assert await asyncio.wait_for(anext(processes.events()), DEADLINE_S) == Reload()


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"signal": 9, "oom_killed": True}, "out of memory (signal KILL)"),
        ({"code": 1, "oom_killed": True}, "out of memory (exit 1)"),
        ({"signal": 9}, "signal KILL"),
    ],
)
def test_a_death_for_want_of_memory_is_told_apart(how: dict[str, Any], text: str) -> None:
    fields = {"code": None, "signal": None, "core_dumped": False, "empty": True, **how}
    assert describe_exit(Exited(key="a:1", **fields)) == text


def test_a_process_between_two_programs_has_not_lost_its_environment() -> None:
    mark = new_id()
    for _ in range(50):
        # It returns in the midst of the exec.
        pid = os.posix_spawnp("sleep", ["sleep", "1000"], {"FORMATION_INSTANCE": mark})
        found = procfs.awaited_environment(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert procfs.variable_in(found, b"FORMATION_INSTANCE") == mark.encode()


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
