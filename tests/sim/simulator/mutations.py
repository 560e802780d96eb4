"""Does the simulator bite? Each mutation takes one safeguard out of the programs, and some seed
must find it. `SEEDS` names one that does, to be tried first: a change of the programs changes what
seeds mean, and then `python -m simulator 0..119 --mutation NAME` finds another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from formation.memory import AgentMemory
from formation.model import Assignments
from formation.requests import RunState
from formation_agent import entries, exclusives, machine, orders, session, slots
from formation_coordinator import (
    book,
    candidates,
    driver,
    fit,
    moves,
    rollout,
    runs,
    schedule,
    timeline,
    upkeep,
)
from formation_coordinator.store.base import ModRevision

_judge, _step, _hold_one = orders.judge, rollout.step, session.Session._hold_one
_look, _judge_candidate = runs.Runs._note, candidates.judge


def _always(value: object) -> Callable[..., Any]:
    return lambda *_args, **_kwargs: value


def _judge_nothing_goes(memory: AgentMemory, order: Assignments) -> orders.Verdict:
    verdict = _judge(memory, order)
    if isinstance(verdict, orders.Obey):
        kept = {item.uid: item for item in (*memory.assigned, *verdict.assigned)}
        return replace(verdict, assigned=tuple(kept.values()), releases=memory.releases)
    return verdict


def _judge_however_old(memory: AgentMemory, order: Assignments) -> orders.Verdict:
    obeyed = orders._obey(memory, order, order.instances)
    return obeyed if order.complete else _judge(memory, order)


def _all_at_once(stale: list[rollout.Stay], _budget: int, left: int) -> list[int]:
    return [stay.ordinal for stay in stale][: max(0, left)]


def _step_without_surge(*args: Any) -> rollout.Step:
    return replace(_step(*args), surge=0)


async def _stop_when_alone(self: session.Session) -> None:
    try:
        await _hold_one(self)
    finally:
        for uid in tuple(self.supervisor._live):
            self.supervisor._feed(uid, machine.StopWanted(reason="nobody is there"))


def _no_note_of_placed(self: runs.Runs, run: Any, app: str, run_id: str) -> None:
    if run is None or run.state is not RunState.PLACED:
        _look(self, run, app, run_id)


def _passed_at_once(_world: Any, app: Any) -> Any:
    return candidates._passed(app, app.candidate) if app.candidate else None


def _passed_when_over(world: Any, app: Any) -> Any:
    over = _judge_candidate(world, app)
    return over and _passed_at_once(world, app)


def _tick_again(plan: Any, _last_ms: int, now_ms: int) -> int | None:
    return schedule.next_tick_ms(plan, now_ms - 60_000)


# By name: where, what, and what stands there instead.
MUTATIONS: dict[str, tuple[Any, str, Any]] = {
    "a deposed leader may write": (driver, "CreateRevision", lambda *_: ModRevision("none", 0)),
    "no brake": (book.Book, "_brake_is_on", _always(False)),
    "a double goes before the other works": (upkeep.Upkeep, "_may_go", _always(True)),
    "a change takes all at once": (rollout, "_chosen", _all_at_once),
    "no surge": (rollout, "step", _step_without_surge),
    "the leader waits for no lease": (upkeep, "surely_stopped_s", _always(0.0)),
    "an agent needs no lease to start": (exclusives.Exclusives, "hindrance", _always("")),
    "what ends has ended": (upkeep, "_surely_gone", _always(True)),
    "nothing that is not listed goes": (orders, "judge", _judge_nothing_goes),
    "restarts do not matter": (
        book.Book,
        "is_current",
        lambda self, app, item: self.same(
            (item.slot.app, item.slot.type), item.release, app.release
        ),
    ),
    "a drain does not wait": (upkeep.Upkeep, "_drain_is_late", lambda _, stay: stay.entry.draining),
    "a placed run stays pending": (runs.Runs, "_note", _no_note_of_placed),
    "a tick is due again": (schedule, "due_tick_ms", _tick_again),
    "a run is tried again": (entries, "had_its_try", _always(False)),
    "an agent alone stops all": (session.Session, "_hold_one", _stop_when_alone),
    "a slot takes two": (slots.Slots, "holds", _always(True)),
    "a cordon does not hold": (fit.Fit, "_not_cordoned", _always(None)),
    "a port is free": (fit.Fit, "_port", _always(None)),
    "labels do not matter": (fit.Fit, "_labels", _always(None)),
    "an exclusive one hops at once": (
        moves.Moves,
        "_end",
        lambda self, move: self._draft.drop(move.stay.row, move.stay.assignment),
    ),
    "a release waits for nothing": (candidates, "judge", _passed_at_once),
    "a command that failed has passed": (candidates, "judge", _passed_when_over),
    "two release commands at once": (runs.Runs, "_held", _always("")),
    "a command that is to go has gone": (runs, "surely_gone", _always(True)),
    "an older store is obeyed": (timeline, "held", _always("")),
    "what runs is not asked for": (timeline, "_adopted", _always(None)),
    "agents obey an older store": (orders, "judge", _judge_however_old),
}
SEEDS = {
    "a deposed leader may write": 26,
    "no brake": 21,
    "a double goes before the other works": 23,
    "a change takes all at once": 0,
    "no surge": 1,
    "the leader waits for no lease": 8,
    "an agent needs no lease to start": 5,
    "what ends has ended": 4,
    "nothing that is not listed goes": 0,
    "restarts do not matter": 1,
    "a drain does not wait": 12,
    "a placed run stays pending": 60,
    "a tick is due again": 0,
    "a run is tried again": 7,
    "an agent alone stops all": 0,
    "a slot takes two": 0,
    "a cordon does not hold": 0,
    "a port is free": 77,
    "labels do not matter": 0,
    "an exclusive one hops at once": 27,
    "a release waits for nothing": 0,
    "a command that failed has passed": 5,
    "two release commands at once": 1,
    "a command that is to go has gone": 1,
    "an older store is obeyed": 0,
    "what runs is not asked for": 181,
    "agents obey an older store": 0,
}


def apply(name: str) -> None:
    """For the rest of this process."""
    where, what, instead = MUTATIONS[name]
    assert hasattr(where, what), name
    setattr(where, what, instead)
