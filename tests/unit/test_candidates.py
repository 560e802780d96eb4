"""Release commands: what becomes of a candidate, and how its run differs from others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs
from worlds import app, bundle, host, process_type, release, seen, stay, step, world

from formation.model import App, AssignmentDocument, InstanceState, Release, Slot
from formation.releasecommand import Candidate, CommandEnd, ReleaseCommand
from formation.requests import Run, RunState
from formation.rules import RolloutRules
from formation.seen import Rollout
from formation_coordinator import candidates
from formation_coordinator.plan import Plan
from formation_coordinator.world import HostEntry, World

NOW_MS = 1_764_000_000_000
MIGRATE = ReleaseCommand(command="./migrate", timeout_s=60.0)
RULES = RolloutRules(healthy_s=0.0)
WEB = process_type("web", rollout=RULES)
NEXT = replace(release(WEB, number=2), command=MIGRATE, created_by="ann", created_at_ms=NOW_MS)


def asked(number: int = 2, **fields: object) -> Run:
    run = Run(
        id=f"release.{number}",
        slot=Slot("shop", "release", number),
        release=number,
        command="./migrate",
        created_at_ms=NOW_MS,
    )
    return replace(run, **fields)  # type: ignore[arg-type]


def shop(
    *hosts: HostEntry,
    run: Run | None = None,
    others: tuple[Run, ...] = (),
    wanted: App | None = None,
    newest: Release = NEXT,
) -> World:
    """v1 runs everywhere, v2 is its candidate."""
    waiting = wanted or replace(
        app({"web": 0}), candidate=Candidate(release=2, formation={"worker": 3}), latest_release=2
    )
    given = world(*hosts, apps=waiting, releases=(release(WEB), newest))
    runs = [*others, *([run] if run else [])]
    return replace(given, runs={("shop", item.id): item for item in runs})


def listed(run: Run, name: str = "a", *, ending: bool = False, **status: object) -> HostEntry:
    """A host whose document lists the run."""
    item = stay(
        run.slot.short, run=run.id, command=run.command, release_number=run.release, ending=ending
    )
    return host(name, item, says=[seen(item, **status)] if status else [])  # type: ignore[arg-type]


def pass_of(given: World, after_s: float = 0.0) -> Plan:
    return step(given, wall_ms=NOW_MS + int(after_s * 1000))


def written(plan: Plan, kind: str) -> dict[str, object]:
    return {change.names[-1]: change.record for change in plan.records if change.kind == kind}


def app_of(plan: Plan) -> App:
    (found,) = written(plan, "apps").values()
    assert isinstance(found, App)
    return found


def run_of(plan: Plan, name: str = "release.2") -> Run:
    found = written(plan, "runs")[name]
    assert isinstance(found, Run)
    return found


# ---------------------------------------------------------------------- what becomes of it


def test_its_command_is_placed_and_the_app_stays_as_it_is() -> None:
    plan = pass_of(shop(host("a"), run=asked(who="ann")))
    (item,) = plan.documents[0].instances
    assert (item.slot.short, item.release, item.command) == ("release.2", 2, "./migrate")
    assert run_of(plan).state is RunState.PLACED
    assert written(plan, "apps") == {}


def test_while_it_runs_nothing_happens_until_its_time_is_over() -> None:
    run = asked(state=RunState.PLACED, host="a")
    given = shop(listed(run, state=InstanceState.HEALTHY), run=run)
    plan = pass_of(given, 59.0)
    assert not plan.writes
    assert plan.wake_at_s == 101.0
    late = run_of(pass_of(given, 60.0))
    assert (late.state, late.reason) == (RunState.CANCELLED, "not over within 60 s")


def test_one_that_finds_no_host_in_its_time_has_failed_too() -> None:
    given = shop(run=asked())
    assert pass_of(given, 1.0).pending[Slot("shop", "release", 2)] == "no host has joined"
    assert run_of(pass_of(given, 60.0)).state is RunState.CANCELLED


def test_when_it_has_passed_the_candidate_is_the_release_and_its_end_is_kept() -> None:
    run = asked(state=RunState.FINISHED, host="a", last_exit="exit 0", ended_at_ms=NOW_MS + 5)
    plan = pass_of(shop(run=run))
    after = app_of(plan)
    assert (after.release, after.stable_release, after.candidate) == (2, 1, None)
    assert after.formation == {"web": 0, "worker": 3}
    kept = written(plan, "releases")["2"]
    assert isinstance(kept, Release)
    how = "ended with exit 0 on a"
    assert kept.command_end == CommandEnd(passed=True, how=how, at_ms=NOW_MS + 5)
    assert plan.sentence == "shop release v1 -> v2: release.2 has passed"


def test_quantities_that_were_set_meanwhile_count_more() -> None:
    waiting = replace(
        app({"web": 0, "worker": 9}), candidate=Candidate(release=2, formation={"worker": 3})
    )
    plan = pass_of(shop(run=asked(state=RunState.FINISHED), wanted=waiting))
    assert app_of(plan).formation["worker"] == 9


def test_a_canary_begins_as_one() -> None:
    waiting = replace(app({"web": 0}), candidate=Candidate(release=2, canary=2))
    plan = pass_of(shop(run=asked(state=RunState.FINISHED), wanted=waiting))
    assert app_of(plan).rollout == Rollout(canary=2)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (
            {"state": RunState.FAILED, "host": "a", "last_exit": "exit 3"},
            "release.2 failed on a: exit 3",
        ),
        (
            {"state": RunState.FAILED, "host": "a", "last_exit": "interrupted"},
            "release.2 failed on a: interrupted",
        ),
        (
            {"state": RunState.LOST, "host": "a", "reason": "host a was given up"},
            "release.2 was lost, nobody knows how it ended: host a was given up",
        ),
        (
            {"state": RunState.CANCELLED, "reason": "cancelled by ann"},
            "release.2 was stopped: cancelled by ann",
        ),
    ],
)
def test_when_it_has_not_the_candidate_is_taken_back(fields: dict[str, object], why: str) -> None:
    plan = pass_of(shop(run=replace(asked(), **fields)))  # type: ignore[arg-type]
    after = app_of(plan)
    assert (after.release, after.candidate) == (1, None)
    assert after.rollout == Rollout(undone_release=2, reason=why)
    assert after.formation == {"web": 0}
    (told,) = plan.decisions
    assert (told.action, told.before, told.after, told.why) == ("undo", "v2", "v1", why)
    kept = written(plan, "releases")["2"]
    assert isinstance(kept, Release)
    assert kept.command_end is not None
    assert not kept.command_end.passed


def test_a_change_that_is_under_way_meanwhile_keeps_its_word() -> None:
    waiting = replace(
        app({"web": 0}, word=Rollout(canary=1)), candidate=Candidate(release=2), latest_release=2
    )
    plan = pass_of(shop(run=asked(state=RunState.FAILED), wanted=waiting))
    assert (app_of(plan).rollout.canary, app_of(plan).rollout.undone_release) == (1, 2)


def test_a_first_release_waits_with_nothing_before_it() -> None:
    first = replace(app({}, release=0), candidate=Candidate(release=1, formation={"web": 2}))
    given = shop(host("a"), run=asked(1), wanted=first)
    given = replace(given, releases={("shop", 1): replace(NEXT, number=1)})
    plan = pass_of(given)
    assert [i.slot.short for i in plan.documents[0].instances] == ["release.1"]
    assert plan.left_alone == {}
    passed = replace(given, runs={("shop", "release.1"): asked(1, state=RunState.FINISHED)})
    after = app_of(pass_of(passed))
    assert (after.release, after.stable_release, after.formation) == (1, 0, {"web": 2})
    failed = replace(given, runs={("shop", "release.1"): asked(1, state=RunState.FAILED)})
    after = app_of(pass_of(failed))
    assert (after.release, after.rollout.undone_release) == (0, 1)
    rest = replace(failed, apps={"shop": after})
    assert not pass_of(replace(rest, releases={("shop", 1): NEXT})).documents


def test_what_a_newer_version_wrote_is_left_to_a_newer_leader() -> None:
    given = shop(run=None)
    given = replace(given, unreadable={("runs", ("shop", "release.2")): "newer"})
    assert candidates.judge(given, given.apps["shop"]) is None


def test_without_a_record_of_its_run_it_is_taken_back() -> None:
    assert app_of(pass_of(shop())).rollout.reason == "release.2 nobody knows of its run"


# ---------------------------------------------------------------------- never two at once


def test_one_that_is_not_wanted_any_more_is_ended() -> None:
    earlier = asked(state=RunState.PLACED, host="a")
    waiting = replace(app({"web": 0}), candidate=Candidate(release=3), latest_release=3)
    given = shop(listed(earlier, state=InstanceState.HEALTHY), run=earlier, wanted=waiting)
    given = replace(given, runs={**given.runs, ("shop", "release.3"): asked(3)})
    given = replace(given, releases={**given.releases, ("shop", 3): replace(NEXT, number=3)})
    plan = pass_of(given)
    over = run_of(plan)
    assert (over.state, over.reason) == (RunState.CANCELLED, "v3 has taken its place")
    assert plan.pending[Slot("shop", "release", 3)] == (
        "release.2 may still run on a, and there are never two at once"
    )
    assert plan.documents == ()


def test_it_is_listed_as_ending_until_its_agent_says_that_it_is_gone() -> None:
    over = asked(state=RunState.CANCELLED, host="a")
    newest = replace(NEXT, command_end=CommandEnd(passed=False))
    wanted = app({"web": 0})

    def documents(entry: HostEntry) -> list[list[bool]]:
        plan = pass_of(shop(entry, run=over, wanted=wanted, newest=newest))
        return [[item.ending for item in d.instances] for d in plan.documents]

    assert documents(listed(over, state=InstanceState.HEALTHY)) == [[True]]
    assert documents(listed(over, ending=True, state=InstanceState.STOPPING)) == []
    assert documents(listed(over, ending=True, state=InstanceState.STOPPED)) == [[]]
    assert documents(listed(over, state=InstanceState.FAILED)) == [[]]


def test_on_a_silent_host_it_may_go_on_so_the_next_one_waits() -> None:
    earlier = asked(1, state=RunState.CANCELLED, host="a")
    entry = structs.replace(
        listed(earlier, ending=True, state=InstanceState.HEALTHY), session=None, silent_since_s=0.0
    )
    plan = pass_of(shop(entry, host("b"), run=asked(), others=(earlier,)))
    assert plan.pending[Slot("shop", "release", 2)] == (
        "release.1 may still run on a, which does not answer: "
        "formctl hosts forget a if it is gone for good"
    )
    assert plan.documents == ()


def test_what_a_deleted_app_has_left_ends_before_another_begins() -> None:
    left = listed(asked(1), state=InstanceState.HEALTHY)
    plan = pass_of(shop(left, host("b"), run=asked()))
    assert {d.host: [i.ending for i in d.instances] for d in plan.documents} == {"a": [True]}
    assert Slot("shop", "release", 2) in plan.pending


def test_a_command_of_another_app_hinders_nobody() -> None:
    item = stay("release.9", run="release.9", command="x", app_name="blog")
    document = AssignmentDocument(host="a", generation=1, epoch=1, bundles=(bundle(item),))
    blog = Run(
        id="release.9", slot=Slot("blog", "release", 9), release=9, command="x",
        state=RunState.PLACED, host="a", created_at_ms=NOW_MS,
    )  # fmt: skip
    given = shop(structs.replace(host("a"), document=document), run=asked())
    other = replace(app({}, name="blog"), candidate=Candidate(release=9))
    given = replace(
        given,
        apps={**given.apps, "blog": other},
        runs={**given.runs, ("blog", "release.9"): blog},
    )
    assert run_of(pass_of(given)).state is RunState.PLACED


# ---------------------------------------------------------------------- its host


def test_a_silent_host_is_waited_for() -> None:
    run = asked(state=RunState.PLACED, host="a")
    entry = structs.replace(
        listed(run, state=InstanceState.HEALTHY), session=None, silent_since_s=0.0
    )
    assert not pass_of(shop(entry, host("b"), run=run), 30.0).writes


def test_a_host_that_said_goodbye_has_stopped_it() -> None:
    run = asked(state=RunState.PLACED, host="a")
    entry = listed(run)
    assert entry.status is not None
    gone = structs.replace(
        entry,
        session=None,
        silent_since_s=0.0,
        status=structs.replace(entry.status, instances=(), departed=True),
    )
    over = run_of(pass_of(shop(gone, host("b"), run=run)))
    assert (over.state, over.reason) == (
        RunState.FAILED,
        "host a said goodbye before it was over",
    )
