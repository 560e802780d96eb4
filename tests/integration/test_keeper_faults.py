"""A real keeper when things around it go wrong: hung brains, full tables, tracers, full disks."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from eventually import eventually
from keeper_rig import NOBODY, Brain, KeeperRig, gone, keeper_rig

from formation_agent import link

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_PTRACE_SEIZE, _WALL = 0x4206, 0x40000000
_HOG = """
import array, socket, sys
pairs = [socket.socketpair() for _ in range(3)]
for a, _ in pairs:
    a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 200))])
print("ready", flush=True)
sys.stdin.read()
"""


async def started(rig: KeeperRig, brain: Brain, key: str, *argv: str) -> int:
    rig.spawn(brain, key, *argv)
    return int((await brain.event("Started", key))["pid"])


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


async def test_a_brain_that_a_real_time_signal_killed_is_started_again() -> None:
    async with keeper_rig() as rig:
        first = await rig.brain()
        pid = await started(rig, first, "a:1", "sleep", "1000")
        os.kill(first.pid, signal.SIGRTMIN + 6)
        second = await rig.brain()
        assert second.children["a:1"]["pid"] == pid
        assert f"signal {signal.SIGRTMIN + 6}" in rig.said


BYE = 'os.write(3, b\'{"op":"bye"}\')'
# A keeper with a mistake in it, made once.
MISTAKEN = """
import sys
from formation_agent import keeper

class Mistaken(keeper.Keeper):
    made = False

    def _reap(self):
        if not self.made:
            self.made = True
            raise RuntimeError("a mistake")
        super()._reap()

keeper.Keeper = Mistaken
sys.exit(keeper.run(sys.argv[1:]))
"""


def kept(brain: str, keeper: str) -> subprocess.CompletedProcess[str]:
    """A keeper of this script with a brain of that one, run to its end."""
    command = [sys.executable, "-c", keeper, sys.executable, "-c", f"import os; {brain}"]
    return subprocess.run(command, timeout=20, check=False, capture_output=True, text=True)


def test_an_error_in_the_keeper_is_said_and_survived() -> None:
    done = kept(BYE, MISTAKEN)
    assert done.returncode == 0
    assert "an error of the keeper, which goes on: RuntimeError('a mistake')" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("nonsense", ["7", "[]", "null", "{", "\\xff", "[" * 5000])
def test_what_is_no_message_is_dropped_and_said(nonsense: str) -> None:
    keeper = "import sys; from formation_agent.keeper import run; sys.exit(run(sys.argv[1:]))"
    done = kept(f"os.write(3, b'{nonsense}'); {BYE}", keeper)
    assert done.returncode == 0
    assert "dropped a message of the brain that cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_hung_brain_that_shall_end_is_not_waited_for() -> None:
    async with keeper_rig(silence_s=0.5) as rig:
        brain = await rig.brain()
        pid = await started(rig, brain, "a:1", "sleep", "1000")
        os.kill(brain.pid, signal.SIGSTOP)
        rig.keeper.send_signal(signal.SIGTERM)
        assert await rig.exit_code() == 1
        await gone(pid)
        assert "the brain has not answered for 0.5 s" in rig.said


async def test_a_brain_that_answers_takes_the_time_it_needs_to_end() -> None:
    async with keeper_rig(silence_s=1.0) as rig:
        brain = await rig.brain()
        rig.keeper.send_signal(signal.SIGTERM)
        await brain.event("Terminate")
        rig.spawn(brain, "a:1", "sleep", "2")
        assert (await brain.event("Exited", "a:1"))["code"] == 0
        assert rig.keeper.poll() is None


@needs_root
async def test_too_many_descriptors_under_way_only_delay_what_the_keeper_says() -> None:
    limited = (*NOBODY, "prlimit", "--nofile=300:300")
    async with keeper_rig(limited) as rig:
        brain = await rig.brain()
        hog = subprocess.Popen(  # noqa: ASYNC220  returns at once
            [*NOBODY, sys.executable, "-c", _HOG], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert hog.stdout is not None
            assert await asyncio.to_thread(hog.stdout.readline) == b"ready\n"
            rig.spawn(brain, "a:1", "sh", "-c", "echo hello")
            await eventually(lambda: "cannot tell the brain now" in rig.said)
        finally:
            await asyncio.to_thread(hog.communicate)
        await brain.event("Exited", "a:1")
        assert await brain.text("a:1") == "hello\n"
        assert rig.said.count("cannot tell the brain now") == 1


async def test_a_stopped_terminal_does_not_stop_the_keeper() -> None:
    reader, writer = os.pipe()
    try:
        size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        assert os.write(writer, b"x" * size) == size
        async with keeper_rig(stderr=writer) as rig:
            first = await rig.brain()
            os.kill(first.pid, signal.SIGKILL)  # of which the keeper would like to tell
            await rig.brain()
    finally:
        os.close(reader)
        os.close(writer)


async def test_a_dead_child_that_a_tracer_holds_costs_no_time_and_is_reaped_later() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        pid = await started(rig, brain, "a:1", "sleep", "1000")
        if ctypes.CDLL(None).ptrace(_PTRACE_SEIZE, pid, 0, 0) != 0:
            pytest.skip("this machine allows no tracing")
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: state(pid) == "Z")
        await started(rig, brain, "b:1", "sleep", "1000")  # the keeper has been round its loop
        states = ""

        def rests() -> bool:
            nonlocal states
            states += state(rig.pid)
            return states.endswith("SSSSS")

        await eventually(rests)
        os.waitpid(pid, _WALL)  # noqa: ASYNC222  it is dead; only this thread may
        assert (await brain.event("Exited", "a:1"))["signal"] == signal.SIGKILL


async def test_a_lock_whose_text_cannot_be_written_holds() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        brain.tell("lock", path="/dev/full")
        assert (await brain.event("Locked"))["by"] is None


@pytest.mark.parametrize(
    ("path", "number"), [("/no/where/lock", errno.ENOENT), ("/tmp/\0", errno.EINVAL)]
)
async def test_a_lock_that_cannot_be_taken_is_answered(path: str, number: int) -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        brain.tell("lock", path=path)
        assert (await brain.event("LockFailed"))["errno"] == number


async def test_a_lock_is_waited_for_while_who_is_named_in_it_is_gone() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        dead = await asyncio.create_subprocess_exec("true")
        await dead.wait()
        path = rig.directory / "lock"
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(f"process {dead.pid}\n")
            lock.flush()
            brain.tell("lock", path=str(path))
            await started(rig, brain, "a:1", "sleep", "1000")  # after the keeper tried
        assert (await brain.event("Locked"))["by"] is None


async def test_a_start_that_the_keeper_refuses_is_answered() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await started(rig, brain, "a:1", "sleep", "1000")
        rig.spawn(brain, "a:1", "sleep", "1000")
        assert "a:1 runs already" in (await brain.event("SpawnFailed", "a:1"))["reason"]


async def test_a_start_whose_content_is_lost_is_answered() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        with no_more_files(rig.pid):
            rig.spawn(brain, "a:1", "sleep", "1", BIG="x" * 120_000, MORE="x" * 10)
            reason = (await brain.event("SpawnFailed", "a:1"))["reason"]
        assert "no descriptor was free" in reason


async def test_a_helper_whose_parent_lived_at_the_signal_gets_it_as_well() -> None:
    helper = """trap 'echo got it; exit' TERM; echo up; while :; do sleep 0.01; done"""
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await started(rig, brain, "a:1", "sh", "-c", 'setsid sh -c "$0" & wait', helper)
        await brain.until(lambda: brain.output["a:1", "stdout"] == b"up\n")
        brain.tell("signal", "a:1", signum=signal.SIGTERM)
        await brain.event("TreeEmpty", "a:1")
        assert await brain.text("a:1") == "up\ngot it\n"


async def test_a_tree_is_not_empty_because_the_keeper_could_not_look() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        pid = await started(rig, brain, "a:1", "sleep", "1000")
        with no_more_files(rig.pid):
            brain.tell("signal", "a:1", signum=signal.SIGKILL, whole_group=False)
            assert not (await brain.event("Exited", "a:1"))["empty"]
        await brain.event("TreeEmpty", "a:1")
        await gone(pid)


class no_more_files:  # noqa: N801  reads as what it does
    """In the block this process can open nothing."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    def __enter__(self) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, (0, self._limits[1]))

    def __exit__(self, *_: object) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, self._limits)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = link.pair()
    with ours, theirs:
        yield ours, theirs


def test_what_an_end_sent_before_it_died_arrives_although_it_left_some_unread(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    link.send(ours, {"op": "never read"})
    link.send(theirs, {"op": "first"})
    link.send(theirs, {"op": "second"})
    theirs.close()
    assert [link.receive(ours) for _ in range(3)] == [
        ({"op": "first"}, []),
        ({"op": "second"}, []),
        None,
    ]


def test_a_message_that_lost_its_content_says_whose_it_was(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    link.send(theirs, {"op": "spawn", "key": "a:1", "env": "x" * 200_000})
    with no_more_files(os.getpid()), pytest.raises(link.Lost) as lost:
        link.receive(ours)
    assert (lost.value.head["op"], lost.value.head["key"]) == ("spawn", "a:1")
