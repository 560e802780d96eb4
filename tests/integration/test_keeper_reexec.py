"""A real keeper that becomes the program on disk, in place, with real processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from eventually import eventually
from keeper_rig import NOBODY, Brain, KeeperRig, gone, inside, keeper_rig

from formation_agent import takeover
from formation_agent.reexec import reexecute
from formation_agent.statedir import LOCK_NAME, RefusedError

AS_ROOT = os.geteuid() == 0
_RUN = "import sys; from formation_agent.keeper import run; sys.exit(run(sys.argv[1:]))"
USERS = [(), pytest.param(NOBODY, marks=pytest.mark.skipif(not AS_ROOT, reason="needs root"))]


async def started(rig: KeeperRig, brain: Brain, key: str, *argv: str) -> int:
    rig.spawn(brain, key, *argv)
    return int((await brain.event("Started", key))["pid"])


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def leaves(brain: Brain) -> None:
    """It does what a brain does that was told `reload`."""
    await brain.event("Reload")
    brain.tell("again")
    brain.tell("exit", code=0)


async def reexecuted(rig: KeeperRig, brain: Brain) -> Brain:
    """The brain of the next program, which is up."""
    rig.keeper.send_signal(signal.SIGHUP)
    await leaves(brain)
    return await up(await rig.brain())


async def up(brain: Brain) -> Brain:
    brain.tell("ready", status="up")
    return brain


def programs(pid: int) -> bool:
    """Whether this process has taken over from a program before."""
    return takeover.STATE_VARIABLE.encode() in (inside(pid) / "environ").read_bytes()


@pytest.fixture
def shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is put here is found before the installed packages, also by nobody."""
    directory = tmp_path / "shadow"
    directory.mkdir()
    for path in (directory, *directory.parents[:2]):
        path.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(directory))
    return directory


@pytest.mark.parametrize("user", USERS, ids=["self", "nobody"])
async def test_children_their_output_and_their_exits_outlive_the_program(
    user: tuple[str, ...],
) -> None:
    async with keeper_rig(user) as rig:
        first = await rig.brain()
        fifo = rig.directory / "go"
        os.mkfifo(fifo, 0o777)
        fifo.chmod(0o777)
        talks = await started(
            rig, first, "talks:1", "sh", "-c", f"echo one; read x <{fifo}; echo two; exit 4"
        )
        await started(rig, first, "over:1", "sh", "-c", "exit 3")
        leaves_pid = await started(rig, first, "leaves:1", "sleep", "1000")
        await first.event("Exited", "over:1")
        rig.keeper.send_signal(signal.SIGHUP)
        await first.event("Reload")
        os.kill(first.pid, signal.SIGSTOP)
        os.kill(leaves_pid, signal.SIGTERM)
        fifo.write_text("go\n")
        await gone(talks, leaves_pid)
        os.kill(first.pid, signal.SIGKILL)
        second = await rig.brain()
        assert programs(rig.pid)
        exits = {
            key: child["exited"] or await second.event("Exited", key)
            for key, child in second.children.items()
        }
        assert (exits["talks:1"]["code"], exits["over:1"]["code"]) == (4, 3)
        assert exits["leaves:1"]["signal"] == signal.SIGTERM
        assert await second.text("talks:1") == "two\n"
        assert children_of(rig.pid) == [second.pid]


async def test_the_next_program_still_commands_what_the_one_before_started() -> None:
    async with keeper_rig() as rig:
        first = await rig.brain()
        script = "setsid sh -c 'trap \"\" TERM; echo up; while :; do sleep 0.02; done' & exit 0"
        await started(rig, first, "tree:1", "sh", "-c", script)
        plain = await started(rig, first, "plain:1", "sleep", "1000")
        await first.event("Exited", "tree:1")
        await first.until(lambda: first.output["tree:1", "stdout"] == b"up\n")
        first.tell("signal", "tree:1", signum=signal.SIGTERM)
        second = await reexecuted(rig, first)
        assert second.children["plain:1"]["pid"] == plain
        assert not second.children["tree:1"]["empty"]
        second.tell("signal", "tree:1", signum=signal.SIGKILL)
        await second.event("TreeEmpty", "tree:1")
        second.tell("signal", "plain:1", signum=signal.SIGTERM)
        assert (await second.event("Exited", "plain:1"))["empty"]
        for key in ("tree:1", "plain:1"):
            second.tell("forget", key)
        third = await reexecuted(rig, second)
        assert third.children == {}


async def descriptors(pid: int) -> int:
    """How many it has open when nothing is under way any more: the same for a while."""
    found, looks = -1, 0
    while looks < 10:
        before, found = found, len(os.listdir(inside(pid) / "fd"))
        looks = looks + 1 if found == before else 0
        await asyncio.sleep(0.02)
    return found


async def test_no_descriptor_is_lost_or_leaked_however_often_it_is_done() -> None:
    async with keeper_rig(("sh", "-c", 'ulimit -Sn 300; exec "$@"', "sh")) as rig:
        brain = await rig.brain()
        keys = [f"u{number}:1" for number in range(120)]  # three descriptors each
        for key in keys:
            rig.spawn(brain, key, "sleep", "1000")
        for key in keys:
            await brain.event("Started", key)
        # How many are put away by now depends on how busy it was; the first one does it with all.
        brain = await reexecuted(rig, brain)
        before = await descriptors(rig.pid)
        for _ in range(3):
            brain = await reexecuted(rig, brain)
        assert set(brain.children) == set(keys)
        assert await descriptors(rig.pid) == before
        # The limit that the first program came with, and none of our descriptors.
        rig.spawn(brain, "a:1", "sh", "-c", "ulimit -Sn; exec ls -x /proc/self/fd")
        assert (await brain.text("a:1")).split() == ["300", "0", "1", "2", "3"]


async def test_hangups_in_a_row_are_obeyed_and_harm_nothing() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        pid = await started(rig, brain, "a:1", "sleep", "1000")
        for _ in range(10):
            rig.keeper.send_signal(signal.SIGHUP)
        await leaves(brain)
        brain = await rig.brain()
        rig.keeper.send_signal(signal.SIGHUP)  # may mean a program that is newer still
        await leaves(brain)
        brain = await rig.brain()
        while (pending := brain.events) and any(e["event"] == "Reload" for e in pending):
            await leaves(brain)
            brain = await rig.brain()
        assert brain.children["a:1"]["pid"] == pid
        assert state(pid) == "S"


async def test_a_broken_program_on_disk_is_refused_and_everything_goes_on(shadow: Path) -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        lock = rig.directory / LOCK_NAME
        brain.tell("lock", path=str(lock))
        pid = await started(rig, brain, "a:1", "sleep", "1000")
        package = shadow / "formation_agent"
        package.mkdir()
        (package / "__init__.py").write_text("raise ImportError('half an upgrade')\n")
        rig.keeper.send_signal(signal.SIGHUP)
        why = "the program on disk cannot take over: ImportError: half an upgrade"
        await eventually(lambda: f"everything goes on as before: {why}" in rig.said)
        assert lock.read_text() == f"process {rig.pid}\nre-execution 1: refused: {why}\n"
        # The same brain goes on, and once the program is whole it takes over.
        assert await started(rig, brain, "b:1", "sleep", "1000")
        shutil.rmtree(package)
        brain = await reexecuted(rig, brain)
        assert brain.children["a:1"]["pid"] == pid
        await eventually(lambda: lock.read_text().endswith("\nre-execution 2: ready\n"))


async def test_a_program_that_cannot_be_executed_after_all_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    python = tmp_path / "python"
    python.symlink_to(Path(sys.executable).resolve())
    async with keeper_rig(("sh", "-c", f'shift; exec {python} "$@"', "sh")) as rig:
        brain = await rig.brain()
        pid = await started(rig, brain, "a:1", "sleep", "1000")
        rig.keeper.send_signal(signal.SIGHUP)
        await brain.event("Reload")
        python.unlink()
        await leaves(brain)
        brain = await rig.brain()
        assert "cannot execute the program on disk: [Errno 2]" in rig.said
        assert not programs(rig.pid)
        assert brain.children["a:1"]["pid"] == pid
        # It still hears signals, reaps, and leaks nothing into children.
        os.kill(pid, signal.SIGKILL)
        await brain.event("Exited", "a:1")
        rig.spawn(brain, "b:1", "sh", "-c", "exec ls -x /proc/self/fd")
        assert (await brain.text("b:1")).split() == ["0", "1", "2", "3"]
        rig.keeper.send_signal(signal.SIGTERM)
        await brain.event("Terminate")


async def test_a_request_to_end_before_the_program_is_executed_goes_first() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await started(rig, brain, "a:1", "sleep", "1000")
        rig.keeper.send_signal(signal.SIGHUP)
        await brain.event("Reload")
        rig.keeper.send_signal(signal.SIGTERM)
        await brain.event("Terminate")
        await leaves(brain)
        brain = await rig.brain()
        assert not programs(rig.pid)
        assert not (await brain.event("Terminate"))["urgent"]
        brain.tell("bye")
        brain.tell("exit", code=0)
        assert await rig.exit_code() == 0


async def test_a_request_to_end_while_the_program_changes_is_not_lost(shadow: Path) -> None:
    """The new program waits for us before it can have any handler for signals."""
    here, go = shadow / "here", shadow / "go"
    (shadow / "sitecustomize.py").write_text(
        "import os, time\n"
        f"if {takeover.STATE_VARIABLE!r} in os.environ:\n"
        f"    open({str(here)!r}, 'w').close()\n"
        f"    while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
    )
    async with keeper_rig() as rig:
        brain = await rig.brain()
        pid = await started(rig, brain, "a:1", "sleep", "1000")
        rig.keeper.send_signal(signal.SIGHUP)
        await leaves(brain)
        await eventually(here.exists)
        rig.keeper.send_signal(signal.SIGTERM)
        rig.keeper.send_signal(signal.SIGHUP)
        os.kill(pid, signal.SIGKILL)
        go.touch()
        brain = await rig.brain()
        assert not (await brain.event("Terminate"))["urgent"]
        exited = brain.children["a:1"]["exited"] or await brain.event("Exited", "a:1")
        assert exited["signal"] == signal.SIGKILL


async def test_a_brain_that_does_not_go_is_killed_and_nothing_else_is() -> None:
    async with keeper_rig(silence_s=0.3) as rig:
        brain = await rig.brain()
        pid = await started(rig, brain, "a:1", "sleep", "1000")
        os.kill(brain.pid, signal.SIGSTOP)
        rig.keeper.send_signal(signal.SIGHUP)
        brain = await rig.brain()
        assert programs(rig.pid)
        assert "the brain has not gone within 0.3 s: killed" in rig.said
        assert brain.children["a:1"]["pid"] == pid


async def test_a_brain_that_says_bye_while_it_shall_go_ends_the_keeper() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        pid = await started(rig, brain, "a:1", "sleep", "1000")
        rig.keeper.send_signal(signal.SIGHUP)
        await brain.event("Reload")
        brain.tell("bye")
        brain.tell("exit", code=0)
        assert await rig.exit_code() == 0
        await gone(pid)


async def test_a_keeper_without_a_brain_becomes_the_next_program_at_once(tmp_path: Path) -> None:
    brain = ["/bin/sh", "-c", f'[ -n "${takeover.CHECK_VARIABLE}" ] || exit 3']
    said = tmp_path / "stderr"
    with said.open("wb") as stderr:
        keeper = subprocess.Popen(  # noqa: ASYNC220  returns at once
            [sys.executable, "-c", _RUN, *brain], stderr=stderr
        )
    try:
        await eventually(lambda: "starting it again in 1.6 s" in said.read_text())
        keeper.send_signal(signal.SIGHUP)
        await eventually(lambda: programs(keeper.pid))
        await eventually(lambda: said.read_text().count("starting it again in 0 s") == 2)
    finally:
        keeper.kill()
        keeper.wait()


# -- formation-agent reexec ------------------------------------------------------------------------


async def test_who_asks_for_it_hears_how_it_went(shadow: Path) -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        brain.tell("lock", path=str(rig.directory / LOCK_NAME))
        await brain.event("Locked")
        asking = reexecute(rig.directory)
        assert next(asking) == f"re-executing process {rig.pid}"
        await leaves(brain)
        brain = await up(await rig.brain())
        await brain.until(lambda: True)
        assert next(asking).startswith(f"process {rig.pid} is the new program, after 0.")
        (shadow / "formation_agent.py").write_text("raise SystemExit('not today')\n")
        asking = reexecute(rig.directory)
        next(asking)
        with pytest.raises(RefusedError, match=r"goes on as before: .* take over: not today"):
            next(asking)


async def test_the_lock_is_held_while_the_program_changes(shadow: Path) -> None:
    here = shadow / "here"
    (shadow / "sitecustomize.py").write_text(
        "import os, time\n"
        f"if {takeover.STATE_VARIABLE!r} in os.environ:\n"
        f"    open({str(here)!r}, 'w').close()\n"
        f"    while os.path.exists({str(here)!r}): time.sleep(0.01)\n"
    )
    async with keeper_rig() as rig, keeper_rig() as other:
        lock = str(rig.directory / LOCK_NAME)
        brain, refused = await rig.brain(), await other.brain()
        brain.tell("lock", path=lock)
        await brain.event("Locked")
        rig.keeper.send_signal(signal.SIGHUP)
        await leaves(brain)
        await eventually(here.exists)
        refused.tell("lock", path=lock)
        assert (await refused.event("Locked"))["by"] == f"process {rig.pid}"
        with pytest.raises(RefusedError, match=r"did not react within 0\.1 s"):
            list(reexecute(rig.directory, within_s=0.1))
        here.unlink()
        brain = await rig.brain()
        brain.tell("lock", path=lock)
        assert (await brain.event("Locked"))["by"] is None


async def test_where_no_agent_runs_this_is_said(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=f"no agent runs on {tmp_path}"):
        list(reexecute(tmp_path))
    (tmp_path / LOCK_NAME).write_text(f"process {os.getpid()}\n")
    with pytest.raises(RefusedError, match=f"no agent runs on {tmp_path}"):
        list(reexecute(tmp_path))


_HOLDER = """
import fcntl, signal, sys
lock = open(sys.argv[1], "w"); fcntl.flock(lock, fcntl.LOCK_EX); print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "holds the lock and is no formation-agent"),
        (("formation-agent",), "is of a version that cannot re-execute itself"),
    ],
)
def test_what_does_not_know_the_signal_never_gets_it(
    tmp_path: Path, words: tuple[str, ...], why: str
) -> None:
    path = tmp_path / LOCK_NAME
    command = [sys.executable, "-c", _HOLDER, str(path), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RefusedError, match=why):
            list(reexecute(tmp_path))
        holder.communicate()
    assert holder.returncode == 0


@pytest.mark.skipif(not AS_ROOT, reason="needs root to become somebody else")
async def test_the_agent_of_another_user_is_left_alone() -> None:
    script = "import sys; from formation_agent.reexec import main; sys.exit(main(sys.argv[1:]))"
    async with keeper_rig() as rig:
        brain = await rig.brain()
        lock = rig.directory / LOCK_NAME
        brain.tell("lock", path=str(lock))
        await brain.event("Locked")
        words = [*NOBODY, sys.executable, "-c", script, "--state-dir", str(rig.directory)]
        done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True)
        assert done.returncode == 1
        why = "runs there and belongs to another user: run this as that user, or root"
        assert done.stderr == f"formation-agent: process {rig.pid} {why}\n"


# -- the programs' agreement -----------------------------------------------------------------------


def test_a_state_that_the_program_on_disk_does_not_know_is_refused() -> None:
    env = {**os.environ, takeover.CHECK_VARIABLE: "999"}
    words = [sys.executable, "-c", _RUN, "/bin/true"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr == "it does not read the running keeper's state (version 999)\n"


@pytest.mark.parametrize(("brain", "code"), [("/bin/true", 0), ("/bin/false", 1)])
def test_the_brains_program_is_asked_too(brain: str, code: int) -> None:
    env = {**os.environ, takeover.CHECK_VARIABLE: str(takeover.VERSION)}
    done = subprocess.run([sys.executable, "-c", _RUN, brain], env=env, timeout=20, check=False)
    assert done.returncode == code


def test_a_program_that_cannot_take_over_leaves_nothing_behind() -> None:
    """It has come as far as being executed, and no brain is there to kill what it leaves."""
    script = f"""
import os, subprocess, sys
child = subprocess.Popen(["sh", "-c", "setsid sleep 1000 & echo $!; exec sleep 1000"],
                         stdout=subprocess.PIPE)
print(child.pid, child.stdout.readline().decode(), flush=True)
memory = os.memfd_create("state", 0)
os.write(memory, b'{{"version": 1, "children": [{{}}]}}')
env = {{**os.environ, {takeover.STATE_VARIABLE!r}: str(memory)}}
os.execve(sys.executable, [sys.executable, "-c", {_RUN!r}, "/bin/true"], env)
"""
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "killing everything" in done.stderr
    for pid in map(int, done.stdout.split()):
        assert not Path(f"/proc/{pid}").exists()


def test_a_program_that_never_answers_is_given_up() -> None:
    script = f"""
import os, select, time
from formation_agent.preflight import Preflight
from formation_agent.spawn import Spawner
if {takeover.CHECK_VARIABLE!r} in os.environ:
    time.sleep(1000)
asked = Preflight(Spawner(), select.epoll(), print)
asked.give_up()
asked.ended(os.waitid(os.P_PID, asked.pid, os.WEXITED))
"""
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "it did not answer within 10 s\n"
