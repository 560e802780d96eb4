"""forecast: what a plan says is what then happens; explain: every yes and no with its numbers."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import MIB, misfits, obeyed, worlds
from worlds import app, host, process_type, release, stay, step, world

from formation.model import App, Host, ProcessType, Slot
from formation.requests import Move, Rebalance, Run, RunState
from formation.rules import Constraint, Resources, Where
from formation_coordinator.book import Book
from formation_coordinator.explain import Explanation, explain
from formation_coordinator.forecast import Forecast, Seer
from formation_coordinator.world import Change, World, apply

SETTINGS = settings(max_examples=100, deadline=None)
WEB = (release("web"),)


def seer(given_world: World) -> Seer:
    return Seer(given_world, Book(), now_s=100.0, wall_ms=0, replace_after_s=5.0)


def settled(found: World) -> World:
    for number in range(30):
        plan = step(found, stem=f"p{number}r{found.revision}")
        if not plan.writes:
            return found
        found = obeyed(found, plan)
    raise AssertionError("it did not come to rest")


def scaled(found: World, quantities: dict[str, int]) -> list[Change]:
    (shop,) = found.apps.values()
    record = replace(shop, formation={**shop.formation, **quantities})
    return [Change(kind="apps", names=(shop.name,), record=record)]


def by_slot(found: World) -> dict[Slot, str]:
    return {item.slot: e.name for e in found.hosts.values() for item in e.assigned}


def done(found: World, changes: list[Change]) -> World:
    return settled(apply(found, changes, revision=found.revision + 1, now_s=100.0))


# -- the plan is what happens ----------------------------------------------------------------------


@SETTINGS
@given(worlds(), st.data())
def test_what_a_plan_of_scaling_says_is_what_happens(before: World, data: st.DataObject) -> None:
    found = settled(before)
    (shop,) = found.apps.values()
    name = data.draw(st.sampled_from(sorted(shop.formation)))
    changes = scaled(found, {name: data.draw(st.integers(0, 9))})
    plan = seer(found).after(changes)
    was, is_ = by_slot(found), by_slot(done(found, changes))
    starts = {s.slot: s.to_host for s in plan.steps if s.kind == "start"}
    stops = {s.slot for s in plan.steps if s.kind == "stop"}
    assert starts == {slot: where for slot, where in is_.items() if slot not in was}
    assert stops == was.keys() - is_.keys()
    assert {s.kind for s in plan.steps} <= {"start", "stop"}


@SETTINGS
@given(worlds())
def test_what_a_plan_of_a_drain_says_is_what_happens(before: World) -> None:
    found = settled(before)
    loaded = sorted(e.name for e in found.hosts.values() if e.assigned)
    if not loaded:
        return
    word = Host(name=loaded[0], cordoned=True, draining=True)
    changes = [Change(kind="hosts", names=(loaded[0],), record=word)]
    plan = seer(found).after(changes)
    was, is_ = by_slot(found), by_slot(done(found, changes))
    moves = {s.slot: s.to_host for s in plan.steps if s.kind == "move"}
    assert moves == {slot: where for slot, where in is_.items() if was[slot] != where}


def test_a_new_release_is_replacements_and_one_more_meanwhile() -> None:
    spec = process_type("web", rollout=ProcessType(name="x", command="x").rollout)
    found = settled(
        world(
            host("a"),
            host("b"),
            apps=app({"web": 2}),
            releases=(release(spec), release(spec, number=2)),
        )
    )
    (shop,) = found.apps.values()
    record = replace(shop, release=2, latest_release=2)
    plan = seer(found).after([Change(kind="apps", names=("shop",), record=record)])
    kinds = [(s.kind, s.slot.short, s.reason) for s in plan.steps]
    assert kinds == [
        ("replace", "web.1", "v2 instead of v1"),
        ("replace", "web.2", "v2 instead of v1"),
        ("surge", "web.3", "for the change to v2"),
    ]


def test_what_finds_no_host_is_said_with_the_smallest_help() -> None:
    big = process_type("big", resources=Resources(memory_bytes=512 * MIB))
    found = world(
        host("a", memory_bytes=310 * MIB),
        host("b", memory_bytes=100 * MIB),
        apps=app({"big": 0}),
        releases=(release(big),),
    )
    plan = seer(found).after(scaled(found, {"big": 1}))
    (unplaced,) = plan.unplaced
    assert (unplaced.type, unplaced.count) == ("big", 1)
    assert unplaced.remedy == "it would fit on a with 202 MiB more memory free"
    details = {v.host: [c.detail for c in v.checks if not c.passed] for v in unplaced.verdicts}
    assert details == {
        "a": ["needs 512 MiB, 310 MiB of 310 MiB free"],
        "b": ["needs 512 MiB, 100 MiB of 100 MiB free"],
    }


# -- rebalance -------------------------------------------------------------------------------------


@SETTINGS
@given(worlds(), st.integers(1, 5))
def test_a_rebalance_makes_nothing_worse_and_keeps_to_its_bound(before: World, most: int) -> None:
    found = settled(before)
    plan: Forecast = seer(found).balanced("", most)
    assert len(plan.moves) <= most
    moved = {move.slot.type for move in plan.moves}
    for spread in plan.types:
        assert spread.after >= spread.before, "what waited may have found room"
        if moved == {spread.type} and spread.after == spread.before:
            assert spread.skew_after <= max(spread.skew_before, 1)
    record = seer(found).balanced("", most)
    assert record == plan


def test_a_rebalance_levels_and_the_next_has_nothing_to_do() -> None:
    crowded = world(
        host("a", stay("web.1"), stay("web.2"), stay("web.3"), stay("web.4")),
        host("b"),
        apps=app({"web": 4}),
        releases=WEB,
    )
    plan = seer(crowded).balanced("shop", 10)
    assert [(m.slot.short, m.from_host, m.to_host) for m in plan.moves] == [
        ("web.4", "a", "b"), ("web.3", "a", "b"),
    ]  # fmt: skip
    (spread,) = plan.types
    assert (spread.skew_before, spread.skew_after) == (4, 0)
    level = world(
        host("a", stay("web.1"), stay("web.2")),
        host("b", stay("web.3"), stay("web.4")),
        apps=app({"web": 4}),
        releases=WEB,
    )
    assert seer(level).balanced("shop", 10).moves == ()


def test_a_move_to_a_host_that_lacks_the_labels_now_is_given_up() -> None:
    wanted = (release(process_type("web", where=Where(require=(Constraint(label="ssd"),)))),)
    found = world(
        host("a", stay("web.1"), stay("web.2"), labels={"ssd": "yes"}),
        host("b"),
        apps=app({"web": 2}),
        releases=wanted,
    )
    move = Move(slot=Slot("shop", "web", 2), from_host="a", to_host="b")
    plan = step(replace(found, rebalance=Rebalance(moves=(move,))))
    assert [(c.kind, c.record) for c in plan.records] == [("rebalance", None)]
    assert not plan.pending


def moves_of(found: World) -> list[str]:
    return [f"{m.slot.short} {m.from_host} {m.to_host}" for m in seer(found).balanced("", 9).moves]


def test_a_rebalance_goes_to_hosts_that_are_preferred_and_never_away_from_them() -> None:
    prefers = (Constraint(label="ssd"),)
    wanted = (release(process_type("web", where=Where(prefer=prefers))),)
    hosts = (
        host("a", *(stay(f"web.{n}") for n in range(1, 5)), labels={"zone": "x"}),
        host("b", labels={"zone": "y", "ssd": "true"}, instances_max=2),
    )
    found = world(*hosts, apps=app({"web": 4}), releases=wanted)
    assert moves_of(found) == ["web.4 a b", "web.3 a b"]
    fast = host("a", *(stay(f"web.{n}") for n in range(1, 5)), labels={"ssd": "true"})
    found = world(fast, host("b"), apps=app({"web": 4}), releases=wanted)
    assert moves_of(found) == []


def test_a_rebalance_levels_every_label_that_is_spread_by() -> None:
    wanted = (release(process_type("web", where=Where(spread=("zone", "rack")))),)
    crowd = [stay(f"web.{n}") for n in range(1, 5)]
    hosts = (
        host("a", *crowd[:2], labels={"zone": "x", "rack": "1"}),
        host("b", *crowd[2:], labels={"zone": "x", "rack": "1"}),
        host("c", labels={"zone": "x", "rack": "2"}),
    )
    found = world(*hosts, apps=app({"web": 4}), releases=wanted)
    assert moves_of(found) == ["web.2 a c", "web.4 b c"]
    plan = seer(found).balanced("", 9)
    assert (plan.types[0].skew_before, plan.types[0].skew_after) == (4, 0)


# -- explain ---------------------------------------------------------------------------------------


def explained(found: World, slot: str, pending: str = "") -> Explanation:
    name, ordinal = slot.split(".")
    wanted = Slot("shop", name, int(ordinal))
    return explain(found, Book(), wanted, now_s=100.0, replace_after_s=5.0, pending=pending)


def test_the_winner_and_the_next_are_told_with_what_decided() -> None:
    found = world(
        host("a", stay("web.1", reason="wanted")),
        host("b", stay("web.2"), stay("web.3")),
        apps=app({"web": 3}),
        releases=WEB,
    )
    said = explained(found, "web.1")
    assert (said.host, said.reason) == ("a", "wanted")
    best, second = said.verdicts
    assert (best.host, best.rank, best.current, second.host, second.rank) == ("a", 1, True, "b", 2)
    levels = [{t.name: t.value for t in v.terms} for v in said.verdicts]
    assert [level["of this type on it"] for level in levels] == [0, 2]


def test_the_help_that_is_named_helps() -> None:
    """Each is done, and then it fits."""
    need = process_type(
        "db",
        resources=Resources(memory_bytes=512 * MIB),
        where=Where(require=(Constraint(label="ssd"),), max_per_host=1),
    )
    base = {"labels": {"ssd": "yes"}, "memory_bytes": 1024 * MIB}

    def alone(**fields: object) -> World:
        entry = host("a", **(base | fields))  # type: ignore[arg-type]
        return world(entry, apps=app({"db": 1}), releases=(release(need),))

    cases: list[tuple[dict[str, object], str]] = [
        ({"word": Host(name="a", cordoned=True)}, "after formctl uncordon a"),
        ({"memory_bytes": 500 * MIB}, "with 12 MiB more memory free"),
        ({"labels": {}}, "with labels that match ssd (formctl hosts label a …)"),
        ({"silent_since_s": 0.0}, "when its agent is back"),
    ]
    for fields, words in cases:
        said = explained(alone(**fields), "db.1", pending="no host")
        assert said.remedy == f"it would fit on a {words}"
        assert step(alone(**fields)).documents == ()
    assert [d.size for d in step(alone()).documents] == [1]


@SETTINGS
@given(worlds(), st.data())
def test_what_explain_says_of_a_host_is_what_placement_does(
    before: World, data: st.DataObject
) -> None:
    found = settled(before)
    (shop,) = found.apps.values()
    assert isinstance(shop, App)
    name = data.draw(st.sampled_from(sorted(shop.formation)))
    more = shop.formation[name] + 1
    plan = seer(found).after(scaled(found, {name: more}))
    if any(s.kind == "start" and s.slot.type == name for s in plan.steps):
        return
    waiting = [u for u in plan.unplaced if u.type == name]
    assert all(not verdict.fits for u in waiting for verdict in u.verdicts)
    for entry in found.hosts.values():
        assert list(misfits(found, entry)) == []


# -- runs ------------------------------------------------------------------------------------------


def test_a_run_that_waits_is_explained_by_the_settings_that_it_has() -> None:
    wanted = (release(process_type("web", where=Where(require=(Constraint(label="ssd"),)))),)
    run = Run(
        id="release.2",
        slot=Slot("shop", "release", 2),
        release=1,
        command="x",
        like="web",
        who="ann",
    )
    found = world(
        host("a"), host("b", labels={"ssd": "yes"}), apps=app({"web": 0}), releases=wanted
    )
    waiting = replace(found, runs={("shop", "release.2"): run})
    told = explain(
        waiting, Book(), run.slot, now_s=100.0, replace_after_s=5.0, pending="release.1 may run"
    )
    assert (told.host, told.reason) == ("", "release.1 may run")
    assert [(v.host, v.fits) for v in told.verdicts] == [("b", True), ("a", False)]
    placed = replace(run, state=RunState.PLACED, host="b")
    there = replace(found, runs={("shop", "release.2"): placed})
    told = explain(there, Book(), run.slot, now_s=100.0, replace_after_s=5.0)
    assert (told.host, told.reason) == ("b", "run by ann")
