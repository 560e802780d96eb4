"""The life of one stay as a transition table: (stay, event, now) → (stay, instructions).

Decides and never does: no clock, no dice, no processes. Time and jitter are arguments, the timer
is data (`wake_at_s`). A move that is not in the table raises `IllegalMove` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from formation.model import Assignment, InstanceState, ProcessType
from formation.policy import failures_after_exit, restart_delay_s

# A KILL cannot be refused, but a process in an uninterruptible call dies late: ask again.
KILL_AGAIN_S = 5.0


class Phase(StrEnum):
    WAITING = "waiting"  # an earlier stay holds the slot
    SPAWNING = "spawning"  # a process was asked for; no answer yet
    STARTING = "starting"  # it runs, not yet long enough to be called healthy
    HEALTHY = "healthy"
    CLEANING = "cleaning"  # the main process ended by itself; the rest of its tree is being ended
    BACKOFF = "backoff"  # nothing runs; the next try has its time
    ABORTING = "aborting"  # stop wanted while a process was asked for
    STOPPING = "stopping"  # stop wanted and signalled; its tree is not empty
    STOPPED = "stopped"  # nothing runs and nothing will


STATE_OF: Mapping[Phase, InstanceState] = {
    Phase.WAITING: InstanceState.WAITING,
    Phase.SPAWNING: InstanceState.STARTING,
    Phase.STARTING: InstanceState.STARTING,
    Phase.HEALTHY: InstanceState.HEALTHY,
    Phase.CLEANING: InstanceState.BACKOFF,
    Phase.BACKOFF: InstanceState.BACKOFF,
    Phase.ABORTING: InstanceState.STOPPING,
    Phase.STOPPING: InstanceState.STOPPING,
    Phase.STOPPED: InstanceState.STOPPED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """Times are seconds of one monotonic clock. `pid` 0: the main process does not run."""

    assignment: Assignment
    spec: ProcessType
    phase: Phase = Phase.WAITING
    attempt: int = 0
    failures: int = 0
    pid: int = 0
    started_s: float = 0.0
    wake_at_s: float | None = None
    retry_at_s: float | None = None
    killing: bool = False
    reason: str = ""
    last_exit: str = ""

    @property
    def state(self) -> InstanceState:
        return STATE_OF[self.phase]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFree:
    """No other stay holds the slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnFailed:
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The main process ended: `how` for people; `empty` when nothing of its tree is left.

    `just_now` False: at some time while nobody looked.
    """

    how: str
    empty: bool
    just_now: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEmpty:
    """The last process of a tree whose main process had ended before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopWanted:
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KillWanted:
    """Stop without any grace."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed; legal at any moment before the end."""


Event = SlotFree | Spawned | SpawnFailed | Exited | TreeEmpty | StopWanted | KillWanted | Tick


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """`signal` without SIG, as in "TERM"; always to the whole group."""

    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """The tree of this attempt is gone and its end is known: nobody need remember it."""

    attempt: int


Instruction = Spawn | Signal | Forget
Step = tuple[Stay, tuple[Instruction, ...]]


class IllegalMove(Exception):
    """This event cannot happen in this phase."""

    def __init__(self, stay: Stay, event: Event) -> None:
        uid, phase = stay.assignment.uid, stay.phase
        super().__init__(f"stay {uid} ({stay.assignment.slot}): {event} while {phase}")


def describe_duration(duration_s: float) -> str:
    """For people: "0.4 s", "3 s", "12 min", "5 h", "3 days"."""
    if duration_s < 1:
        return f"{max(duration_s, 0.0):.1f} s"
    if duration_s < 60:  # noqa: PLR2004
        return f"{duration_s:.0f} s"
    for limit_s, unit_s, unit in ((3600, 60, "min"), (48 * 3600, 3600, "h")):
        if duration_s < limit_s:
            return f"{duration_s / unit_s:.0f} {unit}"
    return f"{duration_s / 86400:.0f} days"


def adopted(stay: Stay, *, pid: int, attempt: int, started_s: float, now_s: float) -> Stay:
    """The stay of a process that an earlier brain started; it goes on as if never left."""
    running = replace(stay, attempt=attempt, pid=pid, started_s=started_s)
    return _up(running, now_s)


def advance(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    """One move. `jitter` in [0, 1) is used when a delay is drawn. Raises `IllegalMove`."""
    move = TABLE.get((stay.phase, type(event)))
    if move is None:
        raise IllegalMove(stay, event)
    return move(stay, event, now_s, jitter)


# -- moves: each is (stay, event, now_s, jitter) → (stay, instructions) ---------------------------


def _first_spawn(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    return _spawn(stay)


def _spawned(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, Spawned)
    return _up(replace(stay, pid=event.pid, started_s=now_s, reason=""), now_s), ()


def _spawn_failed(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, SpawnFailed)
    return _again(_failed(stay, event.reason, 0.0, now_s, jitter), now_s)


def _exited(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, Exited)
    up_s = now_s - stay.started_s if event.just_now else None
    reason = event.how if up_s is None else f"{event.how} after {describe_duration(up_s)}"
    failed = replace(_failed(stay, reason, up_s, now_s, jitter), pid=0, last_exit=event.how)
    if event.empty:
        return _again(failed, now_s, Forget(attempt=stay.attempt))
    cleaning = replace(failed, phase=Phase.CLEANING, reason=f"{reason}; it left processes behind")
    return _signalled(cleaning, now_s)


def _cleaned(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    return _again(stay, now_s, Forget(attempt=stay.attempt))


def _stop(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, StopWanted)
    return _signalled(replace(stay, phase=Phase.STOPPING, reason=event.reason), now_s)


def _stop_while_cleaning(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    """The rest of the tree is signalled already: its grace runs on."""
    assert isinstance(event, StopWanted)
    return replace(stay, phase=Phase.STOPPING, reason=event.reason, retry_at_s=None), ()


def _kill(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, KillWanted)
    stopping = replace(stay, phase=Phase.STOPPING, reason=event.reason, retry_at_s=None)
    return _killed(stopping, now_s)


def _stop_idle(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, StopWanted | KillWanted)
    return _stopped(replace(stay, reason=event.reason))


def _abort(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, StopWanted | KillWanted)
    killing = isinstance(event, KillWanted)
    return replace(stay, phase=Phase.ABORTING, reason=event.reason, killing=killing), ()


def _abort_spawned(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, Spawned)
    running = replace(stay, phase=Phase.STOPPING, pid=event.pid, started_s=now_s)
    return _killed(running, now_s) if stay.killing else _signalled(running, now_s)


def _abort_failed(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    return _stopped(stay)


def _exited_as_wanted(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    assert isinstance(event, Exited)
    if stay.pid == 0:
        raise IllegalMove(stay, event)
    ended = replace(stay, pid=0, last_exit=event.how)
    # The escalation goes on for what is left: it is never cancelled by the main process's end.
    return _stopped(ended, Forget(attempt=stay.attempt)) if event.empty else (ended, ())


def _emptied_as_wanted(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    if stay.pid != 0:
        raise IllegalMove(stay, event)
    return _stopped(stay, Forget(attempt=stay.attempt))


def _tick(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    if stay.wake_at_s is None or now_s < stay.wake_at_s:
        return stay, ()
    if stay.phase is Phase.STARTING:
        return replace(stay, phase=Phase.HEALTHY, wake_at_s=None), ()
    if stay.phase is Phase.BACKOFF:
        return _spawn(stay)
    assert stay.phase in (Phase.CLEANING, Phase.STOPPING), stay.phase
    if not stay.killing:
        grace = describe_duration(stay.spec.stop_grace_s)
        stay = replace(stay, reason=f"{stay.reason}; not gone within {grace}: killed")
    return _killed(stay, now_s)


def _stay(stay: Stay, event: Event, now_s: float, jitter: float) -> Step:
    return stay, ()


# -- what the moves are made of --------------------------------------------------------------------


def _spawn(stay: Stay, *before: Instruction) -> Step:
    attempt = stay.attempt + 1
    spawning = replace(
        stay, phase=Phase.SPAWNING, attempt=attempt, wake_at_s=None, retry_at_s=None, killing=False
    )
    return spawning, (*before, Spawn(attempt=attempt))


def _up(stay: Stay, now_s: float) -> Stay:
    ready_at_s = stay.started_s + stay.spec.ready_after_s
    if ready_at_s <= now_s:
        return replace(stay, phase=Phase.HEALTHY, wake_at_s=None)
    return replace(stay, phase=Phase.STARTING, wake_at_s=ready_at_s)


def _failed(stay: Stay, reason: str, up_s: float | None, now_s: float, jitter: float) -> Stay:
    failures = failures_after_exit(stay.failures, up_s)
    retry_at_s = now_s + restart_delay_s(failures, jitter)
    return replace(stay, failures=failures, retry_at_s=retry_at_s, reason=reason)


def _again(stay: Stay, now_s: float, *before: Instruction) -> Step:
    """The next try: now, or when its time has come."""
    assert stay.retry_at_s is not None
    if stay.retry_at_s <= now_s:
        return _spawn(stay, *before)
    return replace(stay, phase=Phase.BACKOFF, wake_at_s=stay.retry_at_s), before


def _signalled(stay: Stay, now_s: float) -> Step:
    if stay.spec.stop_grace_s <= 0:
        return _killed(stay, now_s)
    wake_at_s = now_s + stay.spec.stop_grace_s
    return replace(stay, wake_at_s=wake_at_s), (Signal(signal=stay.spec.stop_signal),)


def _killed(stay: Stay, now_s: float) -> Step:
    return replace(stay, killing=True, wake_at_s=now_s + KILL_AGAIN_S), (Signal(signal="KILL"),)


def _stopped(stay: Stay, *before: Instruction) -> Step:
    return replace(stay, phase=Phase.STOPPED, pid=0, wake_at_s=None, retry_at_s=None), before


# Theory of operation
#
#            SlotFree            Spawned             Tick
#   WAITING ---------> SPAWNING ---------> STARTING ------> HEALTHY
#                       ^  ^ |                |  Exited       |
#                  Tick |  | | SpawnFailed    +-------+-------+
#                       |  | v                        | tree empty: at once, or BACKOFF
#                    BACKOFF <------------------------+ else: CLEANING until it is
#
# One stay never has two processes: SPAWNING is left only by an answer, and entered again only when
# the tree of the attempt before is empty. A stop signals the whole group, waits the grace, KILLs
# the group, and is over when the tree is empty - never when only the main process ended. What does
# not run (WAITING, BACKOFF) is stopped at once; what may be about to run (SPAWNING) is ABORTING
# until the answer is there. STOPPED is the end: a slot that is wanted again gets a new stay.
Move = Callable[[Stay, Event, float, float], Step]
TABLE: Mapping[tuple[Phase, type[Event]], Move] = {
    (Phase.WAITING, SlotFree): _first_spawn,
    (Phase.WAITING, StopWanted): _stop_idle,
    (Phase.WAITING, KillWanted): _stop_idle,
    (Phase.WAITING, Tick): _tick,
    (Phase.SPAWNING, Spawned): _spawned,
    (Phase.SPAWNING, SpawnFailed): _spawn_failed,
    (Phase.SPAWNING, StopWanted): _abort,
    (Phase.SPAWNING, KillWanted): _abort,
    (Phase.SPAWNING, Tick): _tick,
    (Phase.STARTING, Exited): _exited,
    (Phase.STARTING, StopWanted): _stop,
    (Phase.STARTING, KillWanted): _kill,
    (Phase.STARTING, Tick): _tick,
    (Phase.HEALTHY, Exited): _exited,
    (Phase.HEALTHY, StopWanted): _stop,
    (Phase.HEALTHY, KillWanted): _kill,
    (Phase.HEALTHY, Tick): _tick,
    (Phase.CLEANING, TreeEmpty): _cleaned,
    (Phase.CLEANING, StopWanted): _stop_while_cleaning,
    (Phase.CLEANING, KillWanted): _kill,
    (Phase.CLEANING, Tick): _tick,
    (Phase.BACKOFF, StopWanted): _stop_idle,
    (Phase.BACKOFF, KillWanted): _stop_idle,
    (Phase.BACKOFF, Tick): _tick,
    (Phase.ABORTING, Spawned): _abort_spawned,
    (Phase.ABORTING, SpawnFailed): _abort_failed,
    (Phase.ABORTING, StopWanted): _stay,
    (Phase.ABORTING, KillWanted): _abort,
    (Phase.ABORTING, Tick): _tick,
    (Phase.STOPPING, Exited): _exited_as_wanted,
    (Phase.STOPPING, TreeEmpty): _emptied_as_wanted,
    (Phase.STOPPING, StopWanted): _stay,
    (Phase.STOPPING, KillWanted): _kill,
    (Phase.STOPPING, Tick): _tick,
}
