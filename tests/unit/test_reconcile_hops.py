"""reconcile: instances that crash-loop on one host are tried on others, a few at a time."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec import structs
from worlds import app, host, looping, release, seen, stay, step, world

from formation.model import App, Assignment, InstanceState
from formation_coordinator import hops, views
from formation_coordinator.plan import Plan
from formation_coordinator.world import HostEntry, World

WEB = (release("web"),)


def stays_of(plan: Plan) -> Mapping[str, list[Assignment]]:
    return {document.host: list(document.instances) for document in plan.documents}


def failing_on_a(item: Assignment, *others: HostEntry, apps: App | None = None) -> World:
    """web.1 crash-loops on host a."""
    a = host("a", item, says=[looping(item, failures=9)])
    return world(a, *others, apps=apps or app({"web": 1}), releases=WEB)


def test_a_crash_looping_instance_moves_and_takes_its_history_along() -> None:
    plan = step(failing_on_a(stay("web.1"), host("b")))
    stays = stays_of(plan)
    assert stays["a"] == []
    (moved,) = stays["b"]
    assert (moved.slot.short, moved.uid) == ("web.1", "web.1-new")
    assert (moved.failures, moved.avoided_hosts) == (9, ("a",))
    sentence = "shop/web.1 moved from a to b: failed 5 times within 5 min there (exit 1)"
    assert plan.sentence == sentence


def test_it_does_not_go_back_to_a_host_that_it_left() -> None:
    given = failing_on_a(stay("web.1", avoided=["b", "c"]), host("b"), host("c"), host("d"))
    (moved,) = stays_of(step(given))["d"]
    assert moved.avoided_hosts == ("b", "c", "a")
    everywhere = failing_on_a(stay("web.1", avoided=["b"]), host("b"))
    assert step(everywhere) == Plan()


@pytest.mark.parametrize(
    "other",
    [
        host("b", silent_since_s=99.0),
        host("b", silent_since_s=99.0, departed=True),
        host("b", stay("x.1", app_name="other"), instances_max=1),
    ],
)
def test_it_stays_when_no_other_host_takes_it(other: HostEntry) -> None:
    item = stay("web.1")
    apps = (app({"web": 1}), app({"x": len(other.assigned)}, name="other"))
    releases = (*WEB, release("x", name="other"))
    a = host("a", item, says=[looping(item)])
    assert step(world(a, other, apps=apps, releases=releases)).documents == ()


@pytest.mark.parametrize("state", [s for s in InstanceState if s is not InstanceState.BACKOFF])
def test_nothing_that_runs_or_is_over_is_moved(state: InstanceState) -> None:
    item = stay("web.1")
    a = host("a", item, says=[seen(item, state, crash_looping=True, failures=5)])
    assert step(world(a, host("b"), apps=app({"web": 1}), releases=WEB)) == Plan()


def test_few_failures_move_nothing() -> None:
    item = stay("web.1")
    a = host("a", item, says=[seen(item, InstanceState.BACKOFF, failures=4)])
    assert step(world(a, host("b"), apps=app({"web": 1}), releases=WEB)) == Plan()


def test_with_the_brake_on_nothing_hops() -> None:
    silent = [host(name, stay(f"web.{n}"), silent_since_s=0.0) for n, name in ((2, "b"), (3, "c"))]
    silent.append(host("d", stay("web.4"), silent_since_s=0.0))
    plan = step(failing_on_a(stay("web.1"), host("e"), *silent, apps=app({"web": 4})))
    assert plan.brake
    assert plan.documents == ()


def test_a_new_release_or_a_restart_forgets_where_it_failed() -> None:
    item = stay("web.1", avoided=["b"])
    a = host("a", item, says=[looping(item)])
    releases = (release("web"), release("web", number=2))
    for apps in (app({"web": 1}, release=2), app({"web": 1}, web_1=1)):
        (fresh,) = stays_of(step(world(a, host("b"), apps=apps, releases=releases)))["a"]
        assert (fresh.failures, fresh.avoided_hosts) == (0, ())


def test_a_quarter_of_a_type_is_on_trial_at_once() -> None:
    items = [stay(f"web.{n}") for n in range(1, 9)]
    a = host("a", *items, says=[looping(item) for item in items])
    plan = step(world(a, host("b"), apps=app({"web": 8}), releases=WEB))
    assert [item.slot.short for item in stays_of(plan)["b"]] == ["web.1", "web.2"]
    assert plan.sentence.endswith("there (exit 1) (and 1 more)")


def test_who_is_still_on_trial_holds_up_the_next() -> None:
    tried = stay("web.1", avoided=["a"])
    waiting = stay("web.2")
    a = host("a", waiting, says=[looping(waiting)])
    apps = app({"web": 2})
    for state in (InstanceState.WAITING, InstanceState.STARTING, InstanceState.BACKOFF):
        b = host("b", tried, says=[seen(tried, state)])
        assert step(world(a, b, host("c"), apps=apps, releases=WEB)) == Plan()
    for verdict in (seen(tried, InstanceState.HEALTHY), looping(tried)):
        b = host("b", tried, says=[verdict])
        assert step(world(a, b, host("c"), apps=apps, releases=WEB)).documents


def test_who_has_nowhere_to_go_does_not_hold_up_the_others() -> None:
    everywhere, once = stay("web.1", avoided=["b"]), stay("web.2")
    a = host("a", everywhere, once, says=[looping(everywhere), looping(once)])
    plan = step(world(a, host("b"), apps=app({"web": 2}), releases=WEB))
    assert [item.slot.short for item in stays_of(plan)["b"]] == ["web.2"]


def test_a_broken_release_of_a_thousand_moves_fifty_at_first() -> None:
    items = [stay(f"web.{n}") for n in range(1, 1001)]
    hosts = [
        host(name, *items[first::4], says=[looping(item) for item in items[first::4]])
        for first, name in enumerate("abcd")
    ]
    plan = step(world(*hosts, apps=app({"web": 1000}), releases=WEB))
    fresh = [i for stays in stays_of(plan).values() for i in stays if i.uid.endswith("-new")]
    assert len(fresh) == hops.ON_TRIAL_MAX


def test_after_eight_hosts_it_is_the_release_and_nothing_moves_any_more() -> None:
    left = [f"h{n}" for n in range(hops.HOSTS_LEFT_MAX)]
    assert step(failing_on_a(stay("web.1", avoided=left), host("z"))) == Plan()


def test_missing_instances_have_the_room_before_those_that_hop() -> None:
    item = stay("web.1")
    a = host("a", item, says=[looping(item)], instances_max=1)
    plan = step(world(a, host("b", instances_max=1), apps=app({"web": 2}), releases=WEB))
    assert [i.slot.short for i in stays_of(plan)["b"]] == ["web.2"]


def test_a_half_written_hop_is_finished_by_the_next_pass() -> None:
    old, new = stay("web.1", stem="old"), stay("web.1", stem="kept", avoided=["a"])
    given = world(
        host("a", old, says=[looping(old)]),
        host("b", new, says=[seen(new, InstanceState.STARTING)]),
        apps=app({"web": 1}),
        releases=WEB,
    )
    assert stays_of(step(given)) == {"a": []}


def test_a_lost_hosts_instance_avoids_where_it_failed_while_another_host_takes_it() -> None:
    item = stay("web.1", avoided=["a"])
    lost = host("b", item, silent_since_s=0.0)
    apps = app({"web": 1})
    full_of_others = [stay(f"x.{n}", app_name="other") for n in range(3)]
    other = (app({"x": 3}, name="other"), release("x", name="other"))
    busy = host("c", *full_of_others)
    given = world(host("a"), lost, busy, apps=(apps, other[0]), releases=(*WEB, other[1]))
    (moved,) = [i for i in stays_of(step(given))["c"] if i.slot.app == "shop"]
    assert moved.avoided_hosts == ("a",)
    only_a = world(host("a"), lost, apps=apps, releases=WEB)
    assert [i.slot.short for i in stays_of(step(only_a))["a"]] == ["web.1"]


def test_people_are_told_that_it_moved_and_why() -> None:
    item = stay("web.1", avoided=["a", "c"])

    def reason(entry: HostEntry) -> str:
        given = world(entry, apps=app({"web": 1}), releases=WEB)
        (view,) = views.host_instances(entry, given)
        return view.status.reason

    backing_off = host("b", item, says=[seen(item, InstanceState.BACKOFF, reason="exit 1")])
    assert reason(backing_off) == "exit 1; it kept failing on a, c"
    assert (
        reason(structs.replace(backing_off, status=None))
        == "sent to its host; it kept failing on a, c"
    )
    assert reason(host("b", item)) == ""
