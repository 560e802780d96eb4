"""reconcile: cordons, drains, labels, lost hosts and what returns."""

from __future__ import annotations

from dataclasses import replace

from worlds import AT_ONCE, app, host, process_type, release, seen, stay, step, world, written

from formation.model import Host, InstanceState, Slot
from formation.requests import Move, Rebalance
from formation.rules import Constraint, HostLoss, Keep, LossAction, RolloutRules, Share, Where
from formation_coordinator.plan import Plan
from formation_coordinator.world import HostEntry

WEB = (release("web"),)
CORDONED = Host(name="a", cordoned=True)
DRAINING = Host(name="a", cordoned=True, draining=True)


def test_a_cordoned_host_takes_nothing_and_keeps_what_it_has() -> None:
    given = world(
        host("a", stay("web.1"), word=CORDONED), host("b"), apps=app({"web": 3}), releases=WEB
    )
    assert written(step(given)) == {"b": ["web.2", "web.3"]}
    alone = world(host("a", word=CORDONED), apps=app({"web": 1}), releases=WEB)
    assert step(alone).pending[Slot("shop", "web", 1)] == "no host: a: cordoned"


# ---------------------------------------------------------------------- drains


def drained(*others: HostEntry, quantity: int = 2, **fields: object) -> Plan:
    """web.1 and web.2 on a, which is drained."""
    word = replace(DRAINING, **fields) if fields else DRAINING  # type: ignore[arg-type]
    a = host("a", stay("web.1"), stay("web.2"), word=word, draining_since_s=50.0)
    return step(world(a, *others, apps=app({"web": quantity}), releases=WEB))


def test_a_drain_starts_elsewhere_first_so_many_at_once_as_a_change_may_surge() -> None:
    plan = drained(host("b"))
    assert written(plan) == {"b": ["web.1"]}
    (moved,) = plan.documents[0].instances
    assert (moved.moved_from, moved.reason, moved.after_loss) == ("a", "a is drained", False)
    assert plan.sentence == "1 moving"


def test_the_old_one_goes_when_the_new_one_has_worked_long_enough() -> None:
    spec = process_type("web", rollout=RolloutRules(healthy_s=10.0))
    moved = stay("web.1", stem="new", moved_from="a", revision=5)
    outcomes: list[tuple[float, dict[str, list[str]]]] = [(95.0, {}), (90.0, {"a": []})]
    for since_s, expected in outcomes:
        b = host("b", moved, healthy_since_s={moved.uid: since_s})
        a = host("a", stay("web.1"), word=DRAINING)
        given = world(a, b, apps=app({"web": 1}), releases=(release(spec),))
        assert written(step(given)) == expected


def test_a_new_one_that_does_not_come_up_leaves_the_old_one_where_it_is() -> None:
    moved = stay("web.1", stem="new", moved_from="a", revision=5)
    b = host("b", moved, says=[seen(moved, InstanceState.BACKOFF)])
    given = world(host("a", stay("web.1"), word=DRAINING), b, apps=app({"web": 1}), releases=WEB)
    assert step(given).documents == ()


def test_where_nobody_else_takes_it_it_stays_and_says_why() -> None:
    plan = drained(host("b", instances_max=1), host("c", word=Host(name="c", cordoned=True)),
                   quantity=2)  # fmt: skip
    assert written(plan) == {"b": ["web.1"]}
    full = drained(host("b", stay("web.3"), instances_max=1), quantity=3)
    assert full.documents == ()
    why = full.pending[Slot("shop", "web", 1)]
    assert why.startswith("a is drained, and no host: a: it is being drained; b: full")


def test_after_the_deadline_the_rest_is_stopped() -> None:
    full = host("b", stay("web.3"), instances_max=1)
    soon = drained(full, quantity=3, drain_deadline_s=60.0)
    assert soon.wake_at_s == 110.0
    late = drained(full, quantity=3, drain_deadline_s=50.0)
    assert written(late)["a"] == []


def test_what_has_finished_there_is_not_run_again_elsewhere() -> None:
    item = stay("web.1")
    a = host("a", item, says=[seen(item, InstanceState.FINISHED)], word=DRAINING)
    given = world(a, host("b"), apps=app({"web": 1}), releases=WEB)
    assert step(given) == Plan()


def test_a_change_on_a_drained_host_goes_on_elsewhere_not_in_place() -> None:
    a = host("a", stay("web.1"), word=DRAINING)
    apps = app({"web": 1}, release=2, stable=1)
    given = world(a, host("b"), apps=apps, releases=(*WEB, release("web", number=2)))
    plan = step(given)
    assert written(plan) == {"a": [], "b": ["web.1"]}


def test_a_move_that_came_back_is_told_from_the_one_before_it() -> None:
    first = stay("web.1", stem="one", moved_from="b", revision=5)
    back = stay("web.1", stem="two", moved_from="a", revision=9)
    given = world(host("a", first), host("b", back), apps=app({"web": 1}), releases=WEB)
    assert written(step(given)) == {"a": []}


# ---------------------------------------------------------------------- labels


SSD = process_type("web", where=Where(require=(Constraint(label="ssd"),)))


def test_what_a_host_no_longer_has_makes_the_instances_leave_it() -> None:
    given = world(
        host("a", stay("web.1")),
        host("b", labels={"ssd": "yes"}),
        apps=app({"web": 1}),
        releases=(release(SSD),),
    )
    plan = step(given)
    assert written(plan) == {"b": ["web.1"]}
    assert plan.documents[0].instances[0].reason == "a no longer has what the type requires"


def test_the_operators_label_goes_before_the_agents() -> None:
    word = Host(name="a", labels={"ssd": "yes", "zone": ""})
    entry = host("a", labels={"ssd": "", "zone": "east", "cpu": "amd"}, word=word)
    assert entry.labels == {"ssd": "yes", "cpu": "amd"}


# ---------------------------------------------------------------------- what is lost, what returns


def lossy(**fields: object) -> tuple[object, ...]:
    return (release(process_type("web", on_host_loss=HostLoss(**fields))),)  # type: ignore[arg-type]


def test_a_type_that_waits_for_its_host_is_not_replaced() -> None:
    given = world(
        host("a", stay("web.1"), silent_since_s=0.0),
        host("b"),
        apps=app({"web": 1}),
        releases=lossy(action=LossAction.WAIT),  # type: ignore[arg-type]
    )
    plan = step(given)
    assert plan.documents == ()
    assert "on_host_loss.action is wait" in plan.pending[Slot("shop", "web", 1)]


def test_a_type_may_have_its_own_patience() -> None:
    given = world(
        host("a", stay("web.1"), silent_since_s=50.0),
        host("b"),
        apps=app({"web": 1}),
        releases=lossy(after_s=60.0),  # type: ignore[arg-type]
    )
    early = step(given)
    assert (early.documents, early.wake_at_s) == ((), 110.0)
    (document,) = step(given, now_s=110.0).documents
    (moved,) = document.instances
    assert (moved.reason, moved.moved_from, moved.after_loss) == ("a was lost", "a", True)


def test_which_copy_is_kept_when_the_host_is_back() -> None:
    other = stay("web.2")
    old = stay("web.1", stem="old")
    new = stay("web.1", stem="new", moved_from="a", after_loss=True, revision=9)
    for keep, emptied in ((Keep.ORIGINAL, "b"), (Keep.REPLACEMENT, "a"), (Keep.BEST, "b")):
        given = world(
            host("a", old),
            host("b", other, new),
            apps=app({"web": 2}),
            releases=lossy(keep=keep),  # type: ignore[arg-type]
        )
        plan = step(given)
        assert list(written(plan)) == [emptied], keep


def test_the_kept_one_must_be_healthy_before_the_other_goes() -> None:
    old, new = stay("web.1", stem="old"), stay("web.1", stem="new", moved_from="a", after_loss=True)
    given = world(
        host("a", old, says=[seen(old, InstanceState.STARTING)]),
        host("b", new, says=[seen(new, InstanceState.STARTING)]),
        apps=app({"web": 1}),
        releases=WEB,
    )
    assert step(given).documents == ()


# ---------------------------------------------------------------------- rebalance


def test_the_moves_that_were_asked_for_are_made_one_works_before_the_other_goes() -> None:
    move = Move(slot=Slot("shop", "web", 2), from_host="a", to_host="b")
    base = world(
        host("a", stay("web.1"), stay("web.2")), host("b"), apps=app({"web": 2}), releases=WEB
    )
    plan = step(replace(base, rebalance=Rebalance(moves=(move,))))
    assert written(plan) == {"b": ["web.2"]}
    assert plan.documents[0].instances[0].reason == "for better balance"
    assert plan.records == ()
    moved = stay("web.2", stem="new", moved_from="a", revision=9)
    both = world(
        host("a", stay("web.1"), stay("web.2")),
        host("b", moved),
        apps=app({"web": 2}),
        releases=WEB,
    )
    assert written(step(replace(both, rebalance=Rebalance(moves=(move,))))) == {"a": ["web.1"]}
    done = world(host("a", stay("web.1")), host("b", moved), apps=app({"web": 2}), releases=WEB)
    (change,) = step(replace(done, rebalance=Rebalance(moves=(move,)))).records
    assert (change.kind, change.record) == ("rebalance", None)


def test_plain_types_are_replaced_at_once_in_these_stories() -> None:
    assert WEB[0].types[0].rollout == AT_ONCE


def test_what_is_late_on_a_drained_host_and_stale_is_stopped_and_comes_elsewhere() -> None:
    late = replace(DRAINING, drain_deadline_s=10.0)
    spec = process_type("web", rollout=RolloutRules(surge=Share(), unavailable=Share(count=1)))
    given = world(
        host("a", stay("web.1"), word=late, draining_since_s=0.0),
        host("b"),
        apps=app({"web": 1}, release=2, stable=1),
        releases=(release(spec), release(spec, number=2)),
    )
    assert written(step(given))["a"] == []


def test_a_copy_that_a_late_drain_stops_is_not_the_better_one() -> None:
    late = Host(name="a", cordoned=True, draining=True, drain_deadline_s=10.0)
    here, there = stay("web.1"), stay("web.1", stem="new", after_loss=True, moved_from="a")
    given = world(
        host("a", here, word=late, draining_since_s=0.0),
        host("b", there, healthy=False),
        apps=app({"web": 1}),
        releases=(release("web"),),
    )
    assert written(step(given)) == {"a": []}
