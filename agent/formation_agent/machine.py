"""The life of one stay as a transition table: (stay, event, now) → (stay, instructions).

Decides and never does: no clock, no dice, no processes. Time and jitter are arguments, the timer
is data (`wake_at_s`). A move that is not in the table raises `IllegalMove` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import structs

from formation.model import InstanceState, RestartPolicy
from formation_agent import steps
from formation_agent.stays import (
    STATE_OF,
    Event,
    Exited,
    Extended,
    Forget,
    IllegalMove,
    Instruction,
    KillWanted,
    Look,
    NotAlive,
    NotReady,
    Phase,
    Ready,
    RetryWanted,
    Signal,
    SlotFree,
    Spawn,
    Spawned,
    SpawnFailed,
    Stay,
    Step,
    StillThere,
    StoppingItself,
    StopWanted,
    Tick,
    Told,
    TreeEmpty,
    describe_duration,
)

__all__ = [
    "STATE_OF",
    "TABLE",
    "Event",
    "Exited",
    "Extended",
    "Forget",
    "IllegalMove",
    "Instruction",
    "KillWanted",
    "Look",
    "NotAlive",
    "NotReady",
    "Phase",
    "Ready",
    "RetryWanted",
    "Signal",
    "SlotFree",
    "Spawn",
    "SpawnFailed",
    "Spawned",
    "Stay",
    "Step",
    "StillThere",
    "StopWanted",
    "StoppingItself",
    "Tick",
    "Told",
    "TreeEmpty",
    "adopted",
    "advance",
    "describe_duration",
    "over",
]

_LEAVING = "it says that it is stopping"


def advance(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    """One move. `jitter` in [0, 1) is used when a delay is drawn. Raises `IllegalMove`."""
    move = TABLE[stay.phase].get(type(event))
    if move is None:
        raise IllegalMove(stay, event)
    return move(stay, event, now_s, jitter)


def adopted(
    stay: Stay, *, pid: int, attempt: int, started_s: float, ready: bool, now_s: float
) -> Stay:
    """The stay of a process that an earlier brain started; it goes on as if never left.

    `ready`: it was when that brain last wrote it down.
    """
    found = structs.replace(stay, attempt=attempt, after=Phase.BACKOFF, adopted=True)
    running, _ = steps.up(found, pid, started_s, now_s)
    if ready and steps.says_when_ready(stay):
        healthy = structs.replace(running, phase=Phase.HEALTHY, wake_at_s=None, reason="")
        return structs.replace(healthy, grace_until_s=now_s)
    return running


def over(stay: Stay, state: InstanceState) -> Stay:
    """A stay that came to its end before, as FINISHED or FAILED."""
    phase = Phase.FINISHED if state is InstanceState.FINISHED else Phase.FAILED
    return structs.replace(stay, phase=phase, after=phase, reason=stay.last_exit)


# -- moves: each is (stay, event, now_s, jitter) → (stay, instructions) ---------------------------


def _first_spawn(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    return steps.spawn(stay)


def _spawned(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, Spawned)
    return steps.up(stay, event.pid, now_s, now_s)


def _spawn_failed(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    """Nothing has run, so whatever the restart policy says about ends, there is a next try: but
    not of a run, which somebody waits for."""
    assert isinstance(event, SpawnFailed)
    if stay.assignment.run and stay.spec.restart is RestartPolicy.NEVER:
        over = structs.replace(
            stay, after=Phase.FAILED, last_exit=event.reason, reason=event.reason
        )
        return steps.at_rest(over, Phase.FAILED), ()
    return steps.again(steps.failed(stay, event.reason, 0.0, now_s, jitter), now_s)


def _exited(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, Exited)
    ended = steps.ended(stay, event, now_s, jitter)
    if event.empty:
        return steps.carry_on(ended, now_s, Forget(attempt=stay.attempt))
    reason = f"{ended.reason}; it left processes behind"
    cleaning = structs.replace(ended, phase=Phase.CLEANING, cause=reason, reason=reason)
    if stay.phase is Phase.RESTARTING:  # signalled already: its grace runs on
        return cleaning, steps.signals_to_the_rest(stay)
    return steps.signalled(cleaning, now_s)


def _cleaned(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    return steps.carry_on(stay, now_s, Forget(attempt=stay.attempt))


def _ready(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    if stay.phase is Phase.HEALTHY and stay.grace_until_s <= now_s:
        return stay, ()
    # Who was ready once has started: from now on it can be found dead.
    grace_until_s = min(stay.grace_until_s, now_s)
    healthy = structs.replace(stay, phase=Phase.HEALTHY, wake_at_s=None, reason="")
    return structs.replace(healthy, grace_until_s=grace_until_s), ()


def _not_ready_yet(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, NotReady)
    return structs.replace(stay, reason=f"not ready yet: {event.reason}"), ()


def _unready(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, NotReady)
    return structs.replace(stay, phase=Phase.UNREADY, reason=f"not ready: {event.reason}"), ()


def _not_alive(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, NotAlive)
    if now_s < stay.grace_until_s:
        return stay, ()
    return steps.restarting(stay, f"not alive: {event.reason}", now_s)


def _told(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, Told)
    return (stay if event.text == stay.told else structs.replace(stay, told=event.text)), ()


def _start_extended(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, Extended)
    if stay.phase is not Phase.STARTING and stay.grace_until_s <= now_s:
        return stay, ()
    grace_until_s = max(stay.grace_until_s, now_s + event.by_s)
    if stay.phase is Phase.STARTING and steps.says_when_ready(stay):
        stay = structs.replace(stay, wake_at_s=grace_until_s)
    return structs.replace(stay, grace_until_s=grace_until_s), ()


def _stop_extended(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, Extended)
    assert stay.deadline_s is not None
    if stay.killing:
        return stay, ()
    return steps.until(stay, max(stay.deadline_s, now_s + event.by_s), stay.look_at_s), ()


def _leaving(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    if stay.spec.stop_grace_s <= 0:
        return steps.restarting(stay, _LEAVING, now_s)
    leaving = structs.replace(stay, phase=Phase.LEAVING, cause=_LEAVING, reason=_LEAVING)
    return steps.until(leaving, now_s + stay.spec.stop_grace_s, None), ()


def _stop(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, StopWanted)
    reason = event.reason
    return steps.signalled(
        structs.replace(stay, phase=Phase.STOPPING, cause=reason, reason=reason), now_s
    )


def _drain(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    """Who sends it requests shall hear of its end before it does. Nobody waits for a run."""
    assert isinstance(event, StopWanted)
    drain_s = stay.spec.stop_drain_s
    if drain_s <= 0 or event.at_once or stay.assignment.run:
        return _stop(stay, event, now_s, jitter)
    reason = f"{event.reason}: drained for {describe_duration(drain_s)}"
    draining = structs.replace(stay, phase=Phase.DRAINING, cause=event.reason, reason=reason)
    return structs.replace(draining, wake_at_s=now_s + drain_s), ()


def _stop_while_draining(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, StopWanted)
    return _stop(stay, event, now_s, jitter) if event.at_once else (stay, ())


def _drained(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    """It serves no longer anyway."""
    return steps.drained(stay, now_s)


def _ended_while_draining(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, Exited)
    ended = structs.replace(stay, pid=0, last_exit=event.how)
    if event.empty:
        return steps.stopped(ended, Forget(attempt=stay.attempt))
    return steps.drained(ended, now_s)


def _stop_while_ending(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    """The tree is signalled already: its grace runs on."""
    assert isinstance(event, StopWanted)
    reason = event.reason
    return structs.replace(
        stay, phase=Phase.STOPPING, cause=reason, reason=reason, retry_at_s=None
    ), ()


def _kill(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, KillWanted)
    reason = event.reason
    stopping = structs.replace(
        stay, phase=Phase.STOPPING, cause=reason, reason=reason, retry_at_s=None
    )
    return steps.killed(stopping, now_s)


def _stop_idle(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, StopWanted | KillWanted)
    return steps.stopped(structs.replace(stay, reason=event.reason))


def _abort(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, StopWanted | KillWanted)
    killing = isinstance(event, KillWanted)
    reason = event.reason
    return structs.replace(
        stay, phase=Phase.ABORTING, cause=reason, reason=reason, killing=killing
    ), ()


def _abort_spawned(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, Spawned)
    running = structs.replace(stay, phase=Phase.STOPPING, pid=event.pid, started_s=now_s)
    return steps.killed(running, now_s) if stay.killing else steps.signalled(running, now_s)


def _abort_failed(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    return steps.stopped(stay)


def _exited_as_wanted(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, Exited)
    if stay.pid == 0:
        raise IllegalMove(stay, event)
    ended = structs.replace(stay, pid=0, last_exit=event.how)
    if event.empty:
        return steps.stopped(ended, Forget(attempt=stay.attempt))
    # The escalation goes on for what is left: it is never cancelled by the main process's end.
    return ended, steps.signals_to_the_rest(stay)


def _emptied_as_wanted(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    if stay.pid != 0:
        raise IllegalMove(stay, event)
    return steps.stopped(stay, Forget(attempt=stay.attempt))


def _still_there(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, StillThere)
    if not event.names:
        return stay, ()
    when = "" if stay.killing else f" after {describe_duration(steps.LOOK_AFTER_S)}"
    return structs.replace(stay, reason=f"{stay.cause}; still there{when}: {event.names}"), ()


def _retry(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    return steps.spawn(stay)


def _retry_over(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    return steps.spawn(structs.replace(stay, failures=0))


def _retry_when_clean(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    return structs.replace(stay, after=Phase.BACKOFF, retry_at_s=now_s), ()


def _tick(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    if stay.wake_at_s is None or now_s < stay.wake_at_s:
        return stay, ()
    match stay.phase:
        case Phase.STARTING:
            return steps.start_over(stay, now_s)
        case Phase.BACKOFF:
            return steps.spawn(stay)
        case Phase.DRAINING:
            return steps.drained(stay, now_s)
        case Phase.LEAVING:
            return steps.restarting(stay, f"{_LEAVING}; {steps.not_gone(stay)}", now_s)
        case _:
            assert stay.phase in (Phase.RESTARTING, Phase.CLEANING, Phase.STOPPING), stay.phase
            return steps.waited(stay, now_s)


def _stay(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    return stay, ()


# Theory of operation
#
#            SlotFree            Spawned            ready           NotReady, Ready
#   WAITING ---------> SPAWNING ---------> STARTING -----> HEALTHY <---------------> UNREADY
#                       ^  ^ |                |               |                         |
#                  Tick |  | | SpawnFailed    +-------+-------+-------------------------+
#                       |  | v                        |
#                    BACKOFF <------------------------+ Exited: at once, BACKOFF, or the end;
#                                                     |   CLEANING before that until the tree
#           FINISHED, FAILED <------------------------+   is empty
#                                                     + NotAlive: RESTARTING until it exited
#                                                     + StoppingItself: LEAVING until it exited
#
# One stay never has two processes: SPAWNING is left only by an answer, and entered again only when
# the tree of the attempt before is empty. Whatever ends a process - a stop, its death while others
# of its tree live on, not being alive - signals, waits the grace, KILLs the tree, and is over when
# the tree is empty, never when only the main process ended. What does not run (WAITING, BACKOFF,
# FINISHED, FAILED) is stopped at once; what may be about to run (SPAWNING) is ABORTING until the
# answer is there. What is HEALTHY is DRAINING first, where its type says so: it runs and serves as
# before, and its signal comes when that time is over. STOPPED is the end: a slot that is wanted
# again gets a new stay.
Move = Callable[[Stay, Event, float, float], Step]
Row = Mapping[type[Event], Move]
_UP: Row = {
    Exited: _exited,
    Ready: _ready,
    NotReady: _unready,
    NotAlive: _not_alive,
    Told: _told,
    Extended: _start_extended,
    StoppingItself: _leaving,
    StopWanted: _stop,
    KillWanted: _kill,
    RetryWanted: _stay,
    Tick: _tick,
}
_ENDING: Row = {
    StillThere: _still_there,
    Ready: _stay,
    NotReady: _stay,
    NotAlive: _stay,
    Told: _told,
    Extended: _stop_extended,
    StoppingItself: _stay,
    StopWanted: _stop_while_ending,
    KillWanted: _kill,
    RetryWanted: _stay,
    Tick: _tick,
}
_IDLE: Row = {StopWanted: _stop_idle, KillWanted: _stop_idle, RetryWanted: _stay, Tick: _tick}
TABLE: Mapping[Phase, Row] = {
    Phase.WAITING: {**_IDLE, SlotFree: _first_spawn},
    Phase.SPAWNING: {
        Spawned: _spawned,
        SpawnFailed: _spawn_failed,
        StopWanted: _abort,
        KillWanted: _abort,
        RetryWanted: _stay,
        Tick: _tick,
    },
    Phase.STARTING: {**_UP, NotReady: _not_ready_yet},
    Phase.HEALTHY: {**_UP, StopWanted: _drain},
    Phase.UNREADY: _UP,
    Phase.LEAVING: {
        **_UP,
        Ready: _stay,
        NotReady: _stay,
        NotAlive: _stay,
        Extended: _stop_extended,
        StoppingItself: _stay,
    },
    Phase.RESTARTING: {**_ENDING, Exited: _exited},
    Phase.CLEANING: {**_ENDING, TreeEmpty: _cleaned, RetryWanted: _retry_when_clean},
    Phase.BACKOFF: {**_IDLE, RetryWanted: _retry},
    Phase.FINISHED: {**_IDLE, RetryWanted: _retry_over},
    Phase.FAILED: {**_IDLE, RetryWanted: _retry_over},
    Phase.ABORTING: {
        Spawned: _abort_spawned,
        SpawnFailed: _abort_failed,
        StopWanted: _stay,
        KillWanted: _abort,
        RetryWanted: _stay,
        Tick: _tick,
    },
    Phase.DRAINING: {
        Exited: _ended_while_draining,
        Ready: _stay,
        NotReady: _stay,
        NotAlive: _drained,
        Told: _told,
        Extended: _stay,
        StoppingItself: _drained,
        StopWanted: _stop_while_draining,
        KillWanted: _kill,
        RetryWanted: _stay,
        Tick: _tick,
    },
    Phase.STOPPING: {
        **_ENDING,
        Exited: _exited_as_wanted,
        TreeEmpty: _emptied_as_wanted,
        StopWanted: _stay,
    },
    Phase.STOPPED: {},
}
