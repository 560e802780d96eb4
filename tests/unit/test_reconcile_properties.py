"""reconcile: what holds for every world, however odd."""

from __future__ import annotations

from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import app, host, release, world

from formation.model import Assignment, HostState, Slot
from formation_coordinator import views
from formation_coordinator.reconcile import Plan, reconcile
from formation_coordinator.world import (
    Change,
    HostEntry,
    World,
    apply,
    brake_is_on,
    host_state,
    is_current,
    is_healthy,
    validate,
)

NOW_S = 100.0
REPLACE_AFTER_S = 5.0


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Up to six hosts in any state, with stays of wanted and unwanted slots, doubles included."""
    uids = count(1)
    hosts = [
        draw(one_host(name, uids)) for name in draw(st.sets(st.sampled_from("abcdef"), max_size=6))
    ]
    quantities = st.integers(0, 5)
    formation = {"web": draw(quantities), "worker": draw(quantities), "gone": 3}
    shop = app(formation, release=2, web=draw(st.integers(0, 1)))
    releases = (release("web", "worker"), release("web", "worker", number=2))
    return world(*hosts, apps=shop, releases=releases)


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
        Assignment(
            uid=f"u{next(uids)}",
            slot=slot,
            release=draw(st.integers(1, 2)),
            restart_mark=draw(st.integers(0, 1)),
        )
        for slot in sorted(slots)
    ]
    return host(
        name,
        *stays,
        healthy=draw(st.booleans()),
        silent_since_s=draw(st.sampled_from([None, None, 0.0, 99.0])),
        zone=draw(st.sampled_from(["", "east", "west"])),
        instances_max=draw(st.sampled_from([0, 0, 3])),
        departed=draw(st.booleans()),
    )


def planned(given_world: World) -> Plan:
    uids = count(1)
    return reconcile(
        given_world,
        now_s=NOW_S,
        epoch=1,
        replace_after_s=REPLACE_AFTER_S,
        new_uid=lambda slot: f"new{next(uids)}",
    )


def after(given_world: World, plan: Plan) -> World:
    changes = [Change(kind="assignments", names=(d.host,), record=d) for d in plan.documents]
    return apply(given_world, changes, revision=2, now_s=NOW_S)


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
@settings(max_examples=150)
def test_the_world_stays_valid_and_generations_rise_by_one(before: World) -> None:
    plan = planned(before)
    assert validate(after(before, plan)) == []
    for document in plan.documents:
        old = before.hosts[document.host].document
        assert document.generation == (old.generation if old else 0) + 1


@given(worlds())
@settings(max_examples=150)
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
@settings(max_examples=150)
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
@settings(max_examples=150)
def test_nothing_healthy_and_current_is_stopped_without_a_reason(before: World) -> None:
    """The reasons: its type shrank, or another healthy copy of its slot is kept."""
    plan = planned(before)
    then = after(before, plan)
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
            assert not is_current(shop, item) or item.slot.type in shrunk or len(copies) > 1


@given(worlds())
@settings(max_examples=150)
def test_a_second_pass_over_the_same_world_has_nothing_to_do(before: World) -> None:
    then = after(before, planned(before))
    assert planned(then).documents == ()


@given(worlds())
@settings(max_examples=150)
def test_with_the_brake_on_nothing_is_placed_because_a_host_is_silent(before: World) -> None:
    plan = planned(before)
    if not brake_is_on(before):
        return
    was = slots_of(before)
    for slot, entries in slots_of(after(before, plan)).items():
        newcomers = [e for e in entries if e.name not in {b.name for b in was.get(slot, [])}]
        gone = [e for e in was.get(slot, []) if e.status and e.status.departed]
        assert not newcomers or slot not in was or gone


@given(worlds())
@settings(max_examples=50)
def test_views_show_every_assignment_once(before: World) -> None:
    shown = [
        view.status.uid
        for entry in before.hosts.values()
        for view in views.host_instances(entry, before.apps)
    ]
    assert len(set(shown)) == len(shown)
