"""What one program of the keeper hands to the next, and the small rooms beside its loop."""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from formation_agent import locks
from formation_agent.children import Child, Children
from formation_agent.locks import Busy, Locks
from formation_agent.spawn import Spawned, Spawner
from formation_agent.timers import Timers


@pytest.fixture
def child() -> Iterator[Child]:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        stdout, _ = ends = os.pipe()
        kept = Child("u:1", "mark-\udcff", Spawned(process.pid, (stdout, -1, -1), "/cgroup/u"), 7)
        kept.asked, kept.told = 15, {process.pid}
        yield kept
        process.kill()
        for fd in ends:
            os.close(fd)


def as_next_program(state: Any) -> Any:
    return json.loads(json.dumps(state))


def test_everything_known_of_a_child_is_handed_over(child: Child) -> None:
    taken = Child.of_state(as_next_program(child.state()))
    assert {name: getattr(taken, name) for name in Child.__slots__} == {
        name: getattr(child, name) for name in Child.__slots__
    }
    assert child.state().keys() == set(Child.__slots__)


def test_every_descriptor_of_a_child_goes_along_but_the_watch_on_its_cgroup(child: Child) -> None:
    child.events = 7
    assert child.pipes() == (child.stdout,)
    assert Child.of_state(as_next_program(child.state())).events == -1
    child.events = -1


def test_children_are_what_they_were_running_or_lingering_or_over(child: Child) -> None:
    # Only in a process of its own does a spawner raise the limit of open files.
    spawner = Spawner.__new__(Spawner)
    states = [child.state()]
    exit_ = {"code": 3, "signal": None, "core_dumped": False, "oom_killed": False}
    for key, empty in (("lingers:1", False), ("over:1", True)):
        states.append({**child.state(), "key": key, "exit": exit_, "empty": empty})
    with select.epoll() as poll:
        taken = Children(spawner, poll, as_next_program(states))
        assert [kept.key for kept in taken] == ["u:1", "lingers:1", "over:1"]
        assert taken.living
        only_over = Children(spawner, poll, as_next_program(states[2:]))
        assert not only_over.living
        assert as_next_program(taken.state()) == as_next_program(states)


# -- timers ----------------------------------------------------------------------------------------


class Calls:
    def __init__(self) -> None:
        self.made: list[str] = []

    def one(self) -> None:
        self.made.append("one")

    def two(self) -> None:
        self.made.append("two")


def test_what_is_due_is_called_once_and_what_is_not_waits() -> None:
    timers, calls = Timers(), Calls()
    timers.after(0, calls.one)
    timers.after(1000, calls.two)
    assert timers.timeout_s() == 0
    timers.run()
    timers.run()
    assert calls.made == ["one"]
    assert 900 < timers.timeout_s() <= 1000
    assert calls.two in timers


def test_setting_a_timer_again_moves_it_and_cancelling_forgets_it() -> None:
    timers, calls = Timers(), Calls()
    timers.after(0, calls.one)
    timers.after(1000, calls.one)
    timers.run()
    timers.cancel(calls.one)
    timers.cancel(calls.two)
    assert (calls.made, timers.timeout_s()) == ([], -1)


def test_a_call_may_call_another_off() -> None:
    timers, calls = Timers(), Calls()
    timers.after(0, timers.clear)
    timers.after(0, calls.one)
    timers.run()
    assert calls.made == []


# -- locks -----------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "lock")


@pytest.fixture
def held(path: str) -> Iterator[Locks]:
    taken = Locks()
    taken.take(path)
    yield taken
    for fd in taken.descriptors():
        os.close(fd)


def read(path: str) -> tuple[str, int, str]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return locks.read(fd)
    finally:
        os.close(fd)


def test_a_lock_says_who_holds_it_and_how_the_last_re_execution_went(
    held: Locks, path: str
) -> None:
    us = f"process {os.getpid()}"
    assert read(path) == (us, 0, "")
    held.report(3, "refused: a long\nreason: with details")
    assert read(path) == (us, 3, "refused: a long reason: with details")
    held.report(4, "ready")
    assert read(path) == (us, 4, "ready")


def test_who_is_second_hears_who_is_first(held: Locks, path: str) -> None:
    held.report(1, "ready")
    held.take(path)  # it is ours already
    with pytest.raises(Busy) as busy:
        Locks().take(path)
    assert (busy.value.by, busy.value.is_gone) == (f"process {os.getpid()}", False)


def test_a_lock_that_was_handed_over_is_still_held(held: Locks, path: str) -> None:
    next_program = Locks(as_next_program(held.state()))
    next_program.take(path)
    assert list(next_program.descriptors()) == list(held.descriptors())


@pytest.mark.parametrize(
    "text",
    ["", "process 1", "process 1\nre-execution 3: rea", "process 1\nsomething else\n",
     "process 1\nre-execution x: ready\n"],
)  # fmt: skip
def test_a_line_that_is_not_whole_or_not_ours_says_nothing(path: str, text: str) -> None:
    Path(path).write_text(text)
    assert read(path)[1] == 0


def test_a_holder_that_is_gone_is_told_apart(path: str) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"process {process.pid}\n")
        lock.flush()
        with pytest.raises(Busy) as busy:
            Locks().take(path)
    assert busy.value.is_gone
