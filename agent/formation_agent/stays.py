"""The words of the machine: phases of a stay, what can happen to it, what it asks for in turn.

Data only. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from formation.model import Assignment, InstanceState, ProcessType


class Phase(StrEnum):
    WAITING = "waiting"  # an earlier stay holds the slot
    SPAWNING = "spawning"  # a process was asked for; no answer yet
    STARTING = "starting"  # it runs and is not ready yet
    HEALTHY = "healthy"
    UNREADY = "unready"  # it runs, and its readiness fails
    LEAVING = "leaving"  # it said that it is ending itself
    RESTARTING = "restarting"  # it is being ended because it is not alive
    CLEANING = "cleaning"  # the main process has ended; the rest of its tree is being ended
    BACKOFF = "backoff"  # nothing runs; the next try has its time
    FINISHED = "finished"  # nothing runs: it is done
    FAILED = "failed"  # nothing runs: it failed, and its policy says no more
    ABORTING = "aborting"  # stop wanted while a process was asked for
    DRAINING = "draining"  # stop wanted; it still serves whoever has not heard of that
    STOPPING = "stopping"  # stop wanted and signalled; its tree is not empty
    STOPPED = "stopped"  # nothing runs and nothing will


STATE_OF: Mapping[Phase, InstanceState] = {
    Phase.WAITING: InstanceState.WAITING,
    Phase.SPAWNING: InstanceState.STARTING,
    Phase.STARTING: InstanceState.STARTING,
    Phase.HEALTHY: InstanceState.HEALTHY,
    Phase.UNREADY: InstanceState.UNREADY,
    Phase.LEAVING: InstanceState.UNREADY,
    Phase.RESTARTING: InstanceState.RESTARTING,
    Phase.CLEANING: InstanceState.BACKOFF,
    Phase.BACKOFF: InstanceState.BACKOFF,
    Phase.FINISHED: InstanceState.FINISHED,
    Phase.FAILED: InstanceState.FAILED,
    Phase.ABORTING: InstanceState.STOPPING,
    Phase.DRAINING: InstanceState.DRAINING,
    Phase.STOPPING: InstanceState.STOPPING,
    Phase.STOPPED: InstanceState.STOPPED,
}


class Stay(Struct, frozen=True, kw_only=True, gc=False):
    """`pid` 0: the main process does not run.

    `wake_at_s` is the one timer. `grace_until_s`: until then it need not be ready, and is not
    found dead. `deadline_s` and `look_at_s`, while it is being ended: when it is killed, and when
    somebody looks who is still there. `cause`: why it is being ended. `after`: what follows when
    the tree is empty. `failed_at_s`: the last failures. `adopted`: an earlier brain started it.
    """

    assignment: Assignment
    spec: ProcessType
    phase: Phase = Phase.WAITING
    attempt: int = 0
    failures: int = 0
    failed_at_s: tuple[float, ...] = ()
    pid: int = 0
    started_s: float = 0.0
    grace_until_s: float = 0.0
    wake_at_s: float | None = None
    retry_at_s: float | None = None
    deadline_s: float | None = None
    look_at_s: float | None = None
    after: Phase = Phase.BACKOFF
    killing: bool = False
    adopted: bool = False
    cause: str = ""
    reason: str = ""
    last_exit: str = ""
    told: str = ""

    @property
    def state(self) -> InstanceState:
        if self.phase is Phase.CLEANING and self.after is not Phase.BACKOFF:
            return InstanceState.STOPPING
        return STATE_OF[self.phase]


# -- events of its slot and of its process ---------------------------------------------------------


class SlotFree(Struct, frozen=True, kw_only=True, gc=False):
    """No other stay holds the slot."""


class Spawned(Struct, frozen=True, kw_only=True, gc=False):
    pid: int


class SpawnFailed(Struct, frozen=True, kw_only=True, gc=False):
    reason: str


class Exited(Struct, frozen=True, kw_only=True, gc=False):
    """The main process ended: `how` for people; `success` is exit 0; `empty` when nothing of its
    tree is left. `just_now` False: at some time while nobody looked.
    """

    how: str
    empty: bool
    success: bool = False
    just_now: bool = True


class TreeEmpty(Struct, frozen=True, kw_only=True, gc=False):
    """The last process of a tree whose main process had ended before."""


class StillThere(Struct, frozen=True, kw_only=True, gc=False):
    """The answer to `Look`; `names` for people: "4711 (python), 4712 (sleep)"."""

    names: str


# -- events of its health; `reason` and `text` are for people, one line ----------------------------


class Ready(Struct, frozen=True, kw_only=True, gc=False):
    """It said READY=1, or its readiness probe passes."""


class NotReady(Struct, frozen=True, kw_only=True, gc=False):
    """Its readiness probe fails. Told as it is, also within the start grace."""

    reason: str


class NotAlive(Struct, frozen=True, kw_only=True, gc=False):
    """Its liveness probe fails, or its watchdog was not fed. To be told again while it lasts:
    within the start grace it does not count."""

    reason: str


class Told(Struct, frozen=True, kw_only=True, gc=False):
    """STATUS=."""

    text: str


class Extended(Struct, frozen=True, kw_only=True, gc=False):
    """EXTEND_TIMEOUT_USEC: the start grace or stop grace that is running lasts at least `by_s`
    from now."""

    by_s: float


class StoppingItself(Struct, frozen=True, kw_only=True, gc=False):
    """STOPPING=1: it ends by itself within the stop grace; until then it need not be ready."""


# -- events of people, and of time -----------------------------------------------------------------


class StopWanted(Struct, frozen=True, kw_only=True, gc=False):
    """`at_once`: without a drain; one that goes on ends."""

    reason: str
    at_once: bool = False


class KillWanted(Struct, frozen=True, kw_only=True, gc=False):
    """Stop without any grace."""

    reason: str


class RetryWanted(Struct, frozen=True, kw_only=True, gc=False):
    """Do not wait for the next try, and try again what was over."""


class Tick(Struct, frozen=True, kw_only=True, gc=False):
    """Time has passed; legal at any moment before the end."""


Event = (
    SlotFree
    | Spawned
    | SpawnFailed
    | Exited
    | TreeEmpty
    | StillThere
    | Ready
    | NotReady
    | NotAlive
    | Told
    | Extended
    | StoppingItself
    | StopWanted
    | KillWanted
    | RetryWanted
    | Tick
)


# -- instructions ----------------------------------------------------------------------------------


class Spawn(Struct, frozen=True, kw_only=True, gc=False):
    attempt: int


class Signal(Struct, frozen=True, kw_only=True, gc=False):
    """`signal` without SIG, as in "TERM"; to the whole tree, or to the main process alone."""

    signal: str
    whole_group: bool = True


class Look(Struct, frozen=True, kw_only=True, gc=False):
    """Which processes of the tree live? Before anything that follows; answer: `StillThere`."""


class Forget(Struct, frozen=True, kw_only=True, gc=False):
    """The tree of this attempt is gone and its end is known: nobody need remember it."""

    attempt: int


Instruction = Spawn | Signal | Look | Forget
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


class Happened(StrEnum):
    """What is counted of a move."""

    STARTED = "started"
    RESTARTED = "restarted"
    FAILED = "failed"
    UNREADY = "unready"
    NOT_ALIVE = "not alive"
    STOPPED = "stopped"
    KILLED = "killed"


def happened(event: Event, before: Stay, after: Stay) -> tuple[Happened, ...]:
    """What one move is counted as."""
    found = []
    if isinstance(event, Spawned):
        found.append(Happened.STARTED)
        if after.attempt > 1:
            found.append(Happened.RESTARTED)
    if after.failures > before.failures:
        found.append(Happened.FAILED)
    if after.phase is Phase.UNREADY and before.phase is not Phase.UNREADY:
        found.append(Happened.UNREADY)
    moved = after.phase is not before.phase
    if isinstance(event, NotAlive) and moved and after.phase is Phase.RESTARTING:
        found.append(Happened.NOT_ALIVE)
    if isinstance(event, StopWanted) and moved:
        found.append(Happened.STOPPED)
    if after.killing and not before.killing:
        found.append(Happened.KILLED)
    return tuple(found)
