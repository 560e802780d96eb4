"""One stay's machine for tests: a plain stay in every phase, every event, and stories of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from msgspec import structs

from formation.model import Assignment, Probe, ProbeKind, ProcessType, Slot
from formation_agent import machine as m
from formation_agent.machine import Phase

ASSIGNMENT = Assignment(uid="u1", slot=Slot("shop", "web", 1), release=1)
SPEC = ProcessType(name="web", command="x", stop_signal="TERM", stop_grace_s=30, ready_after_s=1)
NEW = m.Stay(assignment=ASSIGNMENT, spec=SPEC)
JITTER = 0.5
PROBE = Probe(kind=ProbeKind.HTTP, target="/")

# By the name of their column below.
EVENTS: Mapping[str, m.Event] = {
    "free": m.SlotFree(),
    "spawned": m.Spawned(pid=7),
    "failed": m.SpawnFailed(reason="command not found: x"),
    "exit": m.Exited(how="exit 1", empty=True),
    "exit+": m.Exited(how="exit 1", empty=False),
    "done": m.Exited(how="exit 0", success=True, empty=True),
    "empty": m.TreeEmpty(),
    "there": m.StillThere(names="7 (x)"),
    "ready": m.Ready(),
    "unready": m.NotReady(reason="refused"),
    "dead": m.NotAlive(reason="timed out"),
    "told": m.Told(text="warming up"),
    "extend": m.Extended(by_s=60),
    "leaves": m.StoppingItself(),
    "stop": m.StopWanted(reason="no longer wanted"),
    "now": m.StopWanted(reason="the agent is stopping", at_once=True),
    "kill": m.KillWanted(reason="at once"),
    "retry": m.RetryWanted(),
    "tick": m.Tick(),
}


def play(stay: m.Stay, *story: tuple[float, m.Event]) -> tuple[m.Stay, list[m.Instruction]]:
    """All moves of a story; returns the last stay and what was instructed on the way."""
    said: list[m.Instruction] = []
    for now_s, event in story:
        stay, instructions = m.advance(stay, event, now_s, JITTER)
        said += instructions
    return stay, said


def having(**fields: Any) -> m.Stay:
    """A new stay of a type that differs from the plain one."""
    return structs.replace(NEW, spec=replace(SPEC, **fields))


RUNNING = structs.replace(NEW, attempt=1, pid=7, started_s=50.0, grace_until_s=80.0)
ENDING = structs.replace(
    RUNNING, wake_at_s=105.0, look_at_s=105.0, deadline_s=120.0, cause="because"
)
# The plain representative of each phase at 100 s, when no timer is due.
STAYS = {
    Phase.WAITING: NEW,
    Phase.SPAWNING: structs.replace(NEW, attempt=1, phase=Phase.SPAWNING),
    Phase.STARTING: structs.replace(RUNNING, phase=Phase.STARTING, started_s=99.5, wake_at_s=100.5),
    Phase.HEALTHY: structs.replace(RUNNING, phase=Phase.HEALTHY),
    Phase.UNREADY: structs.replace(RUNNING, phase=Phase.UNREADY),
    Phase.LEAVING: structs.replace(ENDING, phase=Phase.LEAVING, look_at_s=None, wake_at_s=120.0),
    Phase.RESTARTING: structs.replace(ENDING, phase=Phase.RESTARTING),
    Phase.CLEANING: structs.replace(
        ENDING, phase=Phase.CLEANING, pid=0, failures=1, retry_at_s=99.0
    ),
    Phase.BACKOFF: structs.replace(
        NEW, attempt=2, failures=2, phase=Phase.BACKOFF, wake_at_s=101.0, retry_at_s=101.0
    ),
    Phase.FINISHED: structs.replace(NEW, attempt=1, phase=Phase.FINISHED, after=Phase.FINISHED),
    Phase.FAILED: structs.replace(NEW, attempt=1, phase=Phase.FAILED, after=Phase.FAILED),
    Phase.ABORTING: structs.replace(NEW, attempt=1, phase=Phase.ABORTING),
    Phase.DRAINING: structs.replace(
        RUNNING, phase=Phase.DRAINING, wake_at_s=105.0, cause="because"
    ),
    Phase.STOPPING: structs.replace(ENDING, phase=Phase.STOPPING),
    Phase.STOPPED: structs.replace(NEW, attempt=1, phase=Phase.STOPPED),
}

TIMED = {
    Phase.STARTING,
    Phase.LEAVING,
    Phase.RESTARTING,
    Phase.CLEANING,
    Phase.BACKOFF,
    Phase.DRAINING,
    Phase.STOPPING,
}
BEING_ENDED = {Phase.LEAVING, Phase.RESTARTING, Phase.CLEANING, Phase.STOPPING}
MAIN_RUNS = {
    Phase.STARTING,
    Phase.HEALTHY,
    Phase.UNREADY,
    Phase.LEAVING,
    Phase.RESTARTING,
    Phase.DRAINING,
}


def assert_sound(stay: m.Stay, now_s: float) -> None:
    """What holds of every stay between two moves."""
    assert (stay.wake_at_s is not None) == (stay.phase in TIMED), stay
    assert stay.phase is Phase.STOPPING or bool(stay.pid) == (stay.phase in MAIN_RUNS), stay
    assert (stay.deadline_s is not None) == (stay.phase in BEING_ENDED), stay
    assert stay.phase in m.STATE_OF
