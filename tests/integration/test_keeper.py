"""A real keeper, real processes, a brain led by the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from keeper_rig import NOBODY, Brain, KeeperRig, gone, inside, keeper_rig

from formation_agent import procfs
from formation_agent.processes import Exited, describe_exit, kill_leftovers

AS_ROOT = os.geteuid() == 0
USERS = [(), pytest.param(NOBODY, marks=pytest.mark.skipif(not AS_ROOT, reason="needs root"))]


async def started(rig: KeeperRig, brain: Brain, key: str, *argv: str) -> int:
    rig.spawn(brain, key, *argv)
    event = await brain.event("Started", key)
    return int(event["pid"])


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("user", USERS, ids=["self", "nobody"])
async def test_fifty_children_start_and_stop_and_leave_no_zombie(user: tuple[str, ...]) -> None:
    async with keeper_rig(user) as rig:
        brain = await rig.brain()
        keys = [f"u{number}:1" for number in range(50)]
        pids = [await started(rig, brain, key, "sleep", "1000") for key in keys]
        assert len(set(pids)) == 50
        for key in keys:
            brain.tell("signal", key, signum=signal.SIGTERM)
        exits = [await brain.event("Exited", key) for key in keys]
        assert {event["described"] for event in exits} == {"signal TERM"}
        assert all(event["empty"] for event in exits)
        assert children_of(rig.pid) == [brain.pid]


@pytest.mark.parametrize("user", USERS, ids=["self", "nobody"])
async def test_children_outlive_a_killed_brain_and_the_next_one_hears_of_them(
    user: tuple[str, ...],
) -> None:
    async with keeper_rig(user) as rig:
        first = await rig.brain()
        stays = await started(rig, first, "stays:1", "sh", "-c", "read x </dev/zero; sleep 1000")
        leaves = await started(rig, first, "leaves:1", "sleep", "1000")
        os.kill(first.pid, signal.SIGKILL)
        os.kill(leaves, signal.SIGTERM)
        second = await rig.brain()
        assert set(second.children) == {"stays:1", "leaves:1"}
        assert second.children["stays:1"]["pid"] == stays
        assert second.children["stays:1"]["start_ticks"] == procfs.start_ticks(stays)
        # It ended before the second brain said hello, or after.
        exited = second.children["leaves:1"]["exited"] or await second.event("Exited", "leaves:1")
        assert exited["signal"] == signal.SIGTERM


async def test_an_exit_while_no_brain_is_there_is_kept_until_a_brain_forgets_it() -> None:
    async with keeper_rig() as rig:
        first = await rig.brain()
        pid = await started(rig, first, "a:1", "sh", "-c", "read x; exit 3")
        await first.event("Exited", "a:1")
        os.kill(first.pid, signal.SIGKILL)
        second = await rig.brain()
        child = second.children["a:1"]
        assert (child["pid"], child["empty"]) == (pid, True)
        assert child["exited"]["code"] == 3
        second.tell("forget", "a:1")
        await started(rig, second, "b:1", "sleep", "1000")  # so that forget was obeyed
        os.kill(second.pid, signal.SIGKILL)
        third = await rig.brain()
        assert set(third.children) == {"b:1"}


async def test_output_survives_the_brain() -> None:
    async with keeper_rig() as rig:
        first = await rig.brain()
        fifo = rig.directory / "go"
        os.mkfifo(fifo)
        await started(
            rig, first, "a:1", "sh", "-c", f"echo one; read x <{fifo}; echo two; echo E >&2"
        )
        await first.until(lambda: first.output["a:1", "stdout"] == b"one\n")
        os.kill(first.pid, signal.SIGKILL)
        await gone(first.pid)
        fifo.write_text("go\n")
        second = await rig.brain()
        assert await second.text("a:1") == "two\n"
        assert await second.text("a:1", "stderr") == "E\n"


async def test_a_killed_keeper_takes_every_child_with_it() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        pids = [await started(rig, brain, f"u{n}:1", "sleep", "1000") for n in range(10)]
        rig.spawn(brain, "tree:1", "sh", "-c", "setsid sleep 1000 & sleep 1000 & echo $!; wait")
        await brain.until(lambda: brain.output["tree:1", "stdout"].endswith(b"\n"))
        grandchild = int(brain.output["tree:1", "stdout"])
        rig.keeper.kill()
        await brain.event("KeeperGone")
        await gone(*pids, grandchild, brain.pid)
        assert kill_leftovers(rig.agent_id) == []


async def test_a_signal_reaches_grandchildren_in_the_group() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await started(rig, brain, "a:1", "sh", "-c", "sleep 1000 & echo $!; wait")
        await brain.until(lambda: brain.output["a:1", "stdout"].endswith(b"\n"))
        grandchild = int(brain.output["a:1", "stdout"])
        brain.tell("signal", "a:1", signum=signal.SIGTERM)
        await brain.event("Exited", "a:1")
        await gone(grandchild)


async def test_a_signal_to_the_main_process_alone_spares_the_rest() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await started(rig, brain, "a:1", "sh", "-c", "sleep 1000 & echo $!; wait")
        await brain.until(lambda: brain.output["a:1", "stdout"].endswith(b"\n"))
        grandchild = int(brain.output["a:1", "stdout"])
        brain.tell("signal", "a:1", signum=signal.SIGTERM, whole_group=False)
        event = await brain.event("Exited", "a:1")
        assert not event["empty"]
        assert state(grandchild) in "RS"  # alive: asleep, or not yet


@pytest.mark.parametrize("leaves_by", ["", "setsid"], ids=["in the group", "in its own session"])
async def test_a_tree_is_empty_only_when_what_the_main_process_left_is_gone(leaves_by: str) -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        script = f"{leaves_by} sleep 1000 >/dev/null 2>&1 & exit 3"
        rig.spawn(brain, "a:1", "sh", "-c", script)
        event = await brain.event("Exited", "a:1")
        assert (event["code"], event["empty"]) == (3, False)
        brain.tell("forget", "a:1")  # the exit; the tree is still watched
        brain.tell("signal", "a:1", signum=signal.SIGKILL)
        await brain.event("TreeEmpty", "a:1")
        assert children_of(rig.pid) == [brain.pid]


async def test_every_failure_to_start_says_why() -> None:
    async with keeper_rig() as rig:
        (rig.directory / "plain").write_text("x")
        bad = rig.directory / "bad"
        bad.write_text("#!/no/such/interpreter\n")
        bad.chmod(0o755)
        brain = await rig.brain()
        here = str(rig.directory)
        stories = [
            (("no-such-program",), "/", "command not found: no-such-program"),
            (("./no-such",), here, "command not found: ./no-such"),
            (("sleep", "1"), "/no/where", "working directory does not exist: /no/where"),
            (("no-such",), "/no/where", "working directory does not exist: /no/where"),
            (("sleep", "1"), "/etc/passwd", "working directory is not a directory: /etc/passwd"),
            (("./plain",), here, "permission denied: ./plain"),
            ((here,), "/", f"is a directory: {here}"),
            (("./bad",), here, f"its interpreter does not exist: {here}/./bad"),
            (("sleep", "1\0"), "/", "cannot run sleep: embedded null byte"),
            (("sleep", "x" * 200_000), "/", "arguments and environment are too long: sleep"),
        ]
        for number, (argv, cwd, reason) in enumerate(stories):
            rig.spawn(brain, f"u{number}:1", *argv, cwd=cwd)
            event = await brain.event("SpawnFailed", f"u{number}:1")
            assert event["reason"] == reason
        assert len(os.listdir(inside(rig.pid) / "fd")) < 16  # nothing left open


async def test_a_script_without_an_interpreter_line_runs_in_sh() -> None:
    async with keeper_rig() as rig:
        script = rig.directory / "run"
        script.write_text('echo "$0 $1"\n')
        script.chmod(0o755)
        brain = await rig.brain()
        rig.spawn(brain, "a:1", "./run", "x y", cwd=str(rig.directory))
        assert await brain.text("a:1") == f"{rig.directory}/./run x y\n"


async def test_the_environment_is_made_from_scratch() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        rig.spawn(brain, "a:1", "env", "-0", GREETING="grüß\nGott", RAW="\udcff")
        await brain.event("Exited", "a:1")
        await brain.until(lambda: ("a:1", "stdout") in brain.closed_streams)
        written = brain.output["a:1", "stdout"].rstrip(b"\0").split(b"\0")
        expected = rig.env("a:1", GREETING="grüß\nGott", RAW="\udcff")
        assert sorted(written) == sorted(
            f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in expected.items()
        )


async def test_an_environment_of_two_megabytes_arrives() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        big = {f"BIG_{number}": "x" * 100_000 for number in range(15)}
        rig.spawn(brain, "a:1", "sh", "-c", "echo ${#BIG_0} ${#BIG_14}", options=None, **big)
        assert await brain.text("a:1") == "100000 100000\n"


async def test_a_child_gets_no_descriptor_of_ours() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await started(rig, brain, "other:1", "sleep", "1000")
        script = (
            "import os; print(sorted(os.listdir('/proc/self/fd')), os.readlink('/proc/self/fd/0'))"
        )
        rig.spawn(brain, "a:1", sys.executable, "-c", script)
        # 3 is the listing itself.
        assert await brain.text("a:1") == "['0', '1', '2', '3'] /dev/null\n"


async def test_a_child_gets_default_signals_and_a_session_of_its_own() -> None:
    async with keeper_rig(("sh", "-c", 'trap "" INT HUP USR1; exec "$@"', "sh")) as rig:
        brain = await rig.brain()
        script = "import os; print(os.getpid() == os.getsid(0) == os.getpgid(0))"
        rig.spawn(brain, "a:1", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
        rig.spawn(brain, "b:1", sys.executable, "-c", script)
        lines = (await brain.text("a:1")).splitlines()
        blocked, ignored = (int(line.split()[1], 16) for line in lines)
        # 32 and 33 are the C library's own.
        assert (blocked, ignored & ~(0b11 << 31)) == (0, 0)
        assert await brain.text("b:1") == "True\n"


async def test_a_child_gets_the_limit_of_open_files_that_the_keeper_came_with() -> None:
    async with keeper_rig(("sh", "-c", 'ulimit -Sn 300; exec "$@"', "sh")) as rig:
        brain = await rig.brain()
        keys = [f"u{number}:1" for number in range(120)]  # three descriptors each
        for key in keys:
            rig.spawn(brain, key, "sleep", "1000")
        for key in keys:
            await brain.event("Started", key)
        rig.spawn(brain, "a:1", "sh", "-c", "ulimit -Sn")
        assert await brain.text("a:1") == "300\n"


async def test_ctrl_c_asks_then_urges_then_kills() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        stubborn = await started(rig, brain, "a:1", "sh", "-c", 'trap "" TERM INT; sleep 1000')
        rig.keeper.send_signal(signal.SIGINT)
        await brain.until(lambda: [e["event"] for e in brain.events].count("Terminate") == 1)
        rig.keeper.send_signal(signal.SIGINT)
        await brain.until(lambda: [e["event"] for e in brain.events].count("Terminate") == 2)
        asked = [event for event in brain.events if event["event"] == "Terminate"]
        assert [event["urgent"] for event in asked] == [False, True]
        assert not any(event["drain"] for event in asked)
        rig.keeper.send_signal(signal.SIGINT)
        assert await rig.exit_code() == 128 + signal.SIGINT
        await gone(stubborn, brain.pid)


async def test_a_brain_that_comes_back_hears_that_the_agent_shall_end() -> None:
    async with keeper_rig() as rig:
        first = await rig.brain()
        await started(rig, first, "a:1", "sleep", "1000")
        rig.keeper.send_signal(signal.SIGTERM)
        await first.event("Terminate")
        os.kill(first.pid, signal.SIGKILL)
        second = await rig.brain()
        asked = await second.event("Terminate")
        assert (asked["urgent"], asked["drain"]) == (False, True)


async def test_the_keeper_stops_the_children_itself_when_no_brain_lives_to_do_it() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        pid = await started(rig, brain, "a:1", "sleep", "1000")
        rig.keeper.send_signal(signal.SIGTERM)
        for _ in range(2):
            await brain.event("Terminate")
            os.kill(brain.pid, signal.SIGKILL)
            brain = await rig.brain()
        os.kill(brain.pid, signal.SIGKILL)
        assert await rig.exit_code() == 1
        await gone(pid)


async def test_a_state_directory_has_one_keeper() -> None:
    async with keeper_rig() as rig, keeper_rig() as other:
        path = str(rig.directory / "lock")
        first = await rig.brain()
        first.tell("lock", path=path)
        assert (await first.event("Locked"))["by"] is None
        refused = await other.brain()
        refused.tell("lock", path=path)
        assert (await refused.event("Locked"))["by"] == f"process {rig.pid}"
        os.kill(first.pid, signal.SIGKILL)
        second = await rig.brain()
        second.tell("lock", path=path)
        assert (await second.event("Locked"))["by"] is None


@pytest.mark.parametrize("user", USERS, ids=["self", "nobody"])
async def test_no_exit_of_a_fast_process_is_lost(user: tuple[str, ...]) -> None:
    async with keeper_rig(user) as rig:
        brain = await rig.brain()
        keys = [f"u{number}:1" for number in range(200)]
        for key in keys:
            rig.spawn(brain, key, "/bin/sh", "-c", "exit 5")
        for key in keys:
            event = await brain.event("Exited", key)
            assert event["code"] == 5
            brain.tell("forget", key)
        await started(rig, brain, "last:1", "sleep", "1000")
        assert len(children_of(rig.pid)) == 2
        assert all(state(pid) != "Z" for pid in children_of(rig.pid))


async def test_no_exit_is_lost_when_the_brain_is_killed_again_and_again() -> None:
    async with keeper_rig() as rig:
        seen: dict[str, int] = {}
        for life in range(5):
            brain = await rig.brain()
            seen |= {
                key: child["exited"]["code"]
                for key, child in brain.children.items()
                if child["exited"]
            }
            keys = [f"life{life}-{number}:1" for number in range(20)]
            for number, key in enumerate(keys):
                rig.spawn(brain, key, "sh", "-c", f"exit {number}")
            await brain.event("Started", keys[-1])
            os.kill(brain.pid, signal.SIGKILL)
        brain = await rig.brain()
        for life in range(5):
            for number in range(20):
                key = f"life{life}-{number}:1"
                exited = brain.children[key]["exited"] or await brain.event("Exited", key)
                assert exited["code"] == number
                assert seen.get(key, number) == number


async def test_a_finished_brain_ends_the_keeper_and_what_is_left() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        pid = await started(rig, brain, "a:1", "sleep", "1000")
        brain.tell("exit", code=0)
        assert await rig.exit_code() == 0
        await gone(pid)


async def test_a_brain_that_said_bye_may_crash_on_its_way_out() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        brain.tell("bye")
        brain.tell("exit", code=139)
        assert await rig.exit_code() == 0


@pytest.mark.parametrize("code", [2, 78])
def test_a_refused_configuration_is_the_keepers_exit_code(code: int) -> None:
    brain = [sys.executable, "-c", f"raise SystemExit({code})"]
    script = "import sys; from formation_agent.keeper import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", script, *brain], timeout=20, check=False)
    assert done.returncode == code


async def test_a_refusal_ends_nothing_while_children_live() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        pid = await started(rig, brain, "a:1", "sleep", "1000")
        brain.tell("exit", code=78)
        next_brain = await rig.brain()
        assert next_brain.children["a:1"]["pid"] == pid
        assert state(pid) == "S"


async def test_leftovers_of_a_killed_keeper_and_brain_are_found_and_nothing_else() -> None:
    async with keeper_rig() as rig, keeper_rig() as other:
        brain, spared_brain = await rig.brain(), await other.brain()
        pid = await started(rig, brain, "a:1", "sh", "-c", "setsid sleep 1000 & sleep 1000")
        spared = await started(other, spared_brain, "a:1", "sleep", "1000")
        os.kill(brain.pid, signal.SIGSTOP)  # so that it cannot be the dead man's switch
        rig.keeper.kill()
        os.kill(brain.pid, signal.SIGKILL)
        killed = kill_leftovers(rig.agent_id)
        assert pid in killed
        assert len(killed) == 3
        await gone(*killed)
        assert kill_leftovers(rig.agent_id) == []
        assert state(spared) == "S"


def test_exits_are_described_for_people() -> None:
    def exited(code: int | None, number: int | None, *, core: bool = False) -> Exited:
        return Exited(key="k", code=code, signal=number, core_dumped=core, empty=True)

    assert describe_exit(exited(1, None)) == "exit 1"
    assert describe_exit(exited(None, signal.SIGKILL)) == "signal KILL"
    assert describe_exit(exited(None, signal.SIGSEGV, core=True)) == "signal SEGV (core dumped)"
    assert describe_exit(exited(None, 40)) == "signal 40"
