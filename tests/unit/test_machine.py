"""The life of one stay: the whole table, plain stories, and what holds for every story."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from stay_bench import EVENTS, JITTER, NEW, PROBE, SPEC, STAYS, assert_sound, play

from formation.model import InstanceState, ProcessType, RestartPolicy, StopTo
from formation_agent import machine as m
from formation_agent.machine import Phase

# Each phase × each event: the phase after it, or "-" where it is illegal.
EXPECTED = """
           free spawned failed exit exit+ done empty there ready unready dead told extend leaves stop now  kill retry tick
WAITING    SP   -       -      -    -     -    -     -     -     -       -    -    -      -      SD   SD   SD   W     W
SPAWNING   -    ST      SP     -    -     -    -     -     -     -       -    -    -      -      A    A    A    SP    SP
STARTING   -    -       -      SP   C     SP   -     -     H     ST      R    ST   ST     L      SG   SG   SG   ST    ST
HEALTHY    -    -       -      SP   C     SP   -     -     H     U       R    H    H      L      SG   SG   SG   H     H
UNREADY    -    -       -      SP   C     SP   -     -     H     U       R    U    U      L      SG   SG   SG   U     U
LEAVING    -    -       -      SP   C     SP   -     -     L     L       L    L    L      L      SG   SG   SG   L     L
RESTARTING -    -       -      SP   C     SP   -     R     R     R       R    R    R      R      SG   SG   SG   R     R
CLEANING   -    -       -      -    -     -    SP    C     C     C       C    C    C      C      SG   SG   SG   C     C
BACKOFF    -    -       -      -    -     -    -     -     -     -       -    -    -      -      SD   SD   SD   SP    B
FINISHED   -    -       -      -    -     -    -     -     -     -       -    -    -      -      SD   SD   SD   SP    FI
FAILED     -    -       -      -    -     -    -     -     -     -       -    -    -      -      SD   SD   SD   SP    FA
ABORTING   -    SG      SD     -    -     -    -     -     -     -       -    -    -      -      A    A    A    A     A
DRAINING   -    -       -      SD   SG    SD   -     -     D     D       SG   D    D      SG     D    SG   SG   D     D
STOPPING   -    -       -      SD   SG    SD   -     SG    SG    SG      SG   SG   SG     SG     SG   SG   SG   SG    SG
STOPPED    -    -       -      -    -     -    -     -     -     -       -    -    -      -      -    -    -    -     -
"""  # noqa: E501  one table is read at a glance
NAMES = ("W", "SP", "ST", "H", "U", "L", "R", "C", "B", "FI", "FA", "A", "D", "SG", "SD")
SHORT = dict(zip(NAMES, Phase, strict=True))


def cases() -> Iterator[tuple[Phase, m.Event, Phase | None]]:
    columns, *rows = EXPECTED.split("\n")[1:-1]
    names = columns.split()
    assert names == list(EVENTS), "every event is a column, in order"
    assert [row.split()[0] for row in rows] == [phase.name for phase in Phase]
    for row in rows:
        phase, *cells = row.split()
        for name, cell in zip(names, cells, strict=True):
            yield Phase[phase], EVENTS[name], None if cell == "-" else SHORT[cell]


@pytest.mark.parametrize(("phase", "event", "after"), [*cases()])
def test_every_phase_answers_every_event_as_the_table_says(
    phase: Phase, event: m.Event, after: Phase | None
) -> None:
    stay = STAYS[phase]
    if after is None:
        with pytest.raises(m.IllegalMove, match=r"shop/web\.1"):
            m.advance(stay, event, 100.0, JITTER)
    else:
        moved, _ = m.advance(stay, event, 100.0, JITTER)
        assert moved.phase is after
        assert_sound(moved, 100.0)


def test_the_columns_of_that_table_are_all_the_events_there_are() -> None:
    assert {type(event) for event in EVENTS.values()} == set(get_args(m.Event))


def test_a_stay_is_healthy_when_it_was_up_long_enough() -> None:
    stay, said = play(NEW, (0, m.SlotFree()), (0.1, m.Spawned(pid=7)))
    assert (stay.state, stay.pid, stay.attempt, stay.wake_at_s) == (
        InstanceState.STARTING,
        7,
        1,
        1.1,
    )
    assert said == [m.Spawn(attempt=1)]
    assert play(stay, (1.0, m.Tick()))[0].state is InstanceState.STARTING
    healthy, _ = play(stay, (1.1, m.Tick()))
    assert (healthy.state, healthy.wake_at_s) == (InstanceState.HEALTHY, None)


def test_without_a_waiting_time_a_stay_is_healthy_as_soon_as_it_runs() -> None:
    stay = structs.replace(NEW, spec=replace(SPEC, ready_after_s=0))
    assert play(stay, (0, m.SlotFree()), (0, m.Spawned(pid=7)))[0].state is InstanceState.HEALTHY


def test_the_first_crash_is_answered_at_once_with_the_next_attempt() -> None:
    stay, said = play(
        NEW,
        (0, m.SlotFree()),
        (0, m.Spawned(pid=7)),
        (1, m.Tick()),
        (12 * 60, m.Exited(how="signal KILL", empty=True)),
    )
    assert (stay.phase, stay.attempt) == (Phase.SPAWNING, 2)
    assert (stay.reason, stay.last_exit) == ("signal KILL after 12 min", "signal KILL")
    assert said[1:] == [m.Forget(attempt=1), m.Spawn(attempt=2)]


def test_later_crashes_wait_longer_and_say_until_when() -> None:
    stay, said = play(
        NEW,
        (0, m.SlotFree()),
        (0, m.Spawned(pid=7)),
        (0.5, m.Exited(how="exit 1", empty=True)),
        (0.5, m.Spawned(pid=8)),
        (3.5, m.Exited(how="exit 1", empty=True)),
    )
    assert (stay.state, stay.failures) == (InstanceState.BACKOFF, 2)
    assert (stay.retry_at_s, stay.wake_at_s) == (4.5, 4.5)
    assert stay.reason == "exit 1 after 3 s (2nd time in a row)"
    again, more = play(stay, (4.5, m.Tick()))
    assert (again.phase, more) == (Phase.SPAWNING, [m.Spawn(attempt=3)])
    assert m.Signal(signal="TERM") not in said


def test_a_command_that_is_not_there_goes_into_backoff_with_a_countdown() -> None:
    failed = m.SpawnFailed(reason="command not found: x")
    stay, _ = play(NEW, (0, m.SlotFree()), (0, failed), (0, failed))
    assert (stay.state, stay.retry_at_s, stay.attempt) == (InstanceState.BACKOFF, 1.0, 2)
    assert (stay.reason, stay.last_exit) == ("command not found: x", "")


def test_what_a_dead_main_process_left_behind_is_ended_before_the_next_one_starts() -> None:
    stay, said = play(
        NEW,
        (0, m.SlotFree()),
        (0, m.Spawned(pid=7)),
        (5, m.Exited(how="exit 0", empty=False)),
    )
    assert (stay.state, stay.pid) == (InstanceState.BACKOFF, 0)
    assert stay.reason == "exit 0 after 5 s; it left processes behind"
    assert said[1:] == [m.Signal(signal="TERM")]
    stubborn, killed = play(stay, (34, m.Tick()), (35, m.Tick()))
    assert killed == [m.Look(), m.Look(), m.Signal(signal="KILL")]
    after, last = play(stubborn, (36, m.TreeEmpty()))
    assert after.phase is Phase.SPAWNING
    assert last == [m.Forget(attempt=1), m.Spawn(attempt=2)]


def test_a_stop_escalates_and_ends_only_when_the_tree_is_empty() -> None:
    stop = m.StopWanted(reason="no longer wanted")
    stay, said = play(NEW, (0, m.SlotFree()), (0, m.Spawned(pid=7)), (5, stop), (6, stop))
    assert (stay.state, stay.deadline_s, stay.reason) == (InstanceState.STOPPING, 35, stop.reason)
    stay, killed = play(stay, (7, m.Exited(how="exit 0", empty=False)), (35, m.Tick()))
    assert (stay.state, stay.pid) == (InstanceState.STOPPING, 0)
    assert killed == [m.Look(), m.Signal(signal="KILL")]
    assert stay.reason == "no longer wanted; not gone within 30 s: killed"
    stay, again = play(stay, (40, m.Tick()))
    assert again == [m.Look(), m.Signal(signal="KILL")]
    stay, last = play(stay, (41, m.TreeEmpty()))
    assert (stay.state, last) == (InstanceState.STOPPED, [m.Forget(attempt=1)])
    assert said == [m.Spawn(attempt=1), m.Signal(signal="TERM")]


def test_a_stop_without_grace_kills_at_once() -> None:
    stay = structs.replace(STAYS[Phase.HEALTHY], spec=replace(SPEC, stop_grace_s=0))
    assert play(stay, (100, m.StopWanted(reason="")))[1] == [m.Signal(signal="KILL")]


def test_a_stop_while_a_process_is_being_asked_for_reaches_it_when_it_is_there() -> None:
    stop = m.StopWanted(reason="no longer wanted")
    stay, said = play(NEW, (0, m.SlotFree()), (0, stop), (0.1, m.Spawned(pid=7)))
    assert (stay.phase, stay.pid) == (Phase.STOPPING, 7)
    assert said[1:] == [m.Signal(signal="TERM")]
    assert play(NEW, (0, m.SlotFree()), (0, m.KillWanted(reason="")), (0, m.Spawned(pid=7)))[1][
        1:
    ] == [m.Signal(signal="KILL")]


def test_an_end_that_cannot_be_is_illegal_while_stopping() -> None:
    running, ended = STAYS[Phase.STOPPING], structs.replace(STAYS[Phase.STOPPING], pid=0)
    with pytest.raises(m.IllegalMove):
        m.advance(running, m.TreeEmpty(), 100, JITTER)
    with pytest.raises(m.IllegalMove):
        m.advance(ended, m.Exited(how="exit 0", empty=True), 100, JITTER)


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (-1, "0.0 s"),
        (0.34, "0.3 s"),
        (3.2, "3 s"),
        (725, "12 min"),
        (5 * 3600, "5 h"),
        (90 * 3600, "4 days"),
    ],
)
def test_durations_are_told_in_the_largest_unit_that_fits(duration_s: float, text: str) -> None:
    assert m.describe_duration(duration_s) == text


class World:
    """One stay and the processes that its instructions make: what a keeper would answer."""

    def __init__(self, stay: m.Stay) -> None:
        self.stay, self.now_s = stay, 0.0
        self.runs = ""
        self.stop_wanted = False
        self.said: list[m.Instruction] = []

    def feed(self, event: m.Event) -> None:
        before = self.stay
        self.stay, instructions = m.advance(before, event, self.now_s, 0.99)
        for instruction in instructions:
            self.said.append(instruction)
            self._obey(instruction, before)
        assert before.phase is not Phase.STOPPED
        assert_sound(self.stay, self.now_s)
        wake = self.stay.wake_at_s
        assert wake is None or wake == before.wake_at_s or wake > self.now_s

    def _obey(self, instruction: m.Instruction, before: m.Stay) -> None:
        match instruction:
            case m.Spawn(attempt=attempt):
                assert not self.runs, "two processes of one stay"
                assert not self.stop_wanted, "started although it shall stop"
                assert attempt == before.attempt + 1
                self.runs = "asked for"
            case m.Forget():
                assert not self.runs, "forgotten while something runs"
            case m.Signal() | m.Look():
                assert self.runs in ("main", "rest"), "signalled although nothing runs"

    def happen(self, what: str) -> None:
        """Whatever a machine can do next; words that make no sense now are skipped."""
        if self.stay.phase is Phase.STOPPED:
            assert not self.runs
        elif what in OF_PROCESS:
            before, after = OF_PROCESS[what]
            if self.runs == before:
                self.runs = after
                self.feed(EVENTS[what])
        elif what in ("stop", "now", "kill", "retry", "tick"):
            self.stop_wanted |= what in ("stop", "now", "kill")
            if what == "tick":
                self.now_s = max(self.now_s, self.stay.wake_at_s or 0.0)
            self.feed(EVENTS[what])
        elif what == "free":
            if self.stay.phase is Phase.WAITING:
                self.feed(EVENTS[what])
        elif self.runs in ("main", "rest"):
            self.feed(EVENTS[what])


# What happens to a process: from → to.
OF_PROCESS = {
    "spawned": ("asked for", "main"),
    "failed": ("asked for", ""),
    "exit": ("main", ""),
    "done": ("main", ""),
    "exit+": ("main", "rest"),
    "empty": ("rest", ""),
}
WHAT = st.sampled_from([name for name in EVENTS if name != "there"])
SPECS = st.builds(
    ProcessType,
    name=st.just("web"),
    command=st.just("x"),
    restart=st.sampled_from(RestartPolicy),
    stop_grace_s=st.sampled_from([0.0, 1.0, 30.0]),
    stop_drain_s=st.sampled_from([0.0, 5.0]),
    stop_to=st.sampled_from(StopTo),
    ready_after_s=st.sampled_from([0.0, 1.0]),
    start_grace_s=st.sampled_from([0.5, 30.0]),
    notify=st.booleans(),
    readiness=st.sampled_from([None, PROBE]),
)


@given(SPECS, st.lists(st.tuples(WHAT, st.floats(0, 400)), max_size=60))
@settings(max_examples=400, deadline=None)
def test_no_story_gives_two_processes_and_a_stop_always_ends(
    spec: ProcessType, story: list[tuple[str, float]]
) -> None:
    world = World(structs.replace(NEW, spec=spec))
    for what, later_s in story:
        world.now_s += later_s
        world.happen(what)
    signals = len(world.said)
    for what in ("stop", "spawned", "tick", "tick", "tick", "exit+", "tick", "tick", "empty"):
        world.happen(what)
    assert world.stay.phase is Phase.STOPPED
    assert world.stay.wake_at_s is None
    said = [item.signal for item in world.said if isinstance(item, m.Signal)]
    assert set(said) <= {"TERM", "KILL"}
    # Whoever was still there at the end has met a KILL by then.
    if any(isinstance(item, m.Signal) for item in world.said[signals:]):
        assert said[-1] == "KILL"


@given(SPECS, st.lists(st.tuples(WHAT, st.floats(0, 400)), max_size=60))
@settings(max_examples=200, deadline=None)
def test_what_need_not_be_stopped_is_either_running_or_due_or_over(
    spec: ProcessType, story: list[tuple[str, float]]
) -> None:
    """Left alone by everybody, a stay never hangs between two phases."""
    world = World(structs.replace(NEW, spec=spec))
    world.happen("free")
    for what, later_s in story:
        world.now_s += later_s
        if what not in ("stop", "now", "kill"):
            world.happen(what)
    for what in ("spawned", "tick", "tick", "tick", "exit+", "empty", "tick", "spawned", "ready"):
        world.happen(what)
    assert world.stay.phase in {Phase.STARTING, Phase.HEALTHY, Phase.FINISHED, Phase.FAILED}
