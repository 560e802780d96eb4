"""reconcile: what holds for every world, however odd."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from worlds import app, host, process_type, release, seen, stay, world

from formation.model import Ability, Assignment, HostState, InstanceState, Slot
from formation_coordinator import views
from formation_coordinator.book import Book
from formation_coordinator.reconcile import Plan, reconcile, standstill
from formation_coordinator.world import (
    Change,
    HostEntry,
    World,
    apply,
    host_state,
    is_current,
    is_healthy,
    validate,
)

NOW_S = 100.0
REPLACE_AFTER_S = 5.0
PORT = 8080
ABLE = (Ability.MEMORY,)
STEPS_TO_REST_MAX = 20
EXAMPLES = 60
STATES = [state for state in InstanceState if state is not InstanceState.PENDING]
# What agents say of the first of their stays.
WORDS = st.lists(st.tuples(st.sampled_from(STATES), st.booleans()), max_size=3)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Up to six hosts in any state, with stays of wanted and unwanted slots, doubles included.

    The second release of `worker`, and `edge` of another app, have the same fixed port; `worker`
    requires an ability by then.
    """
    uids = count(1)
    hosts = [
        draw(one_host(name, uids)) for name in draw(st.sets(st.sampled_from("abcdef"), max_size=6))
    ]
    quantities = st.integers(0, 5)
    formation = {"web": draw(quantities), "worker": draw(quantities), "gone": 3}
    shop = app(formation, release=2, web=draw(st.integers(0, 1)))
    shop = replace(shop, retry_marks=draw(st.sampled_from([{}, {"web": 2}, {"worker.1": 1}])))
    worker = process_type("worker", port=PORT, requires=draw(st.sampled_from([(), ABLE])))
    site = app({"edge": draw(st.integers(0, 2))}, name="site")
    releases = (
        release("web", "worker"),
        release("web", worker, number=2),
        release(process_type("edge", port=PORT), name="site"),
    )
    return world(*hosts, apps=(shop, site), releases=releases)


@st.composite
def one_host(draw: st.DrawFn, name: str, uids: count[int]) -> HostEntry:
    slots = draw(
        st.sets(
            st.builds(
                Slot,
                st.just("shop"),
                st.sampled_from(["web", "worker", "gone"]),
                st.integers(1, 5),
            ),
            max_size=4,
        )
    )
    stays = [
        stay(
            slot.short,
            stem=f"s{next(uids)}",
            release_number=draw(st.integers(1, 2)),
            mark=draw(st.integers(0, 1)),
            avoided=tuple(draw(st.sampled_from(["", "", "a", "bc", "abcdef"]))),
        )
        for slot in sorted(slots)
    ]
    return host(
        name,
        *stays,
        healthy=draw(st.booleans()),
        says=[
            seen(item, state, crash_looping=loops, failures=5)
            for item, (state, loops) in zip(stays, draw(WORDS), strict=False)
        ],
        abilities=draw(st.sampled_from([(), ABLE])),
        silent_since_s=draw(st.sampled_from([None, None, 0.0, 99.0])),
        zone=draw(st.sampled_from(["", "east", "west"])),
        instances_max=draw(st.sampled_from([0, 0, 3])),
        departed=draw(st.booleans()),
    )


def planned(given_world: World, uids: count[int] | None = None) -> Plan:
    uids = uids or count(given_world.revision * 1_000)
    return reconcile(
        given_world,
        now_s=NOW_S,
        wall_ms=0,
        epoch=1,
        replace_after_s=REPLACE_AFTER_S,
        new_stem=lambda: f"new{next(uids)}",
    )


def after(given_world: World, plan: Plan) -> World:
    changes = [Change(kind="assignments", names=(d.host,), record=d) for d in plan.documents]
    return apply(given_world, changes, revision=given_world.revision + 1, now_s=NOW_S)


def ready(entry: HostEntry) -> bool:
    state = host_state(entry, now_s=NOW_S, replace_after_s=REPLACE_AFTER_S)
    return state is HostState.READY


def slots_of(given_world: World) -> dict[Slot, list[HostEntry]]:
    found: dict[Slot, list[HostEntry]] = {}
    for entry in given_world.hosts.values():
        for item in entry.assigned:
            found.setdefault(item.slot, []).append(entry)
    return found


@given(worlds())
@settings(max_examples=EXAMPLES)
def test_the_world_stays_valid_and_generations_rise_by_one(before: World) -> None:
    plan = planned(before)
    assert validate(after(before, plan)) == []
    for document in plan.documents:
        old = before.hosts[document.host].document
        assert document.generation == (old.generation if old else 0) + 1


@given(worlds())
@settings(max_examples=EXAMPLES)
def test_every_wanted_slot_is_assigned_or_pending_with_a_reason(before: World) -> None:
    plan = planned(before)
    then = after(before, plan)
    assigned = slots_of(then)
    for type_name, quantity in views.wanted_of(then, then.apps["shop"]).items():
        have = {slot for slot in assigned if slot.type == type_name}
        waiting = {slot for slot in plan.pending if slot.type == type_name}
        assert len(have | waiting) == quantity
    assert all(plan.pending.values())


@given(worlds())
@settings(max_examples=EXAMPLES)
def test_new_stays_go_to_ready_hosts_within_their_limits_only(before: World) -> None:
    then = after(before, planned(before))
    for entry in then.hosts.values():
        known = {item.uid for item in before.hosts[entry.name].assigned}
        fresh = [item for item in entry.assigned if item.uid not in known]
        limit = entry.status.capacity.instances_max if entry.status else 0
        if fresh:
            assert ready(entry)
            assert not limit or len(entry.assigned) <= max(limit, len(known))


@given(worlds())
@settings(max_examples=EXAMPLES)
def test_nothing_healthy_and_current_is_stopped_without_a_reason(before: World) -> None:
    """The reasons: its type shrank, or another healthy copy of its slot is kept."""
    then = after(before, planned(before))
    shop = before.apps["shop"]
    kept = {item.uid for entry in then.hosts.values() for item in entry.assigned}
    shrunk = {
        name
        for name in ("web", "worker", "gone")
        if len({s for s in slots_of(before) if s.type == name})
        > views.wanted_of(before, shop).get(name, 0)
    }
    for entry in before.hosts.values():
        observed = entry.observed()
        for item in entry.assigned:
            if item.uid in kept or not is_healthy(entry, observed.get(item.uid)):
                continue
            copies = slots_of(before)[item.slot]
            assert not is_current(before, item) or item.slot.type in shrunk or len(copies) > 1


@given(worlds())
@settings(max_examples=EXAMPLES)
def test_passes_that_nobody_has_acted_on_come_to_rest_and_undo_nothing(before: World) -> None:
    """A pass may make room for what the next one does, but takes nothing of it back."""
    then, given_out = before, set[str]()
    for _ in range(STEPS_TO_REST_MAX):
        plan = planned(then)
        given_out |= {item.uid for item in placed(then, plan)}
        then = after(then, plan)
        assert given_out <= uids_of(then).keys()
    assert planned(then).documents == ()


@given(worlds())
@settings(max_examples=EXAMPLES)
def test_where_everything_that_is_placed_is_well_all_comes_to_rest(before: World) -> None:
    then = well(before)
    for _ in range(STEPS_TO_REST_MAX):
        then = well(after(then, planned(then)))
    assert planned(then).documents == ()


@given(worlds())
@settings(max_examples=EXAMPLES)
def test_what_hops_goes_where_its_slot_has_not_failed_and_takes_that_along(before: World) -> None:
    old = {item.slot: (entry, item) for entry, item in hopping(before)}
    for item in placed(before, planned(before)):
        if item.failures == 0:
            continue
        entry, left = old[item.slot]
        here = next(e for e in after(before, planned(before)).hosts.values() if item in e.assigned)
        assert ready(here)
        assert here.name not in (*left.avoided_hosts, entry.name)
        assert set(item.avoided_hosts) == {*left.avoided_hosts, entry.name}
        assert item.release == left.release == before.apps["shop"].release


@given(st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=EXAMPLES // 2)
def test_a_release_that_is_broken_everywhere_visits_each_host_once(
    hosts: int, quantity: int
) -> None:
    shop, releases = app({"web": quantity}), (release("web"),)
    given_world = world(*(host(name) for name in "abcdef"[:hosts]), apps=shop, releases=releases)
    visits: Counter[tuple[Slot, str]] = Counter()
    uids, known = count(1), set[str]()
    for _ in range(10 * hosts * quantity):
        plan = planned(given_world, uids)
        given_world = broken(after(given_world, plan))
        for entry in given_world.hosts.values():
            visits.update((i.slot, entry.name) for i in entry.assigned if i.uid not in known)
            known |= {item.uid for item in entry.assigned}
    assert planned(given_world, uids).documents == (), "it comes to rest"
    assert set(visits.values()) == {1}
    assert len(visits) == hosts * quantity


@given(worlds())
@settings(max_examples=EXAMPLES)
def test_a_fixed_port_is_never_given_twice(before: World) -> None:
    then = after(before, planned(before))
    for item in placed(before, planned(before)):
        entry = next(e for e in then.hosts.values() if item in e.assigned)
        port = port_of(then, item)
        others = {i.slot for i in entry.assigned if port and port_of(then, i) == port} - {item.slot}
        assert not others
        if item.slot.type == "worker" and then.releases["shop", 2].types[1].requires:
            assert entry.status is not None
            assert entry.status.abilities == ABLE


def port_of(given_world: World, item: Assignment) -> int:
    spec = given_world.releases[item.slot.app, item.release].type_named(item.slot.type)
    return spec.port if spec else 0


def uids_of(given_world: World) -> dict[str, Assignment]:
    return {item.uid: item for entry in given_world.hosts.values() for item in entry.assigned}


def placed(given_world: World, plan: Plan) -> list[Assignment]:
    """What this plan makes new."""
    known = uids_of(given_world)
    return [i for document in plan.documents for i in document.instances if i.uid not in known]


def hopping(given_world: World) -> list[tuple[HostEntry, Assignment]]:
    """Those that may hop."""
    return [
        (entry, item)
        for entry in given_world.hosts.values()
        for item in entry.assigned
        for status in (entry.observed()[item.uid],)
        if status.crash_looping and status.state is InstanceState.BACKOFF
    ]


def said(given_world: World, state: InstanceState, **fields: bool) -> World:
    """Every connected host runs what it is told, and says this of all of it."""
    changes = [
        Change(
            kind="status",
            names=(entry.name,),
            record=structs.replace(entry.status, instances=table),
        )
        for entry in given_world.hosts.values()
        if entry.status and entry.connected
        for table in (tuple(seen(item, state, **fields) for item in entry.assigned),)
    ]
    return apply(given_world, changes, revision=given_world.revision + 1, now_s=NOW_S)


def well(given_world: World) -> World:
    return said(given_world, InstanceState.HEALTHY)


def broken(given_world: World) -> World:
    return said(given_world, InstanceState.BACKOFF, crash_looping=True)


@given(worlds())
@settings(max_examples=EXAMPLES)
def test_what_stands_still_is_known_without_a_plan(before: World) -> None:
    assert standstill(before, Book(), NOW_S) == planned(before).standstill


@given(worlds())
@settings(max_examples=EXAMPLES)
def test_with_the_brake_on_nothing_is_placed_because_a_host_is_silent(before: World) -> None:
    plan = planned(before)
    if not plan.brake:
        return
    was = slots_of(before)
    stale = {
        item.slot
        for entry in before.hosts.values()
        for item in entry.assigned
        if not is_current(before, item)
    }
    for slot, entries in slots_of(after(before, plan)).items():
        newcomers = [e for e in entries if e.name not in {b.name for b in was.get(slot, [])}]
        gone = [e for e in was.get(slot, []) if e.status and e.status.departed]
        assert not newcomers or slot not in was or gone or slot in stale


@given(worlds())
@settings(max_examples=EXAMPLES)
def test_views_show_every_assignment_once(before: World) -> None:
    shown = [
        view.status.uid
        for entry in before.hosts.values()
        for view in views.host_instances(entry, before)
    ]
    assert len(set(shown)) == len(shown)
