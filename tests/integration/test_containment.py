"""Trees in cgroups of their own: a real keeper, real processes, a brain led by the test.

Where this process may not make cgroups, these tests are skipped with the reason that people get.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import machine_cgroups
import pytest
from eventually import eventually
from keeper_rig import DEADLINE_S, NOBODY, Brain, Event, KeeperRig, gone, keeper_rig

from formation_agent import cgroups, procfs
from formation_agent.containment import Containment

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# Forks twice, leads a session, closes what it got, forgets its environment, says its pid.
STRAY = """
import ctypes, os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "stubborn" else signal.SIG_DFL)
if os.fork():
    os.wait()
    time.sleep(1000)
os.setsid()
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
sys.stdout.close()
for fd in range(3):
    os.close(fd)
os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(1000)"],
          dict(os.environ) if sys.argv[2] == "marked" else {})
"""


async def contained_child(rig: KeeperRig, brain: Brain, key: str, *argv: str) -> Event:
    rig.spawn(brain, key, *argv)
    return await brain.event("Started", key)


async def stray_of(rig: KeeperRig, brain: Brain, key: str, *how: str) -> int:
    rig.spawn(brain, key, sys.executable, "-c", STRAY, *how)
    await brain.until(lambda: brain.output[key, "stdout"].endswith(b"\n"))
    stray = int(brain.output[key, "stdout"])
    await eventually(lambda: procfs.parent(stray) == rig.pid)
    return stray


def cgroup_of(pid: int) -> str | None:
    return cgroups.own_path(Path(f"/proc/{pid}/cgroup").read_text())


async def test_every_tree_has_a_cgroup_while_it_lives_and_the_keeper_is_in_none() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        before = cgroup_of(rig.pid)
        path = await rig.contain(brain)
        first = await contained_child(rig, brain, "a:1", "sleep", "1000")
        second = await contained_child(rig, brain, "b:1", "sleep", "1000")
        assert first["cgroup"] == f"{path}/a%3a.1"
        assert cgroups.members(first["cgroup"]) == [first["pid"]]
        assert cgroups.members(second["cgroup"]) == [second["pid"]]
        assert cgroup_of(rig.pid) in {before, f"{before}/agent"}
        brain.tell("signal", "a:1", signum=signal.SIGTERM)
        assert (await brain.event("Exited", "a:1"))["empty"]
        assert os.listdir(path).count("a%3a.1") == 0
        assert cgroups.members(second["cgroup"]) == [second["pid"]]


async def test_a_kill_ends_what_left_group_session_parent_and_environment() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        path = await rig.contain(brain)
        stray = await stray_of(rig, brain, "a:1", "stubborn", "unmarked")
        brain.tell("signal", "a:1", signum=signal.SIGKILL, whole_group=False)
        assert not (await brain.event("Exited", "a:1"))["empty"]
        assert procfs.name(stray) is not None
        brain.tell("signal", "a:1", signum=signal.SIGKILL)
        await brain.event("TreeEmpty", "a:1")
        await gone(stray)
        assert "a%3a.1" not in os.listdir(path)


async def test_any_signal_reaches_what_left_group_session_parent_and_environment() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await rig.contain(brain)
        stray = await stray_of(rig, brain, "a:1", "mild", "unmarked")
        brain.tell("signal", "a:1", signum=signal.SIGTERM)
        await brain.event("Exited", "a:1")
        await gone(stray)
        await eventually(lambda: not os.path.exists(f"{rig.cgroups}/a%3a.1"))


async def test_the_end_of_what_a_main_process_left_is_heard_without_asking() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await rig.contain(brain)
        stray = await stray_of(rig, brain, "a:1", "mild", "unmarked")
        brain.tell("signal", "a:1", signum=signal.SIGKILL, whole_group=False)
        await brain.event("Exited", "a:1")
        os.kill(stray, signal.SIGKILL)
        await brain.event("TreeEmpty", "a:1")


async def test_cgroups_that_a_tree_made_below_its_own_go_with_it() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await rig.contain(brain)
        own = f"{rig.cgroups}/a%3a.1"
        script = f"mkdir -p {own}/x/y; sleep 1000 & echo $! >{own}/x/y/cgroup.procs; echo $!; wait"
        rig.spawn(brain, "a:1", "sh", "-c", script)
        await brain.until(lambda: brain.output["a:1", "stdout"].endswith(b"\n"))
        deep = int(brain.output["a:1", "stdout"])
        assert cgroups.members(f"{own}/x/y") == [deep]
        brain.tell("signal", "a:1", signum=signal.SIGUSR1)
        await gone(deep)
        await eventually(lambda: not os.path.exists(own))


async def test_a_killed_keeper_takes_contained_trees_and_their_cgroups_with_it() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        path = await rig.contain(brain)
        stray = await stray_of(rig, brain, "a:1", "stubborn", "unmarked")
        orphan = await stray_of(rig, brain, "b:1", "stubborn", "unmarked")
        brain.tell("signal", "b:1", signum=signal.SIGKILL, whole_group=False)
        await brain.event("Exited", "b:1")
        rig.keeper.kill()
        await gone(stray, orphan, brain.pid)
        assert not os.path.exists(path)


async def test_what_both_left_when_they_were_killed_is_ended_by_the_next_start() -> None:
    async with keeper_rig() as rig, keeper_rig() as later:
        brain = await rig.brain()
        await rig.contain(brain)
        stray = await stray_of(rig, brain, "a:1", "stubborn", "unmarked")
        os.kill(brain.pid, signal.SIGSTOP)  # so that it does nothing about it
        rig.keeper.kill()
        os.kill(brain.pid, signal.SIGKILL)
        assert procfs.name(stray) is not None
        later.agent_id = rig.agent_id
        path = await later.contain(await later.brain())
        await gone(stray)
        assert "a%3a.1" not in os.listdir(path)
        assert "ended what an earlier agent had left in 1 cgroups" in later.said


async def test_a_brain_that_contains_anew_ends_nothing_that_the_keeper_has() -> None:
    async with keeper_rig() as rig:
        first = await rig.brain()
        path = await rig.contain(first)
        child = await contained_child(rig, first, "a:1", "sleep", "1000")
        os.kill(first.pid, signal.SIGKILL)
        second = await rig.brain()
        assert await rig.contain(second) == path
        assert second.children["a:1"]["cgroup"] == child["cgroup"]
        assert cgroups.members(child["cgroup"]) == [child["pid"]]
        assert rig.said.count("ended what") == 0


async def test_an_agent_that_ends_leaves_no_cgroup() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        path = await rig.contain(brain)
        await contained_child(rig, brain, "a:1", "sleep", "1000")
        brain.tell("bye")
        brain.tell("exit", code=0)
        assert await rig.exit_code() == 0
        assert not os.path.exists(path)


async def test_a_start_that_fails_leaves_no_cgroup() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        path = await rig.contain(brain)
        before = os.listdir(path)
        rig.spawn(brain, "a:1", "sleep", "1", cwd="/no/where")
        await brain.event("SpawnFailed", "a:1")
        options = {"rlimits": {"nothing": [1, 1]}}
        rig.spawn(brain, "b:1", "sleep", "1", options=options)
        await brain.event("SpawnFailed", "b:1")
        assert os.listdir(path) == before


async def test_a_careful_start_is_contained_as_well() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await rig.contain(brain)
        rig.spawn(brain, "a:1", "sleep", "1000", options={"nice": 5})
        child = await brain.event("Started", "a:1")
        assert cgroups.members(child["cgroup"]) == [child["pid"]]


async def test_a_cgroup_that_cannot_be_made_does_not_hinder_a_start() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        path = await rig.contain(brain)
        Path(path, "cgroup.max.descendants").write_text("1")
        found = [
            (await contained_child(rig, brain, f"a:{number}", "sleep", "1000"))["cgroup"]
            for number in range(3)
        ]
        assert found == [f"{path}/a%3a.0", "", ""]
        assert rig.said.count("gets no cgroup of its own: no more cgroups are allowed in") == 1


@pytest.mark.parametrize("is_contained", [True, False], ids=["in a cgroup", "without"])
async def test_what_still_lives_of_a_tree_can_be_said(is_contained: bool) -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        if is_contained:
            await rig.contain(brain)
        await contained_child(rig, brain, "other:1", "sleep", "1000")
        stray = await stray_of(rig, brain, "a:1", "mild", "marked")
        main = (await brain.event("Started", "a:1"))["pid"]
        brain.tell("living", "a:1")
        living = (await brain.event("LivingOf", "a:1"))["living"]
        assert {process["pid"] for process in living} == {main, stray}
        assert {process["name"] for process in living} == {procfs.name(main)}


@pytest.mark.parametrize(
    "user", [(), pytest.param(NOBODY, marks=needs_root)], ids=["self", "nobody"]
)
async def test_without_a_cgroup_a_kill_ends_what_kept_its_environment(
    user: tuple[str, ...],
) -> None:
    async with keeper_rig(user) as rig:
        brain = await rig.brain()
        stray = await stray_of(rig, brain, "a:1", "stubborn", "marked")
        brain.tell("signal", "a:1", signum=signal.SIGKILL)
        await gone(stray)


@needs_root
async def test_who_may_make_no_cgroup_is_told_so_and_runs_things_without() -> None:
    async with keeper_rig(NOBODY) as rig:
        brain = await rig.brain()
        brain.tell("contain", name=rig.agent_id)
        contained = await brain.event("Contained")
        assert (contained["path"], contained["controllers"]) == ("", [])
        assert contained["problem"].startswith("processes get no cgroups: ")
        child = await contained_child(rig, brain, "a:1", "sleep", "1000")
        assert child["cgroup"] == ""
        assert "cgroup" not in rig.said


@needs_root
async def test_an_agent_that_is_not_root_contains_trees_in_what_it_was_delegated() -> None:
    own, _ = cgroups.own()
    if not own:
        pytest.skip("this machine has no cgroup v2, or it is not mounted here")
    delegated = f"{own}/formation-test-{os.getpid()}"
    os.mkdir(delegated)
    try:
        for name in ("", "/cgroup.procs", "/cgroup.subtree_control"):
            os.chown(delegated + name, 65534, 65534)
        move = f'echo $$ >{delegated}/cgroup.procs; exec "$@"'
        async with keeper_rig(("sh", "-c", move, "sh", *NOBODY)) as rig:
            brain = await rig.brain()
            assert await rig.contain(brain) == f"{delegated}/formation-{rig.agent_id}"
            stray = await stray_of(rig, brain, "a:1", "stubborn", "unmarked")
            brain.tell("signal", "a:1", signum=signal.SIGKILL)
            await brain.event("Exited", "a:1")
            await gone(stray)
    finally:
        assert cgroups.kill_and_remove(delegated, DEADLINE_S)


# --- controllers ------------------------------------------------------------------------------

_CONTAIN = """
import sys
from formation_agent.containment import Containment
contained = Containment(sys.argv[2:])
for name in ("one", "one", "two"):
    contained.contain(name, {int(pid) for pid in sys.stdin.readline().split()}, ())
    own = next(line[3:-1] for line in open("/proc/self/cgroup") if line.startswith("0::"))
    print(contained.path, ",".join(contained.controllers), own, contained.problem, sep="|",
          flush=True)
"""


@pytest.fixture
def delegated() -> Iterator[tuple[str, str]]:
    """A cgroup that is not the machine's root, with a controller to give to those below it."""
    root = machine_cgroups.root()
    if not (there := cgroups.words(root, "cgroup.controllers")):
        pytest.skip("cgroup v2 has no controllers on this machine")
    before = cgroups.words(root, "cgroup.subtree_control")
    controller = min(there - before or there)
    path = f"{root}/formation-test-{os.getpid()}"
    os.mkdir(path)
    try:
        cgroups.enable(root, {controller})
        yield path, controller
    except OSError as error:
        pytest.skip(f"{controller} cannot be enabled in {root}: {error.strerror}")
    finally:
        assert cgroups.kill_and_remove(path, DEADLINE_S)
        if controller not in before:
            Path(root, "cgroup.subtree_control").write_text(f"-{controller}")


class Contains:
    """A process in a cgroup, which makes cgroups when it is told who is of the agent."""

    def __init__(self, cgroup: str, *controllers: str) -> None:
        words = [sys.executable, "-c", _CONTAIN, "", *controllers]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        cgroups.enter(cgroup, self.pid)

    def contain(self, *others: int) -> list[str]:
        """Path, controllers, where it is then, and the problem."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, [self.pid, *others])) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().rstrip("\n").split("|")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@needs_root
def test_alone_in_its_cgroup_the_agent_moves_to_a_leaf_and_its_trees_get_controllers(
    delegated: tuple[str, str],
) -> None:
    base, controller = delegated
    agent = Contains(base, controller)
    brain = subprocess.Popen(["sleep", "1000"])
    try:
        cgroups.enter(base, brain.pid)
        path, works, where, problem = agent.contain(brain.pid)
        assert (path, works, problem) == (f"{base}/formation-one", controller, "")
        assert where.endswith("/agent")
        assert sorted(cgroups.members(f"{base}/agent")) == sorted([agent.pid, brain.pid])
        # As after a re-execution: it is in the leaf already, and its base is the same.
        assert agent.contain(brain.pid) == [path, works, where, problem]
    finally:
        agent.close()
        brain.kill()
        brain.wait()


@needs_root
def test_beside_other_processes_there_are_cgroups_and_no_controllers(
    delegated: tuple[str, str],
) -> None:
    base, controller = delegated
    agent = Contains(base, controller)
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        cgroups.enter(base, stranger.pid)
        shown = cgroup_of(stranger.pid)
        path, works, where, problem = agent.contain()
        assert (path, works, where) == (f"{base}/formation-one", "", shown)
        assert problem == (
            f"{controller} limits cannot be enforced: other processes share the agent's cgroup "
            f"{shown} (run it as its own service with Delegate=yes)"
        )
    finally:
        agent.close()
        stranger.kill()
        stranger.wait()


@needs_root
def test_controllers_that_this_machine_has_not_are_named(delegated: tuple[str, str]) -> None:
    base, _ = delegated
    agent = Contains(base, "cpu", "memory", "nothing")
    try:
        _, _, _, problem = agent.contain()
        assert "nothing" in problem
        assert "cannot be enforced: no such cgroup v2 controllers in" in problem
    finally:
        agent.close()


@needs_root
def test_a_keeper_that_cannot_go_back_goes_to_a_leaf(delegated: tuple[str, str]) -> None:
    base, _ = delegated
    script = f"""
import os
from formation_agent import cgroups
from formation_agent.containment import Containment
cgroups.enter({base!r})
contained = Containment(())
contained.contain("one", {{os.getpid()}}, ())
cgroup = contained.make("a:1")
contained.enter(cgroup)
contained._live_in({base!r} + "/is-gone")
print(contained.leave(), cgroups.own()[0])
contained._leaf = "/is/gone"
contained._live_in(contained._leaf)
contained.enter(cgroup)
print(contained.leave(), contained.path == "", contained.make("b:1") == "")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], timeout=20, check=True, capture_output=True, text=True
    )
    assert done.stdout == f"True {base}/agent\nFalse True True\n"
    assert "the keeper cannot leave a child's cgroup" in done.stderr


def test_before_it_is_asked_for_there_is_no_cgroup() -> None:
    assert Containment().make("a:1") == ""


def test_a_kernel_without_cgroup_kill_kills_one_by_one() -> None:
    own, _ = cgroups.own()
    if not own or not os.access(own, os.W_OK):
        pytest.skip("this process may make no cgroups")
    path = f"{own}/formation-test-{os.getpid()}"
    os.mkdir(path)
    processes = [subprocess.Popen(["sh", "-c", "sleep 1000 & wait"]) for _ in range(3)]
    try:
        for process in processes:
            cgroups.enter(path, process.pid)
        cgroups._kill_each(path)
        assert [process.wait(DEADLINE_S) for process in processes] == [-9, -9, -9]
    finally:
        assert cgroups.kill_and_remove(path, DEADLINE_S)


async def test_a_tree_that_ends_while_the_keeper_can_open_nothing_is_seen_empty_later() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await rig.contain(brain)
        child = await contained_child(rig, brain, "a:1", "sleep", "1000")
        limits = resource.prlimit(rig.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(rig.pid, resource.RLIMIT_NOFILE, (0, limits[1]))
        brain.tell("signal", "a:1", signum=signal.SIGTERM, whole_group=False)
        assert not (await brain.event("Exited", "a:1"))["empty"]
        resource.prlimit(rig.pid, resource.RLIMIT_NOFILE, limits)
        await brain.event("TreeEmpty", "a:1")
        assert not os.path.exists(child["cgroup"])
