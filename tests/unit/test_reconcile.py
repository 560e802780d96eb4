"""reconcile: stories of one step, each a sentence."""

from dataclasses import replace

from msgspec import structs
from worlds import app, host, process_type, release, stay, step, world, written

from formation.model import Slot
from formation.rules import HostLoss, LossAction
from formation_coordinator.book import Book
from formation_coordinator.plan import PENDING_NAMED_MAX, Plan
from formation_coordinator.world import Change, World, apply

WEB = (release("web"),)


def test_a_new_formation_is_spread_evenly_with_low_ordinals() -> None:
    plan = step(world(host("a"), host("b"), host("c"), apps=app({"web": 4}), releases=WEB))
    assert written(plan) == {"a": ["web.1", "web.4"], "b": ["web.2"], "c": ["web.3"]}
    assert all(d.epoch == 7 and d.generation == 1 for d in plan.documents)
    assert plan.sentence == "4 placed"


def test_a_satisfied_world_needs_nothing() -> None:
    given = world(
        host("a", stay("web.1")), host("b", stay("web.2")), apps=app({"web": 2}), releases=WEB
    )
    assert step(given) == Plan()


def test_a_new_host_stays_empty_until_something_changes() -> None:
    given = world(
        host("a", stay("web.1"), stay("web.2")), host("b"), apps=app({"web": 2}), releases=WEB
    )
    assert step(given).documents == ()


def test_scaling_up_fills_the_lowest_free_ordinals_and_moves_nothing() -> None:
    given = world(
        host("a", stay("web.1"), stay("web.4")), host("b"), apps=app({"web": 4}), releases=WEB
    )
    plan = step(given)
    assert written(plan) == {"b": ["web.2", "web.3"]}


def test_scaling_down_empties_the_crowded_host_first() -> None:
    given = world(
        host("a", stay("web.1"), stay("web.2"), stay("web.4")),
        host("b", stay("web.3")),
        apps=app({"web": 2}),
        releases=WEB,
    )
    plan = step(given)
    assert written(plan) == {"a": ["web.1"]}
    assert plan.documents[0].generation == 2


def test_scaling_to_zero_leaves_an_empty_document_not_none() -> None:
    given = world(host("a", stay("web.1")), apps=app({"web": 0}), releases=WEB)
    assert written(step(given)) == {"a": []}


def test_a_silent_host_is_waited_for_then_its_slots_are_placed_elsewhere() -> None:
    given = world(
        host("a", stay("web.1"), silent_since_s=98.0),
        host("b", stay("web.2")),
        host("c"),
        apps=app({"web": 2}),
        releases=WEB,
    )
    early = step(given, now_s=100.0)
    assert (early.documents, early.wake_at_s) == ((), 103.0)
    late = step(given, now_s=103.0)
    assert written(late) == {"c": ["web.1"]}  # a's document keeps the old stay for now
    assert late.sentence == "1 moved"


def test_a_host_that_said_goodbye_is_replaced_at_once() -> None:
    given = world(
        host("a", stay("web.1"), silent_since_s=100.0, departed=True),
        host("b"),
        apps=app({"web": 1}),
        releases=WEB,
    )
    assert written(step(given)) == {"b": ["web.1"]}


def test_the_surplus_copy_of_a_returned_host_goes_only_when_the_kept_one_is_healthy() -> None:
    old, new = stay("web.1", stem="old"), stay("web.1", stem="kept")
    apps = app({"web": 1})
    both_away = world(
        host("a", old, healthy=False), host("b", new, healthy=False), apps=apps, releases=WEB
    )
    assert step(both_away).documents == ()
    kept = world(host("a", old, healthy=False), host("b", new), apps=apps, releases=WEB)
    assert written(step(kept)) == {"a": []}


def test_the_brake_holds_when_most_hosts_fall_silent_together() -> None:
    given = world(
        host("a", stay("web.1"), silent_since_s=0.0),
        host("b", stay("web.2"), silent_since_s=0.0),
        host("c", stay("web.3"), silent_since_s=0.0),
        host("d", stay("web.4")),
        apps=app({"web": 4}),
        releases=WEB,
    )
    plan = step(given)
    assert plan.documents == ()
    assert plan.brake
    assert "the brake is on" in plan.sentence


def test_what_waits_for_silent_hosts_is_named_up_to_a_number_and_counted_beyond() -> None:
    each, names = 400, "abcd"
    silent = [
        host(name, *(stay(f"web.{i * each + n}") for n in range(1, each + 1)), silent_since_s=0.0)
        for i, name in enumerate(names)
    ]
    waits = process_type("web", on_host_loss=HostLoss(action=LossAction.WAIT))
    apps = app({"web": each * len(names)})
    plan = step(world(*silent, host("e"), apps=apps, releases=(release(waits),)))
    assert not plan.documents
    assert len(plan.pending) == PENDING_NAMED_MAX
    assert plan.unnamed["shop", "web"] == each * len(names) - PENDING_NAMED_MAX


def test_when_the_first_are_back_the_others_have_their_time_again() -> None:
    hosts = [host(n, stay(f"web.{i}"), silent_since_s=0.0) for i, n in enumerate("abc", start=1)]
    given = world(*hosts, host("d", stay("web.4")), apps=app({"web": 4}), releases=WEB)
    book = Book()
    assert step(given, now_s=100.0, book=book).brake
    a = structs.replace(hosts[0], session=given.hosts["d"].session, silent_since_s=None)
    given = replace(given, hosts={**given.hosts, "a": a})
    plan = step(given, now_s=107.0, book=book)
    assert not plan.documents
    assert not plan.brake
    assert plan.wake_at_s == 107.0 + 5.0
    assert not step(given, now_s=111.9, book=book).documents
    assert sorted(written(step(given, now_s=112.0, book=book))) == ["a", "d"]


def test_two_of_three_hosts_lost_is_no_reason_to_brake() -> None:
    given = world(
        host("a", stay("web.1"), silent_since_s=0.0),
        host("b", stay("web.2"), silent_since_s=0.0),
        host("c", stay("web.3")),
        apps=app({"web": 3}),
        releases=WEB,
    )
    assert written(step(given)) == {"c": ["web.1", "web.2", "web.3"]}


def test_no_room_is_said_per_host_with_numbers() -> None:
    given = world(
        host("a", stay("web.1"), instances_max=1),
        host("b", silent_since_s=99.0),
        apps=app({"web": 2}),
        releases=WEB,
    )
    plan = step(given)
    reason = plan.pending[Slot("shop", "web", 2)]
    assert reason == "no host: a: full (1 of 1 instances); b: suspect"


def test_one_of_every_type_comes_before_the_rest() -> None:
    given = world(
        host("a", instances_max=2),
        apps=app({"web": 5, "worker": 5}),
        releases=(release("web", "worker"),),
    )
    assert written(step(given)) == {"a": ["web.1", "worker.1"]}


def test_a_new_release_replaces_a_quarter_at_a_time_in_place() -> None:
    stays = [stay(f"web.{n}") for n in range(1, 9)]
    given = world(
        host("a", *stays[:4]),
        host("b", *stays[4:]),
        apps=app({"web": 8}, release=2),
        releases=(release("web", number=1), release("web", number=2)),
    )
    plan = step(given)
    assert plan.sentence == "2 replaced"
    (document,) = plan.documents
    assert document.host == "a"
    assert {i.slot.short: i.release for i in document.instances} == {
        "web.1": 2,
        "web.2": 2,
        "web.3": 1,
        "web.4": 1,
    }


def test_a_restart_of_one_slot_touches_only_that_slot() -> None:
    given = world(
        host("a", stay("web.1"), stay("web.2")), apps=app({"web": 2}, web_2=1), releases=WEB
    )
    (document,) = step(given).documents
    assert [(i.uid, i.restart_mark) for i in document.instances] == [
        ("web.1-old", 0),
        ("web.2-new", 1),
    ]


def test_a_type_that_the_release_lacks_is_stopped_but_its_quantity_is_kept() -> None:
    given = world(
        host("a", stay("web.1"), stay("worker.1")),
        apps=app({"web": 1, "worker": 1}),
        releases=WEB,
    )
    assert written(step(given)) == {"a": ["web.1"]}


def test_instances_of_a_deleted_app_are_dropped() -> None:
    given = world(host("a", stay("web.1")), apps=(), releases=())
    assert written(step(given)) == {"a": []}


def test_a_retry_reaches_the_same_stay() -> None:
    apps = replace(app({"web": 2}), retry_marks={"web.2": 3})
    given = world(
        host("a", stay("web.1"), stay("web.2", retry_mark=2), generation=4),
        host("b"),
        apps=apps,
        releases=WEB,
    )
    plan = step(given)
    (document,) = plan.documents
    assert [(i.uid, i.retry_mark) for i in document.instances] == [
        ("web.1-old", 0),
        ("web.2-old", 3),
    ]
    assert (document.host, document.generation) == ("a", 5)
    assert plan.sentence == "1 told to retry"
    heard = world(host("a", stay("web.1"), stay("web.2", retry_mark=3)), apps=apps, releases=WEB)
    assert step(heard) == Plan()


def test_a_new_stay_begins_with_the_marks_as_they_are() -> None:
    apps = replace(app({"web": 1}), retry_marks={"web": 2})
    (document,) = step(world(host("a"), apps=apps, releases=WEB)).documents
    assert document.instances[0].retry_mark == 2


def test_an_app_that_cannot_be_read_is_left_alone_and_the_others_go_on() -> None:
    other = (app({"x": 1}, name="other"), release("x", name="other"))
    why = "releases/shop/2: process type web: 'sometimes' is unknown to this version"
    cases: tuple[tuple[dict[tuple[str, tuple[str, ...]], str], str], ...] = (
        ({("releases", ("shop", "2")): why}, f"shop is left alone: {why}; apply it again"),
        ({}, "shop is left alone: release v2 is missing; apply it again"),
    )
    for problem, expected in cases:
        given = world(
            host("a", stay("web.1"), stay("web.2")),
            apps=(app({"web": 1}, release=2), other[0]),
            releases=(*WEB, other[1]),
        )
        plan = step(replace(given, unreadable=problem))
        assert written(plan) == {"a": ["x.1", "web.1", "web.2"]}
        assert plan.left_alone == {"shop": expected}
        assert expected in plan.sentence


def test_an_app_whose_record_cannot_be_read_keeps_what_it_runs() -> None:
    given = world(host("a", stay("web.1")), apps=(), releases=WEB)
    plan = step(replace(given, unreadable={("apps", ("shop",)): "apps/shop: 3 bytes"}))
    assert plan.documents == ()
    assert plan.left_alone == {"shop": "shop is left alone: apps/shop: 3 bytes"}


def test_what_could_not_be_read_is_known_until_it_can_be() -> None:
    key = ("releases", ("shop", "2"))
    problem = Change(kind=key[0], names=key[1], record=None, problem="a word of a newer version")
    first = apply(World(), [problem], revision=1, now_s=0.0)
    assert first.unreadable == {key: "a word of a newer version"}
    assert first.releases == {}
    readable = Change(kind=key[0], names=key[1], record=release("web", number=2))
    then = apply(first, [readable], revision=2, now_s=0.0)
    assert (then.unreadable, list(then.releases)) == ({}, [("shop", 2)])
