"""The life of one stay: restart policy, readiness, liveness, slow ends, other brains."""

from __future__ import annotations

import pytest
from msgspec import structs
from stay_bench import EVENTS, NEW, PROBE, STAYS, having, play

from formation.model import InstanceState, RestartPolicy, StopTo
from formation.policy import is_crash_looping
from formation_agent import machine as m
from formation_agent.machine import Phase

# -- what an end is followed by --------------------------------------------------------------------


def ends(stay: m.Stay, code: int, *, empty: bool = True) -> m.Stay:
    exited = m.Exited(how=f"exit {code}", success=code == 0, empty=empty)
    return play(stay, (0, m.SlotFree()), (0, m.Spawned(pid=7)), (5, exited))[0]


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [
        (RestartPolicy.ALWAYS, 0, Phase.SPAWNING),
        (RestartPolicy.ALWAYS, 1, Phase.SPAWNING),
        (RestartPolicy.ON_FAILURE, 0, Phase.FINISHED),
        (RestartPolicy.ON_FAILURE, 1, Phase.SPAWNING),
        (RestartPolicy.NEVER, 0, Phase.FINISHED),
        (RestartPolicy.NEVER, 1, Phase.FAILED),
    ],
)
def test_the_restart_policy_says_what_follows_an_end(
    policy: RestartPolicy, code: int, phase: Phase
) -> None:
    stay = ends(having(restart=policy), code)
    assert stay.phase is phase
    assert (stay.reason, stay.last_exit) == (f"exit {code} after 5 s", f"exit {code}")
    assert stay.failures == (0 if phase is Phase.FINISHED else 1)


def test_what_is_over_is_over_only_when_its_tree_is_empty() -> None:
    stay = ends(having(restart=RestartPolicy.ON_FAILURE), 0, empty=False)
    assert (stay.phase, stay.state) == (Phase.CLEANING, InstanceState.STOPPING)
    after, last = play(stay, (6, m.TreeEmpty()))
    assert (after.state, last) == (InstanceState.FINISHED, [m.Forget(attempt=1)])
    assert after.reason == "exit 0 after 5 s; it left processes behind"


def test_what_never_ran_is_tried_again_whatever_the_policy_says_of_ends() -> None:
    failed = m.SpawnFailed(reason="port 80 is taken by another program")
    for policy in RestartPolicy:
        stay, _ = play(having(restart=policy), (0, m.SlotFree()), (0, failed), (0, failed))
        assert (stay.phase, stay.reason) == (Phase.BACKOFF, failed.reason)


def test_an_operator_can_have_another_try_at_once_and_a_new_row_for_what_was_over() -> None:
    retry = m.RetryWanted()
    waiting, said = play(structs.replace(STAYS[Phase.BACKOFF], failures=5), (100, retry))
    assert (waiting.phase, waiting.failures, said) == (Phase.SPAWNING, 5, [m.Spawn(attempt=3)])
    over = ends(having(restart=RestartPolicy.NEVER), 1)
    again, said = play(over, (100, retry))
    assert (again.phase, again.failures, said) == (Phase.SPAWNING, 0, [m.Spawn(attempt=2)])
    cleaning = ends(having(restart=RestartPolicy.NEVER), 1, empty=False)
    again, said = play(cleaning, (100, retry), (101, m.TreeEmpty()))
    assert said == [m.Forget(attempt=1), m.Spawn(attempt=2)]


def test_a_stay_that_came_from_another_host_goes_on_with_its_row_of_failures() -> None:
    stay = ends(structs.replace(NEW, failures=5), 1)
    assert (stay.phase, stay.failures, stay.retry_at_s) == (Phase.BACKOFF, 6, 21.0)
    assert stay.reason == "exit 1 after 5 s (6th time in a row)"


def test_the_last_five_failures_are_remembered_for_who_asks_whether_it_loops() -> None:
    stay, now_s = NEW, 0.0
    stay, _ = play(stay, (0, m.SlotFree()))
    for count in range(1, 8):
        stay, _ = play(stay, (now_s, m.Spawned(pid=7)), (now_s, EVENTS["exit"]))
        assert len(stay.failed_at_s) == min(count, 5)
        assert is_crash_looping(stay.failed_at_s, now_s) == (count >= 5)
        now_s = stay.wake_at_s or now_s
        stay, _ = play(stay, (now_s, m.Tick()))


@pytest.mark.parametrize(
    ("number", "text"),
    [(2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (21, "21st"), (113, "113th")],
)
def test_failures_in_a_row_are_counted_in_english(number: int, text: str) -> None:
    assert ends(structs.replace(NEW, failures=number - 1), 1).reason.endswith(
        f"({text} time in a row)"
    )


# -- readiness -------------------------------------------------------------------------------------

BY_PROBE, BY_NOTIFY = having(readiness=PROBE), having(notify=True)


def up(stay: m.Stay, *story: tuple[float, m.Event]) -> m.Stay:
    return play(stay, (0, m.SlotFree()), (0, m.Spawned(pid=7)), *story)[0]


def test_who_says_when_it_is_ready_is_not_ready_by_time() -> None:
    for stay in (BY_PROBE, BY_NOTIFY):
        starting = up(stay, (29, m.Tick()))
        assert (starting.state, starting.wake_at_s) == (InstanceState.STARTING, 30)
        ready = play(starting, (29, m.Ready()))[0]
        assert (ready.state, ready.wake_at_s, ready.reason) == (InstanceState.HEALTHY, None, "")


def test_failing_readiness_only_marks() -> None:
    refused = m.NotReady(reason="connection refused")
    starting = up(BY_PROBE, (5, refused))
    assert (starting.phase, starting.reason) == (
        Phase.STARTING,
        "not ready yet: connection refused",
    )
    late, said = play(starting, (30, m.Tick()))
    assert (late.state, said) == (InstanceState.UNREADY, [])
    assert late.reason == "not ready within 30 s: connection refused"
    ready = play(late, (31, m.Ready()))[0]
    assert (ready.state, ready.reason) == (InstanceState.HEALTHY, "")
    again = play(ready, (40, refused))[0]
    assert (again.state, again.reason) == (InstanceState.UNREADY, "not ready: connection refused")


def test_who_does_not_say_ready_in_time_is_restarted() -> None:
    late, said = play(up(BY_NOTIFY), (30, m.Tick()))
    assert (late.state, late.reason) == (InstanceState.RESTARTING, "not ready within 30 s")
    assert said == [m.Signal(signal="TERM")]
    gone, said = play(late, (31, m.Exited(how="exit 0", success=True, empty=True)))
    assert (gone.phase, gone.failures) == (Phase.SPAWNING, 1)
    assert gone.reason == "not ready within 30 s; exit 0 after 31 s"


def test_who_asks_for_more_time_to_start_gets_it() -> None:
    starting = up(BY_NOTIFY, (20, m.Extended(by_s=40)), (21, m.Extended(by_s=5)))
    assert starting.wake_at_s == 60
    assert play(starting, (60, m.Tick()))[0].reason == "not ready within 1 min"
    by_time = up(NEW, (0.5, m.Extended(by_s=100)))
    assert (by_time.wake_at_s, by_time.grace_until_s) == (1, 100.5)


# -- liveness --------------------------------------------------------------------------------------

DEAD = m.NotAlive(reason="no answer within 1 s")


def test_a_dead_process_is_ended_with_its_tree_and_started_again() -> None:
    stay, said = play(up(NEW, (1, m.Tick())), (40, DEAD))
    assert (stay.state, stay.reason) == (
        InstanceState.RESTARTING,
        "not alive: no answer within 1 s",
    )
    assert said == [m.Signal(signal="TERM")]
    stay, said = play(stay, (41, DEAD), (70, m.Tick()))
    assert said == [m.Look(), m.Signal(signal="KILL")]
    killed = m.Exited(how="signal KILL", empty=False)
    stay, said = play(stay, (70.5, killed), (75, m.Tick()), (76, m.TreeEmpty()))
    assert said == [m.Look(), m.Signal(signal="KILL"), m.Forget(attempt=1), m.Spawn(attempt=2)]
    assert (stay.phase, stay.failures) == (Phase.SPAWNING, 1)
    assert stay.reason == (
        "not alive: no answer within 1 s; not gone within 30 s: killed; signal KILL after 1 min;"
        " it left processes behind"
    )


def test_a_dead_process_of_a_type_that_is_never_restarted_has_failed() -> None:
    ended = m.Exited(how="exit 0", success=True, empty=True)
    for policy, phase in ((RestartPolicy.NEVER, "failed"), (RestartPolicy.ON_FAILURE, "spawning")):
        stay = up(having(restart=policy), (1, m.Tick()), (40, DEAD), (41, ended))
        assert stay.phase == phase


def test_nobody_is_found_dead_within_the_start_grace_before_it_was_ready_once() -> None:
    by_time = up(NEW, (1, m.Tick()))
    assert by_time.phase is Phase.HEALTHY
    assert play(by_time, (29, DEAD))[0] is by_time
    assert play(by_time, (30, DEAD))[0].phase is Phase.RESTARTING
    ready = up(BY_PROBE, (3, m.Ready()))
    assert play(ready, (4, DEAD))[0].phase is Phase.RESTARTING


def test_who_is_stopped_while_it_is_restarted_is_not_started_again() -> None:
    stay, said = play(STAYS[Phase.RESTARTING], (100, m.StopWanted(reason="unwanted")))
    assert (stay.phase, stay.deadline_s, said) == (Phase.STOPPING, 120.0, [])
    gone, said = play(stay, (101, m.Exited(how="exit 0", empty=True)))
    assert (gone.phase, said) == (Phase.STOPPED, [m.Forget(attempt=1)])


# -- what it says of its own end -------------------------------------------------------------------


def test_who_says_that_it_stops_has_its_grace_for_that_and_need_not_be_ready() -> None:
    stay = up(NEW, (1, m.Tick()), (50, m.StoppingItself()), (60, DEAD))
    assert (stay.state, stay.reason) == (InstanceState.UNREADY, "it says that it is stopping")
    assert stay.wake_at_s == 80
    gone = play(stay, (70, m.Exited(how="exit 0", empty=True)))[0]
    assert (gone.phase, gone.reason) == (Phase.SPAWNING, "exit 0 after 1 min")
    late, said = play(stay, (80, m.Tick()))
    assert (late.phase, said) == (Phase.RESTARTING, [m.Signal(signal="TERM")])
    assert late.reason == "it says that it is stopping; not gone within 30 s"
    extended = play(stay, (79, m.Extended(by_s=60)), (80, m.Tick()))[0]
    assert (extended.phase, extended.wake_at_s) == (Phase.LEAVING, 139)


def test_a_stop_can_be_extended_by_who_is_stopped_until_it_is_killed() -> None:
    stay = up(NEW, (5, m.StopWanted(reason="")), (30, m.Extended(by_s=10)))
    assert stay.deadline_s == 40
    stay, said = play(stay, (39, m.Tick()), (40, m.Tick()), (41, m.Extended(by_s=100)))
    assert said == [m.Look(), m.Look(), m.Signal(signal="KILL")]
    assert stay.wake_at_s == 45


def test_what_it_tells_is_kept_until_the_next_start() -> None:
    stay = up(NEW, (1, m.Told(text="42 clients")))
    assert stay.told == "42 clients"
    assert play(stay, (2, m.Told(text="42 clients")))[0] is stay
    assert play(stay, (2, EVENTS["exit"]))[0].told == ""


# -- how a process is ended ------------------------------------------------------------------------


def test_a_slow_stop_says_who_is_still_there_before_and_when_it_is_killed() -> None:
    there = m.StillThere(names="4711 (python), 4712 (sleep)")
    stay, said = play(up(NEW), (10, m.StopWanted(reason="unwanted")), (15, m.Tick()))
    assert said == [m.Signal(signal="TERM"), m.Look()]
    assert play(stay, (15, m.StillThere(names="")))[0] is stay
    stay, _ = play(stay, (15, there))
    assert stay.reason == "unwanted; still there after 5 s: 4711 (python), 4712 (sleep)"
    stay, said = play(stay, (40, m.Tick()), (40, there))
    assert said == [m.Look(), m.Signal(signal="KILL")]
    killed = "unwanted; not gone within 30 s: killed; still there: 4711 (python), 4712 (sleep)"
    assert stay.reason == killed
    assert play(stay, (45, m.Tick()), (45, there))[0].reason == killed


def test_a_signal_to_the_main_process_alone_reaches_the_rest_when_that_has_ended() -> None:
    stay = up(having(stop_to=StopTo.MAIN))
    stopping, said = play(stay, (10, m.StopWanted(reason="")))
    assert said == [m.Signal(signal="TERM", whole_group=False)]
    left = m.Exited(how="exit 0", empty=False)
    assert play(stopping, (11, left))[1] == [m.Signal(signal="TERM")]
    # What is left of the grace is the rest's too, and a KILL is for everybody.
    assert play(stopping, (40, m.Tick()))[1][-1] == m.Signal(signal="KILL")
    assert play(stay, (10, left))[1] == [m.Signal(signal="TERM")]
    dying, said = play(stay, (40, DEAD), (41, left))
    assert said == [m.Signal(signal="TERM", whole_group=False), m.Signal(signal="TERM")]
    assert (dying.phase, dying.deadline_s) == (Phase.CLEANING, 70)


# -- draining --------------------------------------------------------------------------------------

UNWANTED = m.StopWanted(reason="unwanted")
DRAINED = play(having(stop_drain_s=5), (0, m.SlotFree()), (0, m.Spawned(pid=7)), (1, m.Tick()))[0]


def test_what_is_healthy_drains_before_it_gets_its_signal() -> None:
    draining, said = play(DRAINED, (10, UNWANTED), (11, UNWANTED))
    assert (draining.state, draining.pid, draining.wake_at_s) == (InstanceState.DRAINING, 7, 15)
    assert (said, draining.reason) == ([], "unwanted: drained for 5 s")
    assert play(draining, (14.9, m.Tick())) == (draining, [])
    stopping, said = play(draining, (15, m.Tick()))
    assert (stopping.state, said) == (InstanceState.STOPPING, [m.Signal(signal="TERM")])
    # The grace begins with the signal.
    assert (stopping.deadline_s, stopping.reason) == (45, "unwanted")


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.UNREADY, Phase.LEAVING])
def test_what_serves_nobody_is_not_drained(phase: Phase) -> None:
    stay = structs.replace(STAYS[phase], spec=having(stop_drain_s=5).spec)
    assert play(stay, (100, UNWANTED))[1] == [m.Signal(signal="TERM")]


def test_a_run_is_not_drained() -> None:
    stay = structs.replace(DRAINED, assignment=structs.replace(DRAINED.assignment, run="r1"))
    assert play(stay, (10, UNWANTED))[0].phase is Phase.STOPPING


def test_a_drain_ends_early_when_it_must_stop_at_once_or_serves_no_more() -> None:
    draining, _ = play(DRAINED, (10, UNWANTED))
    for event in (EVENTS["now"], DEAD, m.StoppingItself()):
        stopping, said = play(draining, (11, event))
        assert (stopping.phase, said) == (Phase.STOPPING, [m.Signal(signal="TERM")])
    assert play(draining, (11, EVENTS["kill"]))[1] == [m.Signal(signal="KILL")]
    assert play(DRAINED, (10, EVENTS["now"]))[0].phase is Phase.STOPPING


def test_what_ends_while_it_is_drained_is_not_started_again() -> None:
    draining, _ = play(DRAINED, (10, UNWANTED))
    stopped, said = play(draining, (11, m.Exited(how="exit 1", empty=True)))
    assert (stopped.phase, said) == (Phase.STOPPED, [m.Forget(attempt=1)])
    rest, said = play(draining, (11, m.Exited(how="exit 1", empty=False)))
    assert (rest.phase, rest.pid, said) == (Phase.STOPPING, 0, [m.Signal(signal="TERM")])
    assert play(rest, (12, m.TreeEmpty()))[0].phase is Phase.STOPPED


def test_what_crashes_or_is_not_alive_is_not_drained() -> None:
    assert play(DRAINED, (90, DEAD))[1] == [m.Signal(signal="TERM")]
    assert play(DRAINED, (90, m.Exited(how="exit 1", empty=True)))[0].phase is Phase.SPAWNING


# -- after a brain's death -------------------------------------------------------------------------


def adopted(stay: m.Stay, *, age_s: float, ready: bool = False) -> m.Stay:
    return m.adopted(stay, pid=7, attempt=3, started_s=100 - age_s, ready=ready, now_s=100)


def test_a_process_of_an_earlier_brain_goes_on_where_it_was() -> None:
    young, old = adopted(NEW, age_s=0.5), adopted(NEW, age_s=50)
    assert (young.phase, young.wake_at_s, young.attempt) == (Phase.STARTING, 100.5, 3)
    assert (old.phase, old.wake_at_s) == (Phase.HEALTHY, None)


def test_who_was_ready_for_an_earlier_brain_is_still_and_can_be_found_dead() -> None:
    for stay in (BY_PROBE, BY_NOTIFY):
        ready = adopted(stay, age_s=3, ready=True)
        assert ready.phase is Phase.HEALTHY
        assert play(ready, (100, DEAD))[0].phase is Phase.RESTARTING


def test_nobody_is_restarted_for_what_it_may_have_said_to_an_earlier_brain() -> None:
    young = adopted(BY_NOTIFY, age_s=3)
    assert (young.phase, young.wake_at_s) == (Phase.STARTING, 127)
    late, said = play(young, (127, m.Tick()))
    assert (late.phase, said) == (Phase.UNREADY, [])
    assert adopted(BY_NOTIFY, age_s=50).phase is Phase.UNREADY
    # What this brain starts itself is held to it.
    again = play(late, (130, EVENTS["exit"]), (130, m.Spawned(pid=8)), (160, m.Tick()))[0]
    assert again.phase is Phase.RESTARTING


def test_what_was_over_is_still_over() -> None:
    ended = structs.replace(NEW, attempt=2, last_exit="exit 0")
    stay = m.over(ended, InstanceState.FINISHED)
    assert (stay.state, stay.attempt, stay.reason) == (InstanceState.FINISHED, 2, "exit 0")
    assert m.over(ended, InstanceState.FAILED).state is InstanceState.FAILED
