"""Answers "what would happen if" and "why" for the API, from this coordinator's own world.

A thin shell: keeps a book from one question to the next, asks `forecast` and `explain` in a thread
(one question at a time), and puts their answers on the wire. Changes nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from formation import wire
from formation.model import Slot
from formation.v1 import control_pb2 as pb
from formation_coordinator import explain, forecast, views
from formation_coordinator.book import Book
from formation_coordinator.live import LiveWorld
from formation_coordinator.plan import Plan
from formation_coordinator.reconcile import reconcile, standstill
from formation_coordinator.world import Change, World

STEPS_SHOWN_MAX = 2_000
REBALANCE_MOVES = 100
Answer = TypeVar("Answer")


class Planning:
    def __init__(
        self,
        live: LiveWorld,
        *,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        replace_after_s: float,
    ) -> None:
        self._live, self._clock, self._now_ms = live, clock, now_ms
        self._replace_after_s = replace_after_s
        self._book = Book()
        self._asking = asyncio.Lock()

    async def after(self, changes: Sequence[Change]) -> forecast.Forecast:
        """What these records would lead to."""
        return await self._ask(lambda: self._seer().after(changes))

    async def confirmed(self, change: Change) -> forecast.Forecast:
        """What an operator's word on a held cluster would lead to."""
        return await self._ask(lambda: self._seer().confirmed(change))

    async def standstill(self) -> str:
        """What holds up more than single slots now, for people; or ""."""
        world = self._live.world
        return await self._ask(lambda: standstill(world, self._book, self._clock()))

    async def balanced(self, app: str, moves_max: int) -> forecast.Forecast:
        return await self._ask(lambda: self._seer().balanced(app, moves_max or REBALANCE_MOVES))

    async def explain(self, slot: Slot) -> pb.ExplainResponse:
        """Raises `explain.UnknownSlot`."""
        return await self._ask(lambda: self._explain(self._live.world, slot))

    async def _ask(self, question: Callable[[], Answer]) -> Answer:
        async with self._asking:
            return await asyncio.to_thread(question)

    def _seer(self) -> forecast.Seer:
        return forecast.Seer(
            self._live.world,
            self._book,
            now_s=self._clock(),
            wall_ms=self._now_ms(),
            replace_after_s=self._replace_after_s,
        )

    def _explain(self, world: World, slot: Slot) -> pb.ExplainResponse:
        now_s = self._clock()
        pending = self._plan(world, now_s).pending.get(slot, "")
        found = explain.explain(
            world,
            self._book,
            slot,
            now_s=now_s,
            replace_after_s=self._replace_after_s,
            pending=pending,
        )
        return pb.ExplainResponse(
            instance=_view(world, found),
            reason=found.reason,
            hosts=[_verdict_to_pb(verdict) for verdict in found.verdicts],
            remedy=found.remedy,
        )

    def _plan(self, world: World, now_s: float) -> Plan:
        return reconcile(
            world,
            now_s=now_s,
            wall_ms=self._now_ms(),
            epoch=0,
            replace_after_s=self._replace_after_s,
            new_stem=lambda: "asked",
            book=self._book,
        )


def _view(world: World, found: explain.Explanation) -> pb.InstanceView:
    entry = world.hosts.get(found.host)
    shown = views.host_instances(entry, world) if entry else ()
    view = next((v for v in shown if v.status.slot == found.slot and not v.surplus), None)
    if view is None:
        view = views.pending_instance(world, found.slot, found.reason)
    return view_to_pb(view)


def view_to_pb(view: views.InstanceView) -> pb.InstanceView:
    return pb.InstanceView(
        status=wire.instance_status_to_pb(view.status),
        host=view.host,
        surplus=view.surplus,
        host_silent=view.host_silent,
        current=view.current,
        surge=view.surge,
        run=view.run,
        placed_because=view.reason,
        address=view.address,
    )


def forecast_to_pb(found: forecast.Forecast) -> pb.PlanResponse:
    return pb.PlanResponse(
        revision=found.revision,
        steps=[_step_to_pb(step) for step in found.steps[:STEPS_SHOWN_MAX]],
        totals=Counter(step.kind for step in found.steps),
        unplaced=[_unplaced_to_pb(item) for item in found.unplaced],
        types=[spread_to_pb(item) for item in found.types],
        notes=found.notes,
    )


def spread_to_pb(spread: forecast.Spread) -> pb.TypeSpread:
    return pb.TypeSpread(
        app=spread.app,
        type=spread.type,
        before=spread.before,
        after=spread.after,
        skew_before=spread.skew_before,
        skew_after=spread.skew_after,
    )


def _step_to_pb(step: forecast.Step) -> pb.PlannedStep:
    return pb.PlannedStep(
        kind=step.kind,
        app=step.slot.app,
        type=step.slot.type,
        ordinal=step.slot.ordinal,
        from_host=step.from_host,
        to_host=step.to_host,
        reason=step.reason,
    )


def _unplaced_to_pb(item: forecast.Unplaced) -> pb.Unplaced:
    return pb.Unplaced(
        app=item.app,
        type=item.type,
        count=item.count,
        reason=item.reason,
        remedy=item.remedy,
        hosts=[_verdict_to_pb(verdict) for verdict in item.verdicts],
    )


def _verdict_to_pb(verdict: explain.Verdict) -> pb.HostVerdict:
    return pb.HostVerdict(
        host=verdict.host,
        fits=verdict.fits,
        checks=[
            pb.Check(name=check.name, passed=check.passed, detail=check.detail)
            for check in verdict.checks
        ],
        terms=[
            pb.Term(name=term.name, value=term.value, more_is_better=term.more_is_better)
            for term in verdict.terms
        ],
        rank=verdict.rank,
        current=verdict.current,
    )
