"""What the agent does for an exec, with the process and the keeper only played."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from eventually import eventually

from formation.execflow import TELL_BYTES, WINDOW_BYTES, FlowError
from formation.model import ProcessType
from formation_agent import execrun, execs, link, streams
from formation_agent.execrun import ExecRun
from formation_agent.execs import ExecRefused, Execs, Wanted
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

EXITED = Exited(key="k", code=0, signal=None, core_dumped=False, empty=True)
LAUNCH = Launch(
    argv=("serve",),
    env={"PATH": "/bin", "PORT": "5000", "TERM": "of the type"},
    cwd="/tmp",
    port=5000,
    options=SpawnOptions(
        umask=0o27, limits={"pids": 7}, notify=True, user=User(uid=1, gid=2), fence_s=3.0
    ),
)


class PlayedKeeper:
    """`spawned`: what was asked for, by key; its ends of the streams are this test's."""

    def __init__(self) -> None:
        self.knows = frozenset({link.STREAMS})
        self.spawned: dict[str, tuple[Mapping[str, str], SpawnOptions, Sequence[str]]] = {}
        self.tell: dict[str, Callable[[Event], None]] = {}
        self.signals: list[tuple[str, int]] = []

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
        assert cwd == "/tmp"
        self.spawned[key] = env, options, argv
        self.tell[key] = on_event

    def signal(self, key: str, signum: int, *, whole_group: bool = True) -> None:
        assert whole_group
        self.signals.append((key, signum))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def keeper() -> PlayedKeeper:
    return PlayedKeeper()


@pytest.fixture
async def leaves_nothing() -> Any:
    before = descriptors()
    yield
    assert descriptors() == before


def played(
    keeper: PlayedKeeper, ours: streams.Streams | None = None
) -> tuple[ExecRun, tuple[int, ...]]:
    """And the process's ends."""
    ours = ours or streams.pipes()
    return ExecRun("k", ours, keeper, lambda: None), ours.theirs


async def everything(run: ExecRun) -> Iterator[tuple[bool, bytes]]:
    found = []
    while not run.finished:
        run.wake.clear()
        if (piece := run.read(1000)) is not None:
            found.append(piece)
        else:
            await asyncio.wait_for(run.wake.wait(), 10)
    return iter(found)


async def test_input_arrives_in_order_and_its_end_too(
    leaves_nothing: None, keeper: PlayedKeeper
) -> None:
    run, theirs = played(keeper)
    data = os.urandom(200_000)
    run.feed(data)
    run.feed_end()
    run.feed_end()
    got = await asyncio.to_thread(_all_of, theirs[0])
    assert got == data
    assert run.taking.taken == len(data)
    run.close()
    run.close()
    streams.close(*theirs)


def _all_of(fd: int) -> bytes:
    return b"".join(iter(lambda: os.read(fd, 1 << 16), b""))


async def test_who_does_not_read_fills_the_window_and_no_more(
    leaves_nothing: None, keeper: PlayedKeeper
) -> None:
    run, theirs = played(keeper)
    pipe = fcntl.fcntl(theirs[0], fcntl.F_GETPIPE_SZ)
    run.feed(bytes(WINDOW_BYTES))
    assert run.taking.held == WINDOW_BYTES - pipe
    with pytest.raises(FlowError):
        run.feed(bytes(pipe + 1))
    run.wake.clear()
    assert len(os.read(theirs[0], TELL_BYTES)) > 0
    await eventually(lambda: run.taking.held < WINDOW_BYTES - pipe)
    run.close()
    streams.close(*theirs)


async def test_who_closes_its_input_gets_no_more_and_holds_nobody_up(
    leaves_nothing: None, keeper: PlayedKeeper
) -> None:
    run, theirs = played(keeper)
    os.close(theirs[0])
    for _ in range(5):
        run.feed(bytes(WINDOW_BYTES))
        assert run.taking.held == 0
    assert run.taking.owes
    run.close()
    streams.close(*theirs[1:])


async def test_outputs_are_kept_apart_and_read_to_their_end(
    leaves_nothing: None, keeper: PlayedKeeper
) -> None:
    run, theirs = played(keeper)
    run.hear(Started(key="k", pid=7, stdout_fd=-1, stderr_fd=-1))
    assert run.pid == 7
    os.write(theirs[1], b"out" * 1000)
    os.write(theirs[2], b"err" * 1000)
    run.hear(EXITED)
    assert not run.finished
    streams.close(*theirs)
    found = list(await everything(run))
    assert b"".join(data for err, data in found if not err) == b"out" * 1000
    assert b"".join(data for err, data in found if err) == b"err" * 1000
    run.close()
    run.stop_timers()


async def test_a_pipe_that_somebody_else_holds_open_is_not_waited_for(
    leaves_nothing: None, keeper: PlayedKeeper
) -> None:
    run, theirs = played(keeper)
    os.write(theirs[1], b"last words")
    run.hear(EXITED)
    assert [data for _, data in await everything(run)] == [b"last words"]
    run.close()
    streams.close(*theirs)


async def test_it_is_hung_up_and_then_killed_until_nothing_is_left(
    keeper: PlayedKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execrun, "GRACE_S", 0.01)
    monkeypatch.setattr(execrun, "_KILL_AGAIN_S", 0.01)
    run, theirs = played(keeper)
    run.end("first")
    run.end("second")
    assert run.why == "first"
    assert keeper.signals == [("k", signal.SIGHUP), ("k", signal.SIGCONT)]
    await eventually(lambda: keeper.signals.count(("k", signal.SIGKILL)) >= 3)
    run.hear(replace(EXITED, code=None, signal=9, empty=False))
    run.hear(TreeEmpty(key="k"))
    count = len(keeper.signals)
    await asyncio.sleep(0.05)
    assert len(keeper.signals) == count
    run.close()
    run.stop_timers()
    streams.close(*theirs)


async def test_what_a_command_leaves_behind_is_ended_and_is_no_reason(keeper: PlayedKeeper) -> None:
    run, theirs = played(keeper)
    run.hear(replace(EXITED, empty=False))
    assert keeper.signals[0] == ("k", signal.SIGHUP)
    run.end("nobody listens any more")
    assert run.why == ""
    run.close()
    run.stop_timers()
    streams.close(*theirs)


async def test_a_terminal_has_a_size_an_end_of_input_and_an_end(
    leaves_nothing: None, keeper: PlayedKeeper
) -> None:
    run, theirs = played(keeper, streams.terminal(31, 97))
    (theirs_,) = theirs
    assert _size(theirs_) == (31, 97)
    run.resize(45, 1 << 31)
    assert _size(theirs_) == (45, 10_000)
    run.feed(b"a line\n")
    assert os.read(theirs_, 100) == b"a line\n"
    run.feed_end()
    assert os.read(theirs_, 100) == b""
    assert run.taking.held == 0
    run.hear(EXITED)
    os.close(theirs_)
    assert b"".join(data for _, data in await everything(run)).startswith(b"a line\r\n")
    run.feed(b"too late")
    run.resize(1, 1)
    run.close()
    run.stop_timers()


def _size(fd: int) -> tuple[int, int]:
    packed = fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))
    rows, columns, _, _ = struct.unpack("HHHH", packed)
    return rows, columns


# -- which may -------------------------------------------------------------------------------------


def running(keeper: PlayedKeeper, *uids: str, allowed: bool = True) -> Execs:
    found = Execs(keeper, allowed=allowed)
    for uid in uids:
        found.watch(uid, 3, ProcessType(name="web", command="x"), LAUNCH, 7, 5000, -1, True)
    return found


def dropped(keeper: PlayedKeeper, *runs: ExecRun) -> None:
    for run in runs:
        run.close()
        run.stop_timers()
    for _, options, _ in keeper.spawned.values():
        streams.close(*options.streams)


async def test_it_starts_as_its_instance_did_beside_it(keeper: PlayedKeeper) -> None:
    room = running(keeper, "u1")
    run = room.begin(Wanted(uid="u1", command="ls -l", terminal=("xterm-256color", 24, 80)))
    ((key, (env, options, argv)),) = keeper.spawned.items()
    assert list(argv) == ["ls", "-l"]
    assert env == {**LAUNCH.env, "TERM": "xterm-256color", "FORMATION_EXEC": key}
    assert options == replace(
        LAUNCH.options,
        notify=False,
        limits={},
        fence_s=None,
        join="u1:3",
        streams=options.streams,
        terminal=True,
    )
    assert options.fields()["takes"] == 1
    dropped(keeper, run)


async def test_a_terminals_name_is_no_place_for_anything_else(keeper: PlayedKeeper) -> None:
    room = running(keeper, "u1")
    for name in ("", "../x", "a\nb", "x" * 100, "-x"):
        dropped_run = room.begin(Wanted(uid="u1", command="ls", terminal=(name, 1, 1)))
        assert [*keeper.spawned.values()][-1][0]["TERM"] == "xterm"
        dropped_run.close()
    dropped(keeper)


async def test_every_no_says_why(keeper: PlayedKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    def why(room: Execs, uid: str = "u1", line: str = "ls") -> str:
        with pytest.raises(ExecRefused) as caught:
            room.begin(Wanted(uid=uid, command=line))
        return str(caught.value)

    assert "--no-exec" in why(running(keeper, "u1", allowed=False))
    assert why(running(keeper), "u2") == "its instance does not run any more"
    assert "empty or too long" in why(running(keeper, "u1"), line=" ")
    assert "empty or too long" in why(running(keeper, "u1"), line="x" * 100_000)
    unknown = running(keeper)
    unknown.watch("u1", 1, ProcessType(name="web", command="x"), None, 7, 0, -1, True)
    assert "is not known" in why(unknown)
    stopping = running(keeper, "u1")
    stopping.relax("u1")
    assert why(stopping) == "its instance does not run any more"
    monkeypatch.setattr(execs, "RUNS_EACH_MAX", 1)
    monkeypatch.setattr(execs, "RUNS_MAX", 2)
    full = running(keeper, "u1", "u2", "u3")
    runs = [full.begin(Wanted(uid=uid, command="ls")) for uid in ("u1",)]
    assert "beside this instance already" in why(full)
    runs.append(full.begin(Wanted(uid="u2", command="ls")))
    assert "beside instances here already" in why(full, "u3")
    for key, tell in keeper.tell.items():
        tell(SpawnFailed(key=key, reason="no"))
    runs.append(full.begin(Wanted(uid="u3", command="ls")))
    dropped(keeper, *runs)
    keeper.knows = frozenset()
    assert "older than its brain" in why(running(keeper, "u1"))


async def test_it_ends_with_its_instance_and_with_no_other(keeper: PlayedKeeper) -> None:
    room = running(keeper, "u1", "u2")
    runs = [room.begin(Wanted(uid=uid, command="ls")) for uid in ("u1", "u2")]
    room.relax("u2")
    room.unwatch("u2")
    assert [run.why for run in runs] == ["", "its instance ends"]
    assert {key for key, _ in keeper.signals} == {[*keeper.spawned][1]}
    room.close()
    dropped(keeper, *runs)
