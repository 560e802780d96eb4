"""A store that is older than what hosts follow: nothing is decided, and what an operator's word
makes of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from msgspec import structs
from worlds import app, host, process_type, release, seen, stay, world

from formation.model import AssignmentDocument, Cluster, HostStatus, InstanceState
from formation.requests import Run, RunState
from formation_coordinator import candidates, timeline
from formation_coordinator.book import Book
from formation_coordinator.plan import Plan
from formation_coordinator.reconcile import reconcile, standstill
from formation_coordinator.world import Change, HostEntry, World, apply

WEB = process_type("web")
ONE = process_type("one", exclusive=True)


def cluster_of(*hosts: HostEntry, epoch: int = 0, held: str = "", **formation: int) -> World:
    found = world(*hosts, apps=app(formation), releases=(release(WEB, ONE),))
    return replace(found, cluster=Cluster(id="c", schema_version=1, epoch=epoch, held=held))


def planned(given: World) -> Plan:
    stems = (f"s{n}" for n in count())
    plan = reconcile(
        given, now_s=100.0, wall_ms=0, epoch=9, replace_after_s=5.0, new_stem=lambda: next(stems)
    )
    assert standstill(given, Book(), 100.0) == plan.standstill
    return plan


def said(entry: HostEntry, **fields: Any) -> HostEntry:
    assert entry.status is not None
    return structs.replace(entry, status=structs.replace(entry.status, **fields))


A = host("a", stay("web.1"), stay("web.2"), generation=4)


@pytest.mark.parametrize(
    "ahead",
    [
        said(A, generation=5),
        said(A, ahead=True),
        said(A, cluster_epoch=1),
        structs.replace(A, document=None),
    ],
)
def test_a_host_that_follows_more_than_etcd_knows_holds_everything(ahead: HostEntry) -> None:
    plan = planned(cluster_of(ahead, host("b"), web=0, one=3))
    assert not plan.writes
    assert plan.held.startswith("a follows newer orders than etcd knows of")
    assert plan.held == plan.sentence == plan.standstill
    assert timeline.held_now(cluster_of(ahead)) == plan.held


@pytest.mark.parametrize(
    "fine", [A, said(A, generation=3), structs.replace(said(A, generation=9), session=None)]
)
def test_who_follows_or_lags_or_is_silent_holds_nothing(fine: HostEntry) -> None:
    fine = fine if fine.connected else structs.replace(fine, silent_since_s=99.0)
    plan = planned(cluster_of(fine, host("b"), web=3, one=1))
    assert plan.documents
    assert not plan.held


def test_a_restore_holds_everything_until_the_word() -> None:
    plan = planned(cluster_of(A, web=5, one=0, held="a backup was restored"))
    assert not plan.writes
    assert plan.held == f"a backup was restored: {timeline.GO_ON}"


def confirmed(*hosts: HostEntry, **formation: int) -> World:
    given = cluster_of(*hosts, epoch=0, held="", **formation)
    assert given.cluster is not None
    epoch = timeline.next_epoch(given)
    return replace(given, cluster=replace(given.cluster, epoch=epoch, held=""))


def obeyed(given: World, plan: Plan) -> World:
    changes = [*plan.records]
    for document in plan.documents:
        changes.append(Change(kind="assignments", names=(document.host,), record=document))
        entry = given.hosts[document.host]
        if not entry.connected:
            continue
        assert entry.status is not None
        known = entry.observed()
        table = [
            known.get(item.uid) or seen(item, InstanceState.HEALTHY)
            for item in document.instances
            if not item.ending
        ]
        status: HostStatus = structs.replace(
            entry.status,
            instances=tuple(table),
            generation=document.generation,
            cluster_epoch=document.cluster_epoch,
            ahead=False,
        )
        changes.append(Change(kind="status", names=(document.host,), record=status))
    return apply(given, changes, revision=given.revision + 1, now_s=0.0)


def settled(given: World) -> World:
    for _ in range(20):
        plan = planned(given)
        if not plan.writes:
            return given
        given = obeyed(given, plan)
    raise AssertionError("it does not come to rest")


def uids(given: World) -> dict[str, set[str]]:
    return {name: {item.uid for item in entry.assigned} for name, entry in given.hosts.items()}


def test_after_the_word_what_runs_and_is_wanted_goes_on_as_it_is() -> None:
    moved, known, more = stay("web.1"), stay("web.2"), stay("web.3")
    # etcd thinks that web.1 is on a; it has moved to b since, and web.3 was added.
    a = structs.replace(said(host("a", moved, known, generation=4), generation=7))
    a = said(a, instances=(seen(known, InstanceState.HEALTHY),))
    b = host("b", says=[seen(moved, InstanceState.HEALTHY), seen(more, InstanceState.HEALTHY)])
    b = said(b, generation=3)
    given = confirmed(a, b, web=3, one=0)
    first = planned(given)
    assert [(d.host, d.generation, d.cluster_epoch) for d in first.documents] == [
        ("a", 8, 1),
        ("b", 4, 1),
    ]
    assert uids(settled(given)) == {"a": {known.uid}, "b": {moved.uid, more.uid}}


def test_what_the_store_does_not_want_goes_and_what_is_missing_comes() -> None:
    of_new_release = stay("web.1", release_number=2)
    surplus = stay("web.2")
    a = said(host("a"), generation=7)
    a = said(a, instances=tuple(seen(s, InstanceState.HEALTHY) for s in (of_new_release, surplus)))
    given = confirmed(a, web=1, one=0)
    assert uids(settled(given))["a"].isdisjoint({of_new_release.uid})
    numbers = [c.record.latest_release for c in planned(given).records]  # type: ignore[union-attr]
    assert numbers == [2], "v2 runs somewhere, so the next one is v3"


def test_an_exclusive_one_that_is_being_stopped_is_waited_for() -> None:
    item = stay("one.1")
    a = said(host("a"), generation=7, instances=(seen(item, InstanceState.STOPPING),))
    (document,) = planned(confirmed(a, host("b"), web=0, one=1)).documents
    assert [(i.uid, i.ending) for i in document.instances] == [(item.uid, True)]


def test_an_exclusive_one_of_a_release_that_is_not_known_is_waited_for() -> None:
    item = stay("one.1", release_number=7)
    a = said(host("a"), generation=7, instances=(seen(item, InstanceState.HEALTHY),))
    given = confirmed(a, host("b"), web=0, one=1)
    (document,) = planned(given).documents
    assert [(i.uid, i.release, i.ending) for i in document.instances] == [(item.uid, 1, True)]
    changed = apply(
        given, [Change(kind="assignments", names=("a",), record=document)], revision=2, now_s=0.0
    )
    assert not planned(changed).documents, "until a says that it is gone"


def test_a_run_that_the_store_knows_goes_on() -> None:
    run = stay("run.1", run="run.1", command="ls")
    record = Run(
        id="run.1", slot=run.slot, release=1, command="ls", state=RunState.PLACED, host="a"
    )
    a = said(host("a", run, generation=4), generation=7)
    given = replace(confirmed(a, web=0, one=0), runs={("shop", "run.1"): record})
    assert uids(settled(given))["a"] == {run.uid}


def test_a_release_command_that_it_does_not_know_is_gone_before_another_begins() -> None:
    unknown = stay("release.7", release_number=7)
    a = said(host("a"), generation=7, instances=(seen(unknown, InstanceState.HEALTHY),))
    (document,) = planned(confirmed(a, host("b"), web=0, one=0)).documents
    (item,) = document.instances
    assert (item.uid, item.ending, item.release) == (unknown.uid, True, 1)
    assert candidates.is_release_run(item)


def test_a_host_that_was_away_comes_into_the_epoch_when_it_is_back() -> None:
    away = structs.replace(said(A, generation=9), session=None, silent_since_s=0.0)
    given = settled(confirmed(away, host("b"), web=2, one=0))
    assert len(uids(given)["b"]) == 2, "lost, so they run elsewhere"
    back = structs.replace(given.hosts["a"], session=A.session, silent_since_s=None)
    given = replace(given, hosts={**given.hosts, "a": back})
    assert not planned(given).held
    (document,) = planned(given).documents
    assert (document.host, document.generation, document.cluster_epoch) == ("a", 10, 1)


def test_the_next_epoch_is_higher_than_any_that_was_heard_of() -> None:
    document = AssignmentDocument(host="a", generation=1, epoch=1, bundles=(), cluster_epoch=3)
    given = cluster_of(
        structs.replace(A, document=document), said(host("b"), cluster_epoch=6), epoch=2
    )
    assert timeline.next_epoch(given) == 7


def test_an_exclusive_one_may_run_on_a_host_that_fell_silent_just_now() -> None:
    gone = host("b", silent_since_s=90.0)
    assert "host b is silent and may still run an exclusive" in timeline.may_still_run(
        cluster_of(A, gone, one=1), 100.0
    )
    assert not timeline.may_still_run(cluster_of(A, gone, one=1), 90.0 + 15.0 + 30.0 + 2.0)
