"""The life of one stay: the whole table, stories, and what holds for every sequence of events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formation.model import Assignment, InstanceState, ProcessType, Slot
from formation_agent import machine as m
from formation_agent.machine import Phase

ASSIGNMENT = Assignment(uid="u1", slot=Slot("shop", "web", 1), release=1)
SPEC = ProcessType(name="web", command="x", stop_signal="TERM", stop_grace_s=30, ready_after_s=1)
NEW = m.Stay(assignment=ASSIGNMENT, spec=SPEC)
JITTER = 0.5

EVENTS: Sequence[m.Event] = (
    m.SlotFree(),
    m.Spawned(pid=7),
    m.SpawnFailed(reason="command not found: x"),
    m.Exited(how="exit 1", empty=True),
    m.Exited(how="exit 1", empty=False),
    m.TreeEmpty(),
    m.StopWanted(reason="no longer wanted"),
    m.KillWanted(reason="at once"),
    m.Tick(),
)


def play(stay: m.Stay, *story: tuple[float, m.Event]) -> tuple[m.Stay, list[m.Instruction]]:
    """All moves of a story; returns the last stay and what was instructed on the way."""
    said: list[m.Instruction] = []
    for now_s, event in story:
        stay, instructions = m.advance(stay, event, now_s, JITTER)
        said += instructions
    return stay, said


RUNNING = replace(NEW, attempt=1, pid=7, started_s=90.0)
# The plain representative of each phase at 100 s.
STAYS = {
    Phase.WAITING: NEW,
    Phase.SPAWNING: replace(NEW, attempt=1, phase=Phase.SPAWNING),
    Phase.STARTING: replace(RUNNING, phase=Phase.STARTING, started_s=99.5, wake_at_s=100.5),
    Phase.HEALTHY: replace(RUNNING, phase=Phase.HEALTHY),
    Phase.CLEANING: replace(
        NEW, attempt=1, failures=1, phase=Phase.CLEANING, wake_at_s=120.0, retry_at_s=99.0
    ),
    Phase.BACKOFF: replace(
        NEW, attempt=2, failures=2, phase=Phase.BACKOFF, wake_at_s=101.0, retry_at_s=101.0
    ),
    Phase.ABORTING: replace(NEW, attempt=1, phase=Phase.ABORTING),
    Phase.STOPPING: replace(RUNNING, phase=Phase.STOPPING, wake_at_s=110.0),
    Phase.STOPPED: replace(NEW, attempt=1, phase=Phase.STOPPED),
}


# From each phase: event → phase after it; what is missing is illegal. Order of EVENTS.
W, SP, ST, H, C, B, A, SG, SD = Phase
EXPECTED: dict[Phase, tuple[Phase | None, ...]] = {
    #   free  spawned failed exit  exit+  empty stop  kill  tick
    W: (SP, None, None, None, None, None, SD, SD, W),
    SP: (None, ST, SP, None, None, None, A, A, SP),
    ST: (None, None, None, SP, C, None, SG, SG, ST),
    H: (None, None, None, SP, C, None, SG, SG, H),
    C: (None, None, None, None, None, SP, SG, SG, C),
    B: (None, None, None, None, None, None, SD, SD, B),
    A: (None, SG, SD, None, None, None, A, A, A),
    SG: (None, None, None, SD, SG, None, SG, SG, SG),
    SD: (None, None, None, None, None, None, None, None, None),
}
CASES = [
    (phase, event, after)
    for phase, row in EXPECTED.items()
    for event, after in zip(EVENTS, row, strict=True)
]


@pytest.mark.parametrize(("phase", "event", "after"), CASES)
def test_every_phase_answers_every_event_as_the_table_says(
    phase: Phase, event: m.Event, after: Phase | None
) -> None:
    stay = STAYS[phase]
    if after is None:
        with pytest.raises(m.IllegalMove, match=r"shop/web\.1"):
            m.advance(stay, event, 100.0, JITTER)
    else:
        assert m.advance(stay, event, 100.0, JITTER)[0].phase is after


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
    stay = replace(NEW, spec=replace(SPEC, ready_after_s=0))
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
    assert (stay.retry_at_s, stay.wake_at_s, stay.reason) == (4.5, 4.5, "exit 1 after 3 s")
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
    assert killed == [m.Signal(signal="KILL")]
    after, last = play(stubborn, (36, m.TreeEmpty()))
    assert after.phase is Phase.SPAWNING
    assert last == [m.Forget(attempt=1), m.Spawn(attempt=2)]


def test_a_stop_escalates_and_ends_only_when_the_tree_is_empty() -> None:
    stop = m.StopWanted(reason="no longer wanted")
    stay, said = play(NEW, (0, m.SlotFree()), (0, m.Spawned(pid=7)), (5, stop), (6, stop))
    assert (stay.state, stay.wake_at_s, stay.reason) == (InstanceState.STOPPING, 35, stop.reason)
    stay, killed = play(stay, (7, m.Exited(how="exit 0", empty=False)), (35, m.Tick()))
    assert (stay.state, stay.pid, killed) == (InstanceState.STOPPING, 0, [m.Signal(signal="KILL")])
    assert stay.reason == "no longer wanted; not gone within 30 s: killed"
    stay, again = play(stay, (40, m.Tick()))
    assert again == [m.Signal(signal="KILL")]
    stay, last = play(stay, (41, m.TreeEmpty()))
    assert (stay.state, last) == (InstanceState.STOPPED, [m.Forget(attempt=1)])
    assert said == [m.Spawn(attempt=1), m.Signal(signal="TERM")]


def test_a_stop_without_grace_kills_at_once() -> None:
    stay = replace(STAYS[Phase.HEALTHY], spec=replace(SPEC, stop_grace_s=0))
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
    running, ended = STAYS[Phase.STOPPING], replace(STAYS[Phase.STOPPING], pid=0)
    with pytest.raises(m.IllegalMove):
        m.advance(running, m.TreeEmpty(), 100, JITTER)
    with pytest.raises(m.IllegalMove):
        m.advance(ended, m.Exited(how="exit 0", empty=True), 100, JITTER)


def test_a_process_of_an_earlier_brain_goes_on_where_it_was() -> None:
    young = m.adopted(NEW, pid=7, attempt=3, started_s=99.5, now_s=100)
    old = m.adopted(NEW, pid=7, attempt=3, started_s=50, now_s=100)
    assert (young.phase, young.wake_at_s, young.attempt) == (Phase.STARTING, 100.5, 3)
    assert (old.phase, old.wake_at_s) == (Phase.HEALTHY, None)


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
        self.asked, self.main, self.rest = False, False, False
        self.said: list[m.Instruction] = []

    @property
    def nothing_runs(self) -> bool:
        return not (self.asked or self.main or self.rest)

    def feed(self, event: m.Event) -> None:
        before = self.stay
        self.stay, instructions = m.advance(before, event, self.now_s, 0.99)
        for instruction in instructions:
            self.said.append(instruction)
            if isinstance(instruction, m.Spawn):
                assert self.nothing_runs, "two processes of one stay"
                assert instruction.attempt == before.attempt + 1
                self.asked = True
            elif isinstance(instruction, m.Forget):
                assert self.nothing_runs, "forgotten while something runs"
        wake = self.stay.wake_at_s
        assert wake is None or wake == before.wake_at_s or wake > self.now_s

    def happen(self, what: str) -> None:
        """Whatever a machine can do next; words that make no sense now are skipped."""
        match what:
            case "answer" if self.asked:
                self.asked, self.main = False, True
                self.feed(m.Spawned(pid=9))
            case "fail" if self.asked:
                self.asked = False
                self.feed(m.SpawnFailed(reason="no"))
            case "exit" if self.main:
                self.main = False
                self.feed(m.Exited(how="exit 1", empty=True))
            case "leave" if self.main:
                self.main, self.rest = False, True
                self.feed(m.Exited(how="exit 1", empty=False))
            case "empty" if self.rest:
                self.rest = False
                self.feed(m.TreeEmpty())
            case "free" if self.stay.phase is Phase.WAITING:
                self.feed(m.SlotFree())
            case "stop" if self.stay.phase is not Phase.STOPPED:
                self.feed(m.StopWanted(reason="stop"))
            case "kill" if self.stay.phase is not Phase.STOPPED:
                self.feed(m.KillWanted(reason="kill"))
            case "tick" if self.stay.phase is not Phase.STOPPED:
                self.now_s = max(self.now_s, self.stay.wake_at_s or 0.0)
                self.feed(m.Tick())
                assert self.stay.wake_at_s is None or self.stay.wake_at_s > self.now_s


WHAT = st.sampled_from(["answer", "fail", "exit", "leave", "empty", "free", "stop", "kill", "tick"])
SPECS = st.builds(
    ProcessType,
    name=st.just("web"),
    command=st.just("x"),
    stop_grace_s=st.sampled_from([0.0, 1.0, 30.0]),
    ready_after_s=st.sampled_from([0.0, 1.0]),
)


@given(SPECS, st.lists(st.tuples(WHAT, st.floats(0, 400)), max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_story_gives_two_processes_and_a_stop_always_ends(
    spec: ProcessType, story: list[tuple[str, float]]
) -> None:
    world = World(replace(NEW, spec=spec))
    for what, later_s in story:
        world.now_s += later_s
        world.happen(what)
    if world.stay.phase is not Phase.STOPPED:
        world.happen("stop")
    for what in ("answer", "tick", "leave", "tick", "empty"):
        world.happen(what)
    assert world.stay.phase is Phase.STOPPED
    assert world.stay.wake_at_s is None
    signalled = [item.signal for item in world.said if isinstance(item, m.Signal)]
    assert set(signalled) <= {"TERM", "KILL"}
