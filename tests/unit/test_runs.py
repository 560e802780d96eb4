"""runs and schedules: started once, followed to the end, and forgotten in time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from msgspec import structs
from worlds import app, bundle, host, process_type, release, seen, stay, step, world

from formation.model import InstanceState, Slot
from formation.requests import Run, RunState
from formation.rules import Missed, Overlap, Schedule
from formation_coordinator import schedule
from formation_coordinator.plan import Plan
from formation_coordinator.world import HostEntry, World

MINUTE_MS = 60_000
NOW_MS = 1_764_000_000_000  # 2025-11-24 16:00:00 UTC
BACKUP = process_type("backup", schedule=Schedule(cron="*/10 * * * *", keep=2))
RELEASES = (replace(release("web", BACKUP), created_at_ms=NOW_MS - 60 * MINUTE_MS),)


def asked(number: int = 1, **fields: object) -> Run:
    run = Run(id=f"run.{number}", slot=Slot("shop", "run", number), release=1, command="ls")
    return replace(run, **fields)  # type: ignore[arg-type]


def shop(*hosts: HostEntry, runs: Iterable[Run] = (), backup: int = 0) -> World:
    given = world(*hosts, apps=app({"backup": backup}), releases=RELEASES)
    return replace(given, runs={("shop", run.id): run for run in runs})


def noted(plan: Plan) -> dict[str, Run | None]:
    return {
        c.names[1]: c.record  # type: ignore[misc]
        for c in plan.records
        if c.kind == "runs"
    }


def placed(run: Run, host_name: str = "a", **status: object) -> HostEntry:
    """A host whose document lists the run."""
    item = stay(run.slot.short, run=run.id, command=run.command)
    says = [seen(item, **status)] if status else []  # type: ignore[arg-type]
    entry = host(host_name, item, says=says)
    assert bundle(item).terms.run == run.id
    return entry


def test_a_run_is_placed_and_noted_in_one_transaction() -> None:
    plan = step(shop(host("a"), runs=[asked(who="ann")]))
    (item,) = plan.documents[0].instances
    assert (item.slot.short, item.run, item.command) == ("run.1", "run.1", "ls")
    assert item.reason == "run by ann"
    assert plan.together == ("a",)
    written = noted(plan)["run.1"]
    assert written is not None
    assert (written.state, written.host) == (RunState.PLACED, "a")


def test_without_a_host_it_waits_and_says_why() -> None:
    plan = step(shop(runs=[asked()]))
    assert (plan.documents, plan.records) == ((), ())
    assert plan.pending[Slot("shop", "run", 1)] == "no host has joined"


def test_while_it_runs_nothing_happens() -> None:
    run = asked(state=RunState.PLACED, host="a")
    assert step(shop(placed(run, state=InstanceState.HEALTHY), runs=[run])) == Plan()


@pytest.mark.parametrize(
    ("state", "expected"),
    [(InstanceState.FINISHED, RunState.FINISHED), (InstanceState.FAILED, RunState.FAILED)],
)
def test_its_end_is_noted_first_and_then_its_host_forgets_it(
    state: InstanceState, expected: RunState
) -> None:
    run = asked(state=RunState.PLACED, host="a")
    entry = placed(run, state=state, last_exit="exit 3")
    plan = step(shop(entry, runs=[run]), wall_ms=NOW_MS)
    assert plan.documents == ()
    over = noted(plan)["run.1"]
    assert over is not None
    assert (over.state, over.last_exit, over.ended_at_ms) == (expected, "exit 3", NOW_MS)
    after = step(shop(entry, runs=[over]))
    assert [d.instances for d in after.documents] == [()]


def test_one_whose_code_cannot_be_built_has_failed_with_that_reason() -> None:
    run = asked(state=RunState.PLACED, host="a")
    waits = placed(run, state=InstanceState.WAITING)
    assert step(shop(waits, runs=[run])) == Plan()
    entry = placed(run, state=InstanceState.WAITING, unbuildable="its build failed: exit 4")
    over = noted(step(shop(entry, runs=[run])))["run.1"]
    assert over is not None
    assert (over.state, over.reason) == (RunState.FAILED, "its build failed: exit 4")


def test_a_run_on_a_silent_host_is_left_alone() -> None:
    run = asked(state=RunState.PLACED, host="a")
    silent = structs.replace(
        placed(run, state=InstanceState.HEALTHY), session=None, silent_since_s=0.0
    )
    assert step(shop(silent, host("b"), runs=[run])).documents == ()


def test_when_its_host_was_given_up_nobody_knows_its_end() -> None:
    run = asked(state=RunState.PLACED, host="a")
    over = noted(step(shop(host("b"), runs=[run])))["run.1"]
    assert over is not None
    assert (over.state, over.reason) == (RunState.LOST, "host a was given up")


def test_a_cancelled_one_is_stopped() -> None:
    run = asked(state=RunState.CANCELLED, host="a")
    plan = step(shop(placed(run, state=InstanceState.HEALTHY), runs=[run]))
    assert [d.instances for d in plan.documents] == [()]


def test_what_no_record_knows_is_stopped() -> None:
    plan = step(shop(placed(asked()), runs=[]))
    assert [d.instances for d in plan.documents] == [()]


def test_old_ones_are_forgotten() -> None:
    over = [asked(n, state=RunState.FINISHED, created_at_ms=n) for n in range(1, 53)]
    assert {name for name, run in noted(step(shop(runs=over))).items() if run is None} == {
        "run.1",
        "run.2",
    }


# ---------------------------------------------------------------------- schedules


def tick(*, runs: Iterable[Run] = (), at_ms: int = NOW_MS, given: World | None = None) -> Plan:
    return step(given or shop(host("a"), runs=runs, backup=1), wall_ms=at_ms)


def run_of(tick_ms: int, state: RunState = RunState.FINISHED, number: int = 1) -> Run:
    return Run(
        id=f"backup-{tick_ms // MINUTE_MS}",
        slot=Slot("shop", "backup", number),
        release=1,
        tick_ms=tick_ms,
        state=state,
    )


def test_a_tick_makes_one_run_named_after_its_minute_and_counts_it() -> None:
    plan = tick(runs=[run_of(NOW_MS - 10 * MINUTE_MS)])
    name = f"backup-{NOW_MS // MINUTE_MS}"
    made = noted(plan)[name]
    assert made is not None
    assert (made.tick_ms, made.slot, made.state) == (NOW_MS, Slot("shop", "backup", 1),
                                                     RunState.PENDING)  # fmt: skip
    (app_change,) = [c.record for c in plan.records if c.kind == "apps"]
    assert app_change.runs_made == 1  # type: ignore[union-attr]


def test_a_tick_that_has_a_run_makes_no_other_and_the_next_is_waited_for() -> None:
    plan = tick(runs=[run_of(NOW_MS)])
    assert noted(plan) == {}
    assert plan.wake_at_s == 100.0 + 600.0


def test_a_schedule_of_quantity_nought_rests() -> None:
    given = shop(host("a"), backup=0)
    assert tick(given=given).records == ()


def test_a_tick_during_the_last_run_is_skipped_and_noted() -> None:
    earlier = run_of(NOW_MS - 10 * MINUTE_MS, RunState.PLACED)
    given = shop(placed(earlier, state=InstanceState.HEALTHY), runs=[earlier], backup=1)
    made = noted(tick(given=given))[f"backup-{NOW_MS // MINUTE_MS}"]
    assert made is not None
    assert (made.state, made.reason) == (RunState.CANCELLED, "backup.1 was still running")


def test_with_overlap_replace_the_last_run_is_cancelled() -> None:
    spec = replace(BACKUP, schedule=replace(BACKUP.schedule, overlap=Overlap.REPLACE))  # type: ignore[type-var]
    earlier = run_of(NOW_MS - 10 * MINUTE_MS, RunState.PLACED)
    given = shop(placed(earlier, state=InstanceState.HEALTHY), runs=[earlier], backup=1)
    given = replace(given, releases={("shop", 1): replace(RELEASES[0], types=(spec,))})
    found = noted(tick(given=given))
    cancelled, made = found[earlier.id], found[f"backup-{NOW_MS // MINUTE_MS}"]
    assert cancelled is not None
    assert made is not None
    assert (cancelled.state, made.state) == (RunState.CANCELLED, RunState.PENDING)


def test_a_missed_tick_is_left_out_or_run_once_for_all() -> None:
    late = NOW_MS + 9 * MINUTE_MS
    last = run_of(NOW_MS - 60 * MINUTE_MS)
    assert noted(tick(runs=[last], at_ms=late)) == {}
    just = noted(tick(runs=[last], at_ms=NOW_MS + MINUTE_MS))
    assert list(just) == [f"backup-{NOW_MS // MINUTE_MS}"]
    once = replace(BACKUP, schedule=replace(BACKUP.schedule, missed=Missed.ONCE))  # type: ignore[type-var]
    given = shop(host("a"), runs=[last], backup=1)
    given = replace(given, releases={("shop", 1): replace(RELEASES[0], types=(once,))})
    assert list(noted(tick(given=given, at_ms=late))) == [f"backup-{NOW_MS // MINUTE_MS}"]


def test_only_so_many_runs_of_a_schedule_stay_known() -> None:
    over = [run_of(NOW_MS - n * 10 * MINUTE_MS) for n in range(4)]
    gone = {name for name, run in noted(tick(runs=over)).items() if run is None}
    assert gone == {over[2].id, over[3].id}


# ---------------------------------------------------------------------- times

BERLIN = Schedule(cron="30 2 * * *", zone="Europe/Berlin")
MARCH_MS = 1_774_735_200_000  # 2026-03-28 22:00 UTC, before clocks go forward over 02:30
OCTOBER_MS = 1_792_872_000_000  # 2026-10-24 20:00 UTC, before clocks go back over 02:30
DAY_MS = 24 * 60 * MINUTE_MS


def ticks(plan: Schedule, start_ms: int, until_ms: int) -> list[int]:
    found, at_ms = [], schedule.next_tick_ms(plan, start_ms)
    while at_ms is not None and at_ms <= until_ms:
        found.append(at_ms)
        at_ms = schedule.next_tick_ms(plan, at_ms)
    return found


@pytest.mark.parametrize("start_ms", [MARCH_MS, OCTOBER_MS])
def test_a_time_that_a_clock_change_leaves_out_or_repeats_comes_once(start_ms: int) -> None:
    assert len(ticks(BERLIN, start_ms, start_ms + DAY_MS)) == 1


def test_a_time_that_never_comes_has_no_next_tick() -> None:
    assert schedule.due_tick_ms(BERLIN, NOW_MS, NOW_MS) is None


def test_many_ticks_that_passed_are_one_that_is_due() -> None:
    every = Schedule(cron="* * * * *")
    assert schedule.due_tick_ms(every, NOW_MS - DAY_MS * 9, NOW_MS + 5) in (NOW_MS, None)
    assert schedule.due_tick_ms(every, NOW_MS - 3 * MINUTE_MS, NOW_MS + 5) == NOW_MS


@pytest.mark.parametrize(
    ("after", "tick"),
    [
        # 02:30 is not there on 29 March: it runs when the clock has gone forward, at 03:00 CEST.
        ("2026-03-28T22:00Z", "2026-03-29T01:00Z"),
        ("2026-03-29T01:00Z", "2026-03-30T00:30Z"),
        # 02:30 comes twice on 25 October: the first of them runs, in CEST.
        ("2026-10-24T20:00Z", "2026-10-25T00:30Z"),
        ("2026-10-25T00:30Z", "2026-10-26T01:30Z"),
    ],
)
def test_the_minute_that_a_schedule_runs_at_when_clocks_change(after: str, tick: str) -> None:
    found = schedule.next_tick_ms(BERLIN, int(datetime.fromisoformat(after).timestamp() * 1000))
    assert found is not None
    assert datetime.fromtimestamp(found / 1000, UTC) == datetime.fromisoformat(tick)


def test_two_runs_that_one_host_takes_are_one_document() -> None:
    plan = step(shop(host("a"), runs=[asked(1), asked(2)]))
    assert plan.together == ("a",)
    assert [d.size for d in plan.documents] == [2]
