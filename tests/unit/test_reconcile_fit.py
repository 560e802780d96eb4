"""reconcile: fixed ports, abilities that a type requires, and what has ended for good."""

from __future__ import annotations

from worlds import app, host, process_type, release, seen, stay, step, world, written

from formation.model import Ability, Assignment, InstanceState, Slot
from formation_coordinator import views
from formation_coordinator.counting import HealthyCounts
from formation_coordinator.plan import Plan
from formation_coordinator.world import HostEntry, World

PROXY = process_type("proxy", port=8080)
STOPPING, FINISHED, FAILED = InstanceState.STOPPING, InstanceState.FINISHED, InstanceState.FAILED


# ---------------------------------------------------------------------- fixed ports


def test_a_type_with_a_fixed_port_runs_once_on_each_host() -> None:
    plan = step(world(host("a"), host("b"), apps=app({"proxy": 3}), releases=(release(PROXY),)))
    assert written(plan) == {"a": ["proxy.1"], "b": ["proxy.2"]}
    first, second = (f"port 8080 is taken by shop/proxy.{n}" for n in (1, 2))
    assert plan.pending[Slot("shop", "proxy", 3)] == f"no host: a: {first}; b: {second}"


def test_two_types_with_the_same_port_never_share_a_host_whatever_their_apps() -> None:
    apps = (app({"proxy": 1}), app({"edge": 2}, name="site"))
    edge = release(process_type("edge", port=8080), name="site")
    given = world(host("a", stay("proxy.1")), host("b"), apps=apps, releases=(release(PROXY), edge))
    plan = step(given)
    assert written(plan) == {"b": ["edge.1"]}
    assert "a: port 8080 is taken by shop/proxy.1" in plan.pending[Slot("site", "edge", 2)]


def test_other_ports_are_no_hindrance() -> None:
    both = release(PROXY, process_type("edge", port=8081), "web")
    given = world(
        host("a", stay("proxy.1")),
        apps=app({"proxy": 1, "edge": 1, "web": 1}),
        releases=(both,),
    )
    assert written(step(given)) == {"a": ["edge.1", "proxy.1", "web.1"]}


def test_a_port_is_free_only_when_the_process_that_had_it_is_gone() -> None:
    gone = stay("proxy.1")
    both = release(PROXY, process_type("edge", port=8080))
    apps = app({"proxy": 0, "edge": 1})
    stopping = world(host("a", says=[seen(gone, STOPPING)]), apps=apps, releases=(both,))
    plan = step(stopping)
    assert plan.documents == ()
    assert "port 8080 is taken by shop/proxy.1" in plan.pending[Slot("shop", "edge", 1)]
    dropped_now = step(world(host("a", gone), apps=apps, releases=(both,)))
    assert written(dropped_now) == {"a": []}
    stopped = world(
        host("a", says=[seen(gone, InstanceState.STOPPED)]), apps=apps, releases=(both,)
    )
    assert written(step(stopped)) == {"a": ["edge.1"]}


def test_a_new_release_takes_the_port_over_in_place() -> None:
    given = world(
        host("a", stay("proxy.1")),
        host("b"),
        apps=app({"proxy": 1}, release=2),
        releases=(release(PROXY), release(PROXY, number=2)),
    )
    plan = step(given)
    assert written(plan) == {"a": ["proxy.1"]}
    assert plan.sentence == "1 replaced"


def test_a_port_that_is_new_moves_all_but_one_of_each_host() -> None:
    releases = (release("proxy"), release(PROXY, number=2))
    apps = app({"proxy": 2}, release=2)
    new = stay("proxy.1", release_number=2, stem="kept")
    crowded = host("a", new, stay("proxy.2"))
    plan = step(world(crowded, host("b"), apps=apps, releases=releases))
    assert written(plan) == {"a": ["proxy.1"], "b": ["proxy.2"]}


def test_what_fits_nowhere_goes_on_as_it_is_and_holds_up_nobody() -> None:
    releases = (release("proxy"), release(PROXY, number=2))
    done = [stay("proxy.1", release_number=2), stay("proxy.3", release_number=2)]
    given = world(
        host("a", done[0], stay("proxy.2"), stay("proxy.4")),
        host("b", done[1]),
        apps=app({"proxy": 4}, release=2, stable=1),
        releases=releases,
    )
    plan = step(given)
    assert plan.documents == ()
    why = plan.pending[Slot("shop", "proxy", 2)]
    assert why.startswith("its new release fits nowhere, the old one goes on; no host: a: port")
    assert views.needs_reasons(given)
    with_room = world(*given.hosts.values(), host("c"), apps=given.apps["shop"], releases=releases)
    assert written(step(with_room))["c"] == ["proxy.2"]


# ---------------------------------------------------------------------- abilities


def test_a_host_that_lacks_a_required_ability_takes_nothing_and_says_why() -> None:
    spec = process_type("web", requires=[Ability.CGROUP, Ability.MEMORY])
    a = host("a", abilities=[Ability.CGROUP], inability="no memory controller in /sys/fs/cgroup")
    b = host("b", abilities=[Ability.CGROUP, Ability.MEMORY, Ability.CPU])
    plan = step(world(a, b, apps=app({"web": 2}), releases=(release(spec),)))
    assert written(plan) == {"b": ["web.1", "web.2"]}
    plan = step(world(a, host("c"), apps=app({"web": 1}), releases=(release(spec),)))
    assert plan.pending[Slot("shop", "web", 1)] == (
        "no host: a: cannot enforce memory (no memory controller in /sys/fs/cgroup); "
        "c: cannot enforce cgroup, memory"
    )


def test_a_release_that_requires_more_moves_to_a_host_that_can() -> None:
    spec = process_type("web", requires=[Ability.MEMORY])
    releases = (release("web"), release(spec, number=2))
    apps = app({"web": 1}, release=2)
    able = host("b", abilities=[Ability.MEMORY])
    plan = step(world(host("a", stay("web.1")), able, apps=apps, releases=releases))
    assert written(plan) == {"a": [], "b": ["web.1"]}
    plan = step(world(host("a", stay("web.1")), host("b"), apps=apps, releases=releases))
    assert plan.documents == ()
    assert "cannot enforce memory" in plan.pending[Slot("shop", "web", 1)]


def test_what_runs_is_left_alone_when_its_host_loses_an_ability() -> None:
    spec = process_type("web", requires=[Ability.MEMORY])
    given = world(host("a", stay("web.1")), apps=app({"web": 1}), releases=(release(spec),))
    assert step(given) == Plan()


# ---------------------------------------------------------------------- FINISHED and FAILED


def batch(item: Assignment, state: InstanceState, *, silent_since_s: float | None = None) -> World:
    a: HostEntry = host("a", item, says=[seen(item, state)], silent_since_s=silent_since_s)
    return world(a, host("b"), apps=app({"web": 1}), releases=(release("web"),))


def test_what_has_ended_is_not_replaced_not_even_when_its_host_is_lost() -> None:
    for state in (FINISHED, FAILED):
        assert step(batch(stay("web.1"), state)) == Plan()
        assert step(batch(stay("web.1"), state, silent_since_s=0.0)).documents == ()
    lost = step(batch(stay("web.1"), InstanceState.HEALTHY, silent_since_s=0.0))
    assert written(lost) == {"b": ["web.1"]}


def test_a_restart_or_a_new_release_runs_what_has_ended_again() -> None:
    releases = (release("web"), release("web", number=2))
    item = stay("web.1")
    for state in (FINISHED, FAILED):
        for apps in (app({"web": 1}, release=2), app({"web": 1}, web_1=1)):
            here = host("a", item, says=[seen(item, state)])
            assert written(step(world(here, apps=apps, releases=releases))) == {"a": ["web.1"]}
        lost = host("a", item, says=[seen(item, state)], silent_since_s=0.0)
        again = app({"web": 1}, release=2)
        plan = step(world(lost, host("b"), apps=again, releases=releases))
        assert written(plan) == {"b": ["web.1"]}


def test_a_rollout_goes_on_behind_what_has_finished_and_stops_behind_what_has_failed() -> None:
    old = [stay(f"web.{n}") for n in (2, 3)]
    releases = (release("web"), release("web", number=2))
    apps = app({"web": 3}, release=2)
    done = stay("web.1", release_number=2)
    finished = world(
        host("a", done, *old, says=[seen(done, FINISHED)]), apps=apps, releases=releases
    )
    (document,) = step(finished).documents
    assert [i.release for i in document.instances] == [2, 2, 1]
    failed = world(host("a", done, *old, says=[seen(done, FAILED)]), apps=apps, releases=releases)
    assert step(failed).documents == ()


def test_finished_counts_as_wanted_and_unready_restarting_failed_do_not() -> None:
    good = {InstanceState.HEALTHY, FINISHED}
    for state in InstanceState:
        given = batch(stay("web.1"), state)
        assert HealthyCounts().of_app(given, "shop") == (1 if state in good else 0), state


def test_a_scale_down_takes_the_unhealthy_before_the_healthy() -> None:
    items = [stay(f"web.{n}") for n in range(1, 6)]
    for state in (FAILED, InstanceState.BACKOFF, InstanceState.UNREADY, InstanceState.RESTARTING):
        a = host("a", *items, says=[seen(items[1], state)])
        plan = step(world(a, apps=app({"web": 4}), releases=(release("web"),)))
        assert written(plan) == {"a": ["web.1", "web.3", "web.4", "web.5"]}
