"""What people may say about autoscaling, and what scaling by hand comes to beside it."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from desk_of_control import ControlDesk
from worlds import process_type

from formation.automation import Autoscale, AutoscaleChange, Measure, MeasureKind
from formation.requests import ChangeKind, QuantityChange
from formation.rules import Resources
from formation_coordinator.changing import ControlError, Invalid, Refused, Unknown
from formation_coordinator.control_automation import AutomationControl, AutoscaleWish
from formation_coordinator.driver import AUDIT_AUTOSCALE_MAX, AUDIT_RECORDS_MAX, too_many_audits
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Put

CPU = Measure(kind=MeasureKind.CPU, target=60)
QUEUE = Measure(kind=MeasureKind.METRIC, target=10, url="http://queue/length?token=x")
WISH = AutoscaleWish(app="shop", type="web", minimum=2, maximum=20, measures=(CPU,))


class Desk(ControlDesk):
    def __init__(self) -> None:
        super().__init__()
        numbers = count(1)
        self.automation = AutomationControl(
            store=self.store,
            now_ms=lambda: next(self.times),
            new_id=lambda: f"au{next(numbers):04d}",
        )

    async def set(self, wish: AutoscaleWish = WISH, **change: Any) -> Autoscale:
        return (await self.automation.set_autoscale(replace(wish, **change), "ann"))[0]

    async def rule(self, type_name: str = "web") -> Autoscale | None:
        item = await self.store.get(keys.autoscale("shop", type_name))
        record = codec.decode(item.key, item.value) if item else None
        return record if isinstance(record, Autoscale) else None

    async def scale(self, **quantities: int) -> dict[str, int]:
        changes = [
            QuantityChange(type=name, kind=ChangeKind.SET, quantity=n)
            for name, n in quantities.items()
        ]
        return dict((await self.apps.scale("shop", changes, "ann")).after)


@pytest.fixture
async def desk() -> Desk:
    desk = Desk()
    await desk.apply()
    return desk


async def test_a_rule_has_defaults_and_what_is_not_said_stays(desk: Desk) -> None:
    made = await desk.set()
    assert made.bounds == "2..20"
    assert (made.up_window_s, made.down_window_s, made.every_s) == (0.0, 300.0, 15.0)
    changed = await desk.set(AutoscaleWish(app="shop", type="web", maximum=30))
    assert (changed.bounds, changed.measures) == ("2..30", (CPU,))
    _, unchanged, _ = await desk.automation.set_autoscale(WISH, "bob")
    assert not unchanged
    again, unchanged, _ = await desk.automation.set_autoscale(WISH, "eve")
    assert unchanged
    assert again.who == "bob"
    audits = [(r.action, r.before, r.after) for r in await desk.history()][-3:]
    assert audits == [
        ("set autoscale", "", "web=2..20 cpu 60 %"),
        ("set autoscale", "web=2..20 cpu 60 %", "web=2..30 cpu 60 %"),
        ("set autoscale", "web=2..30 cpu 60 %", "web=2..20 cpu 60 %"),
    ]


async def test_the_history_names_the_place_of_a_metric_and_no_more(desk: Desk) -> None:
    await desk.set(measures=(QUEUE,))
    assert (await desk.history())[-1].after == "web=2..20 metric 10 at http://queue"


async def test_what_the_leader_wrote_of_its_last_change_is_kept(desk: Desk) -> None:
    rule = await desk.set()
    last = AutoscaleChange(at_ms=1, before=2, after=3, why="3")
    put = Put(keys.autoscale("shop", "web"), codec.encode(replace(rule, last=last)))
    await desk.store.commit([], [put])
    assert (await desk.set(maximum=9)).last == last


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        ({"app": "nope"}, Unknown, "no app 'nope'"),
        ({"type": "nope"}, Invalid, "no type nope in the current release: there is web, worker"),
        ({"maximum": None}, Invalid, "--max N"),
        ({"measures": ()}, Invalid, "say what it follows"),
        ({"minimum": 30}, Invalid, "min 30 is more than max 20"),
        (
            {"measures": (Measure(kind=MeasureKind.MEMORY, target=70),)},
            Invalid,
            "neither resources.memory nor limits.memory",
        ),
        ({"measures": (QUEUE,), "may_point": False}, Refused, "only an operator may"),
    ],
)
async def test_what_makes_no_sense_or_is_not_ones_own_is_refused(
    desk: Desk, change: dict[str, Any], error: type[ControlError], why: str
) -> None:
    with pytest.raises(error, match=why):
        await desk.set(**change)
    assert await desk.rule() is None


async def test_who_may_not_point_may_keep_where_an_operator_has_pointed(desk: Desk) -> None:
    await desk.set(measures=(QUEUE,))
    kept = await desk.set(measures=(QUEUE,), maximum=9, may_point=False)
    assert kept.maximum == 9
    with pytest.raises(Refused):
        await desk.set(measures=(replace(QUEUE, url="http://other/"),), may_point=False)


async def test_percent_of_memory_needs_a_whole(desk: Desk) -> None:
    await desk.apply(process_type("web", resources=Resources(memory_bytes=1 << 30)))
    rule = await desk.set(measures=(Measure(kind=MeasureKind.MEMORY, target=70),))
    assert str(rule.measures[0]) == "memory 70 %"


async def test_by_hand_is_refused_with_who_owns_it_and_what_to_do(desk: Desk) -> None:
    await desk.set()
    with pytest.raises(Invalid) as caught:
        await desk.scale(web=7, worker=2)
    assert str(caught.value) == (
        "web is autoscaled (2..20), so web=7 would not stay: formctl autoscale web --min 7 --max 7"
        " holds it there, formctl autoscale web --off gives it back to you"
    )
    assert (await desk.app()).formation == {"web": 1, "worker": 0}, "all or none"
    with pytest.raises(Invalid):
        await desk.apps.scaled_in_thought(
            "shop", [QuantityChange(type="web", kind=ChangeKind.ADD, quantity=1)]
        )
    # Others, and what says the same, are nobody's business.
    assert await desk.scale(web=1, worker=2) == {"web": 1, "worker": 2}
    await desk.automation.end_autoscale("shop", "web", "ann")
    assert await desk.scale(web=7) == {"web": 7, "worker": 2}
    assert (await desk.history())[-2].action == "end autoscale"
    with pytest.raises(Unknown, match="web of shop is not autoscaled"):
        await desk.automation.end_autoscale("shop", "web", "ann")


async def test_undo_leaves_alone_what_is_autoscaled(desk: Desk) -> None:
    await desk.scale(web=3, worker=1)
    await desk.scale(web=4)
    await desk.set()
    with pytest.raises(Refused, match="web is autoscaled now, so the last change of it cannot"):
        await desk.apps.undo_scale("shop", "ann")
    with pytest.raises(Refused):
        await desk.apps.scaled_in_thought("shop", [], undo=True)
    await desk.scale(worker=5)
    undone = await desk.apps.undo_scale("shop", "ann")
    assert dict(undone.after) == {"web": 4, "worker": 1}


async def test_a_rule_that_comes_in_the_middle_is_seen(desk: Desk) -> None:
    """Scaling by hand reads the rules, and commits only while they are the same."""
    read = desk.apps.read_autoscale

    async def read_and_then_somebody_sets_one(name: str) -> Any:
        found = await read(name)
        if await desk.rule() is None:
            await desk.set()
        return found

    desk.apps.read_autoscale = read_and_then_somebody_sets_one  # type: ignore[method-assign]
    with pytest.raises(Invalid, match="web is autoscaled"):
        await desk.scale(web=7)


async def test_an_app_that_is_deleted_takes_its_rules_with_it(desk: Desk) -> None:
    await desk.set()
    await desk.set(type="worker")
    await desk.apps.delete_app("shop", "ann")
    assert await desk.rule() is None
    assert await desk.rule("worker") is None


def test_what_autoscaling_did_does_not_push_out_what_people_did() -> None:
    people = [keys.audit(n, f"id{n}") for n in range(0, 4_000, 2)]
    machine = [keys.audit(n, f"{keys.AUDIT_AUTOSCALE}{n}") for n in range(1, 40_000, 2)]
    found = sorted(people + machine)
    gone = set(too_many_audits(found))
    assert gone == set(machine[:-AUDIT_AUTOSCALE_MAX])
    more = [keys.audit(n, f"id{n}") for n in range(AUDIT_RECORDS_MAX + 7)]
    assert list(too_many_audits(more)) == more[:7]
