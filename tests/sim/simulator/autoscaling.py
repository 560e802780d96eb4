"""Autoscaling beside all that breaks, when it is asked for: rules come and go, and follow a number
that jumps about, is missing or is rubbish."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

from formation.automation import Autoscale, Measure, MeasureKind
from formation.model import App
from formation.runtime import new_id, now_ms
from formation_coordinator.control_automation import AutomationControl, AutoscaleWish
from formation_coordinator.outside import Answer, OutsideError
from formation_coordinator.store.base import Store
from formation_coordinator.world import World

TARGET = 10.0
MEASURE = Measure(kind=MeasureKind.METRIC, target=TARGET, url="http://queue/length")


class Number:
    """Instead of `Outside`."""

    def __init__(self, dice: random.Random, most: int) -> None:
        self._dice, self._most = dice, most

    async def get(self, url: str, timeout_s: float) -> Answer:
        await asyncio.sleep(self._dice.uniform(0.0, 0.5))
        what = self._dice.random()
        if what < 0.1:
            await asyncio.sleep(timeout_s)
            raise OutsideError("no answer")
        if what < 0.2:
            return Answer(status=200, body=b"NaN")
        load = self._dice.uniform(0.0, self._most * TARGET * 1.5)
        return Answer(status=200, body=f"{load:.2f}".encode())

    async def close(self) -> None:
        """There is nothing."""


def room(store: Store) -> AutomationControl:
    return AutomationControl(store=store, now_ms=now_ms, new_id=new_id)


async def begin(store: Store, app: str, most: int, dice: random.Random, who: str) -> str:
    wish = AutoscaleWish(
        app=app,
        type="web",
        minimum=dice.randint(0, 2),
        maximum=dice.randint(2, most),
        measures=(MEASURE,),
        every_s=5.0,
        down_window_s=dice.choice([0.0, 20.0]),
    )
    rule, _, _ = await room(store).set_autoscale(wish, who)
    return f"web {rule.bounds}"


async def end(store: Store, app: str, who: str) -> str:
    await room(store).end_autoscale(app, "web", who)
    return "web"


def problem_with_change(before: World, after: World, old: App, new: App) -> str | None:
    """None: it was not autoscaling; "": it was, and in order."""
    changed = [k for k, n in new.formation.items() if n != old.formation.get(k, 0)]
    rules = [
        (before.autoscale.get((new.name, k)), after.autoscale.get((new.name, k))) for k in changed
    ]
    noted = [_noted(was, now) for was, now in rules]
    if len(noted) != 1 or noted[0] is None:
        return None
    rule, (kind,) = noted[0], changed
    assert rule.last is not None
    if (rule.last.before, rule.last.after) != (old.formation.get(kind, 0), new.formation[kind]):
        return f"autoscale says {rule.last}, and it became {new.formation[kind]}"
    if not rule.minimum <= new.formation[kind] <= rule.maximum:
        return f"autoscale made {new.formation[kind]} of {kind}, out of {rule.bounds}"
    if after.cluster is not None and after.cluster.held:
        return "autoscale changed a quantity while all is held"
    return ""


def _noted(was: Autoscale | None, now: Autoscale | None) -> Autoscale | None:
    """The rule, when nothing but its last change is another."""
    if was is None or now is None or now.last is None or now.last == was.last:
        return None
    return now if replace(was, last=None) == replace(now, last=None) else None
