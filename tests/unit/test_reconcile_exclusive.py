"""reconcile: exclusive types never have two copies of a slot that may run, and per_host types."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs
from worlds import app, host, looping, process_type, release, seen, stay, step, world, written

from formation.model import Host, InstanceState, Slot
from formation.policy import AGENT_LEASE_S, LEASE_MARGIN_S
from formation.rules import Constraint, Where
from formation_coordinator.plan import Plan

GRACE_S = 30.0
ONE = process_type("one", exclusive=True)
RELEASES = (release(ONE), release(ONE, number=2))
APPS = app({"one": 1})
WAIT_S = AGENT_LEASE_S + GRACE_S + LEASE_MARGIN_S
STOPPING, STOPPED = InstanceState.STOPPING, InstanceState.STOPPED


def ending(plan: Plan) -> dict[str, list[tuple[str, bool]]]:
    return {d.host: [(i.uid, i.ending) for i in d.instances] for d in plan.documents}


def test_a_lost_host_is_waited_for_until_its_agent_has_surely_stopped_it() -> None:
    given = world(
        host("a", stay("one.1"), silent_since_s=50.0), host("b"), apps=APPS, releases=RELEASES
    )
    early = step(given, now_s=50.0 + WAIT_S - 0.1)
    assert (early.documents, early.wake_at_s) == ((), 50.0 + WAIT_S)
    late = step(given, now_s=50.0 + WAIT_S)
    assert ending(late) == {"a": [("one.1-old", True)], "b": [("one.1-new", False)]}
    assert late.absent == ("a",)


def test_where_nobody_takes_it_the_lost_host_keeps_it() -> None:
    given = world(host("a", stay("one.1"), silent_since_s=0.0), apps=APPS, releases=RELEASES)
    plan = step(given)
    assert plan.documents == ()
    assert plan.pending[Slot("shop", "one", 1)].startswith("no host: a: lost")


def test_a_change_ends_the_old_one_first_and_starts_the_new_one_when_it_is_surely_gone() -> None:
    apps = app({"one": 1}, release=2, stable=1)
    a = host("a", stay("one.1"), generation=4)
    first = step(world(a, host("b"), apps=apps, releases=RELEASES))
    assert ending(first) == {"a": [("one.1-old", True)]}
    item = stay("one.1", ending=True, reason="v2 instead of v1")
    for says, follows in (
        ([seen(item, STOPPING)], 5),  # it still runs
        ([seen(item, STOPPED)], 4),  # its agent has not said yet that it follows this document
    ):
        running = host("a", item, generation=5, says=says, follows=follows)
        assert step(world(running, host("b"), apps=apps, releases=RELEASES)).documents == ()
    gone = host("a", item, generation=5, says=[seen(item, STOPPED)])
    plan = step(world(gone, host("b"), apps=apps, releases=RELEASES))
    assert sum(len(d.instances) for d in plan.documents) == 1
    (new,) = [i for d in plan.documents for i in d.instances]
    assert (new.slot.ordinal, new.release, new.reason) == (1, 2, "v2 instead of v1")


def test_scaled_down_and_up_again_the_slot_waits_for_its_old_copy() -> None:
    item = stay("one.1", ending=True)
    running = host("a", item, says=[seen(item, STOPPING)])
    given = world(running, host("b"), apps=APPS, releases=RELEASES)
    assert step(given).documents == ()
    silent = structs.replace(running, session=None, silent_since_s=50.0)
    waiting = world(silent, host("b"), apps=APPS, releases=RELEASES)
    assert step(waiting, now_s=60.0).documents == ()
    late = step(waiting, now_s=50.0 + WAIT_S)
    assert written(late) == {"b": ["one.1"]}


def test_other_slots_do_not_wait() -> None:
    item = stay("one.1", ending=True)
    a = host("a", item, says=[seen(item, STOPPING)])
    plan = step(world(a, host("b"), apps=app({"one": 2}), releases=RELEASES))
    assert written(plan) == {"b": ["one.2"]}


def test_a_host_that_said_goodbye_has_stopped_it() -> None:
    a = host("a", stay("one.1"), silent_since_s=99.0, departed=True)
    plan = step(world(a, host("b"), apps=APPS, releases=RELEASES))
    assert ending(plan) == {"a": [("one.1-old", True)], "b": [("one.1-new", False)]}


def test_what_came_back_is_told_to_end_its_copy_and_listed_until_it_has() -> None:
    item = stay("one.1", ending=True)
    back = host("a", item, says=[seen(item, InstanceState.HEALTHY)])
    kept = stay("one.1", stem="new", moved_from="a", after_loss=True)
    given = world(back, host("b", kept), apps=APPS, releases=RELEASES)
    assert step(given) == Plan()
    gone = host("a", item, says=[seen(item, STOPPED)])
    assert written(step(world(gone, host("b", kept), apps=APPS, releases=RELEASES))) == {"a": []}


def test_a_drain_ends_it_only_when_another_host_would_take_it() -> None:
    word = Host(name="a", cordoned=True, draining=True)
    a = host("a", stay("one.1"), word=word)
    assert ending(step(world(a, host("b"), apps=APPS, releases=RELEASES))) == {
        "a": [("one.1-old", True)]
    }
    nowhere = step(world(a, apps=APPS, releases=RELEASES))
    assert nowhere.documents == ()
    assert nowhere.pending


def test_a_drain_and_a_change_take_no_more_than_a_change_alone_may() -> None:
    drained = Host(name="a", cordoned=True, draining=True)
    changed = (release(ONE), release(ONE, number=2))
    apps = app({"one": 2}, release=2, stable=1)
    hosts = (
        host("a", stay("one.2", release_number=2), word=drained),
        host("b", stay("one.1")),
        host("c"),
    )
    plan = step(world(*hosts, apps=apps, releases=changed))
    assert ending(plan) == {"b": [("one.1-old", True)]}


def test_a_drain_waits_while_another_one_does_not_work() -> None:
    drained = Host(name="a", cordoned=True, draining=True)
    a, sick = host("a", stay("one.2"), word=drained), stay("one.1")
    given = world(
        a, host("b", sick, says=[seen(sick, InstanceState.STARTING)]), host("c"),
        apps=app({"one": 2}), releases=RELEASES,
    )  # fmt: skip
    plan = step(given)
    assert plan.documents == ()
    assert plan.pending[Slot("shop", "one", 2)] == "a is drained; it waits until others work"
    well = world(a, host("b", sick), host("c"), apps=app({"one": 2}), releases=RELEASES)
    assert ending(step(well)) == {"a": [("one.2-old", True)]}


# ---------------------------------------------------------------------- one for every host

AGENTD = process_type("agentd", per_host=True)
ON_SSD = replace(AGENTD, where=Where(require=(Constraint(label="ssd"),)))


def test_every_host_that_matches_gets_one_also_a_new_one() -> None:
    given = world(
        host("a", stay("agentd.1")),
        host("b"),
        host("c", silent_since_s=99.0),
        host("d", word=Host(name="d", cordoned=True)),
        apps=app({"agentd": 1}),
        releases=(release(AGENTD),),
    )
    plan = step(given)
    assert written(plan) == {"b": ["agentd.2"]}
    assert plan.documents[0].instances[0].reason == "one for every host"


def test_its_quantity_is_that_of_each_host() -> None:
    apps = app({"agentd": 2})
    given = world(host("a"), host("b", stay("agentd.1")), apps=apps, releases=(release(AGENTD),))
    assert written(step(given)) == {"a": ["agentd.2", "agentd.3"], "b": ["agentd.1", "agentd.4"]}
    fewer = world(
        host("a", stay("agentd.1"), stay("agentd.2")),
        apps=app({"agentd": 1}),
        releases=(release(AGENTD),),
    )
    assert written(step(fewer)) == {"a": ["agentd.1"]}


def test_where_it_does_not_belong_it_goes() -> None:
    given = world(
        host("a", stay("agentd.1")),
        host("b", stay("agentd.2"), labels={"ssd": "yes"}),
        apps=app({"agentd": 1}),
        releases=(release(ON_SSD),),
    )
    assert written(step(given)) == {"a": []}


def test_of_a_lost_host_it_is_not_placed_elsewhere() -> None:
    given = world(
        host("a", stay("agentd.1"), silent_since_s=0.0),
        host("b", stay("agentd.2")),
        apps=app({"agentd": 1}),
        releases=(release(AGENTD),),
    )
    assert step(given).documents == ()


def test_where_it_keeps_crashing_it_stays_since_it_belongs_nowhere_else() -> None:
    item = stay("agentd.1")
    hosts = (host("a", item, says=[looping(item)]), host("b", stay("agentd.2")))
    given = world(*hosts, apps=app({"agentd": 1}), releases=(release(AGENTD),))
    assert step(given).documents == ()


def test_on_a_drained_host_it_goes_last() -> None:
    word = Host(name="a", cordoned=True, draining=True)
    both = (release(AGENTD, "web"),)
    apps = app({"agentd": 1, "web": 1})
    busy = world(host("a", stay("agentd.1"), stay("web.1"), word=word), apps=apps, releases=both)
    assert step(busy).documents == ()
    alone = world(host("a", stay("agentd.1"), word=word), apps=app({"agentd": 1, "web": 0}),
                  releases=both)  # fmt: skip
    assert written(step(alone)) == {"a": []}


def test_a_change_replaces_it_in_place_one_after_the_other() -> None:
    changed = (release(AGENTD), release(AGENTD, number=2))
    apps = app({"agentd": 1}, release=2, stable=1)
    hosts = (host("a", stay("agentd.1")), host("b", stay("agentd.2")))
    assert written(step(world(*hosts, apps=apps, releases=changed))) == {"a": ["agentd.1"]}


def test_a_crash_looping_one_ends_first_and_its_successor_avoids_the_host() -> None:
    item = stay("one.1")
    a = host("a", item, says=[looping(item)])
    first = step(world(a, host("b"), apps=APPS, releases=RELEASES))
    assert ending(first) == {"a": [("one.1-old", True)]}
    (told,) = first.documents[0].instances
    assert (told.avoided_hosts, told.failures) == (("a",), 5)
    gone = host("a", told, generation=5, says=[seen(told, STOPPED)])
    plan = step(world(gone, host("b"), apps=APPS, releases=RELEASES))
    assert written(plan)["b"] == ["one.1"]
    (new,) = [i for d in plan.documents for i in d.instances]
    assert (new.avoided_hosts, new.failures) == (("a",), 5)
    assert new.reason == "it kept failing on a"


def test_one_that_is_stale_on_a_host_that_is_drained_ends_first() -> None:
    apps = app({"one": 1}, release=2, stable=1)
    drained = Host(name="a", cordoned=True, draining=True)
    a = host("a", stay("one.1"), word=drained, draining_since_s=0.0)
    plan = step(world(a, host("b"), apps=apps, releases=RELEASES))
    assert ending(plan) == {"a": [("one.1-old", True)]}
