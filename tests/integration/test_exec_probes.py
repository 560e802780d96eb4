"""Probes that run a command, started by a keeper that is only played."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import pytest
from eventually import eventually

from formation.model import Probe, ProbeKind
from formation_agent.happenings import (
    Event,
    Exited,
    SpawnFailed,
    SpawnOptions,
    Started,
    TreeEmpty,
    User,
)
from formation_agent.launch import Launch
from formation_agent.probe_exec import ExecProbes
from formation_agent.probes import PASSED, Outcome, Target

LAUNCH = Launch(
    argv=("serve",),
    env={"PATH": os.environ["PATH"], "PORT": "5000"},
    cwd="/tmp",
    port=5000,
    options=SpawnOptions(
        nice=5, umask=0o27, limits={"pids": 7}, notify=True, user=User(uid=1, gid=2)
    ),
)
TARGET = Target(key="u1:3", port=5000, launch=LAUNCH)
WEB_2 = replace(TARGET, key="u2:1")


class PlayedKeeper:
    """Starts real processes in groups of their own. `failure`: none is started, for this reason;
    `undying`: the end of what was killed is not told."""

    def __init__(self) -> None:
        self.failure = ""
        self.undying = False
        self.asked: dict[str, tuple[Mapping[str, str], str, SpawnOptions]] = {}
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.killed: list[str] = []
        self.most = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(
        self,
        key: str,
        *,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        options: SpawnOptions,
        on_event: Callable[[Event], None],
    ) -> None:
        self.asked[key] = env, cwd, options
        self._tasks.add(asyncio.create_task(self._run(key, argv, env, cwd, on_event)))

    async def _run(
        self,
        key: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        on_event: Callable[[Event], None],
    ) -> None:
        if self.failure:
            on_event(SpawnFailed(key=key, reason=self.failure))
            return
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        process = await asyncio.create_subprocess_exec(
            *argv, env=env, cwd=cwd, stdout=out_end, stderr=err_end, start_new_session=True
        )
        os.close(out_end)
        os.close(err_end)
        self.processes[key] = process
        self.most = max(self.most, sum(p.returncode is None for p in self.processes.values()))
        on_event(Started(key=key, pid=process.pid, stdout_fd=out, stderr_fd=err))
        code = await process.wait()
        empty = not group_lives(process.pid)
        if self.undying and key in self.killed:
            return
        clean = code if code >= 0 else None
        on_event(
            Exited(
                key=key,
                code=clean,
                signal=None if code >= 0 else -code,
                core_dumped=False,
                empty=empty,
            )
        )
        if not empty:
            await eventually(lambda: not group_lives(process.pid))
            on_event(TreeEmpty(key=key))

    def signal(self, key: str, signum: int, *, whole_group: bool = True) -> None:
        assert (signum, whole_group) == (signal.SIGKILL, True)
        self.killed.append(key)
        if key in self.processes:
            os.killpg(self.processes[key].pid, signum)

    async def close(self) -> None:
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await asyncio.gather(*self._tasks)


def group_lives(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Rig:
    def __init__(self) -> None:
        self.keeper = PlayedKeeper()
        self.probes = ExecProbes(self.keeper)

    async def ask(self, command: str, timeout_s: float = 20.0, target: Target = TARGET) -> Outcome:
        probe = Probe(kind=ProbeKind.EXEC, target=command, timeout_s=timeout_s)
        return await self.probes.ask(probe, target)


@pytest.fixture
async def rig() -> Rig:
    return Rig()


@pytest.fixture(autouse=True)
async def nothing_left(rig: Rig) -> object:
    before = set(os.listdir("/proc/self/fd"))
    yield
    await rig.keeper.close()
    await eventually(lambda: set(os.listdir("/proc/self/fd")) <= before, what="all is closed")


def failed(reason: str) -> Outcome:
    return Outcome(passed=False, reason=reason)


async def test_exit_0_passes_and_any_other_end_is_named(rig: Rig) -> None:
    assert await rig.ask("true") == PASSED
    assert await rig.ask("false") == failed("exit 1")
    assert await rig.ask("sh -c 'exit 3'") == failed("exit 3")
    assert await rig.ask("sh -c 'kill -9 $$'") == failed("signal KILL")


async def test_the_first_line_of_its_output_is_in_the_reason(rig: Rig) -> None:
    assert await rig.ask("echo broken; echo more; exit 1") == failed("exit 1: broken")
    assert await rig.ask("echo 'no database' >&2; exit 1") == failed("exit 1: no database")
    assert await rig.ask("printf '\\n\\n  late\\033[1m\\n'; exit 1") == failed("exit 1: late [1m")
    long = await rig.ask("head -c 100000 /dev/zero | tr '\\0' x; exit 1")
    assert long.reason == "exit 1: " + "x" * 200


async def test_much_output_passes_through_and_a_pass_needs_none(rig: Rig) -> None:
    assert await rig.ask("head -c 3000000 /dev/zero") == PASSED


async def test_it_runs_where_and_as_its_instance_does(rig: Rig) -> None:
    assert await rig.ask('test "$PORT" = 5000 && test "$PWD" = /tmp') == PASSED
    ((env, cwd, options),) = rig.keeper.asked.values()
    assert (env, cwd) == (LAUNCH.env, "/tmp")
    assert options == SpawnOptions(nice=5, umask=0o27, user=User(uid=1, gid=2), join="u1:3")


async def test_what_takes_too_long_is_killed_with_all_it_started(rig: Rig) -> None:
    outcome = await rig.ask("sleep 1000 & sleep 1000", timeout_s=0.2)
    assert outcome == failed("no answer within 0.2 s")
    (process,) = rig.keeper.processes.values()
    await eventually(lambda: not group_lives(process.pid))


async def test_what_it_leaves_in_its_group_is_killed(rig: Rig) -> None:
    assert await rig.ask("sleep 1000 & exit 0") == PASSED
    (process,) = rig.keeper.processes.values()
    await eventually(lambda: not group_lives(process.pid))
    assert await rig.ask("true") == PASSED


async def test_two_of_one_instance_run_one_after_the_other_and_others_beside_them(
    rig: Rig,
) -> None:
    outcomes = await asyncio.gather(*(rig.ask("sleep 0.1") for _ in range(4)))
    assert outcomes == [PASSED] * 4
    assert rig.keeper.most == 1
    await asyncio.gather(rig.ask("sleep 0.3"), rig.ask("sleep 0.3", target=WEB_2))
    assert rig.keeper.most == 2


async def test_waiting_for_the_other_is_not_counted(rig: Rig) -> None:
    slow, quick = await asyncio.gather(rig.ask("sleep 1"), rig.ask("true", timeout_s=0.7))
    assert (slow, quick) == (PASSED, PASSED)


async def test_one_that_cannot_be_killed_holds_up_no_other_instance(rig: Rig) -> None:
    rig.keeper.undying = True
    assert (await rig.ask("sleep 1000", timeout_s=0.1)).passed is False
    again = await rig.ask("true", timeout_s=0.1)
    assert again == failed("its last run was killed and is still there")
    assert await rig.ask("true", target=WEB_2) == PASSED
    assert len(rig.keeper.asked) == 2


async def test_one_that_is_no_longer_wanted_is_killed(rig: Rig) -> None:
    asking = asyncio.create_task(rig.ask("sleep 1000"))
    await eventually(lambda: rig.keeper.processes)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    (process,) = rig.keeper.processes.values()
    await eventually(lambda: not group_lives(process.pid))
    assert await rig.ask("true") == PASSED


async def test_one_that_is_no_longer_wanted_before_it_began_is_killed_too(rig: Rig) -> None:
    asking = asyncio.create_task(rig.ask("sleep 1000"))
    await eventually(lambda: rig.keeper.asked)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(rig.keeper.killed) == 1


async def test_what_cannot_be_started_says_nothing_about_the_process(rig: Rig) -> None:
    rig.keeper.failure = "command not found: chekc"
    assert await rig.ask("chekc") == Outcome(passed=None, reason="command not found: chekc")
    rig.keeper.failure = ""
    assert await rig.ask("true") == PASSED
    unknown = await rig.ask("true", target=replace(TARGET, launch=None))
    assert unknown.passed is None
