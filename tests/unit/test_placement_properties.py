"""Placement over random small worlds with every rule: what is never done, and what always is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from small_worlds import empty, hosts, misfits, obeyed, worlds, would_take
from worlds import bundle, stay, step

from formation.model import App, Capacity
from formation_coordinator.book import Book
from formation_coordinator.world import Change, HostEntry, World, apply, validate

ROOMY = Capacity(instances_max=1000)
SETTINGS = settings(max_examples=150, deadline=None)


def settled(before: World, book: Book | None = None) -> World:
    """After the passes that a world needs until nothing is left to do."""
    for number in range(12):
        plan = step(before, book=book, stem=f"p{number}r{before.revision}")
        if not plan.writes:
            return before
        before = obeyed(before, plan)
    raise AssertionError("it did not come to rest")


def placed(found: World) -> Counter[str]:
    return Counter(item.slot.type for entry in found.hosts.values() for item in entry.assigned)


def where(found: World) -> dict[str, str]:
    return {item.uid: e.name for e in found.hosts.values() for item in e.assigned}


# -- safety ----------------------------------------------------------------------------------------


@SETTINGS
@given(worlds())
def test_no_rule_is_broken(before: World) -> None:
    after = settled(before)
    assert validate(after) == []
    for entry in after.hosts.values():
        assert list(misfits(after, entry)) == [], entry.name
        if entry.assigned:
            assert entry.connected
            assert not entry.cordoned


@SETTINGS
@given(worlds(), st.data())
def test_no_rule_is_broken_by_what_happens_later(before: World, data: st.DataObject) -> None:
    found, book = settled(before, Book()), Book()
    for number in range(data.draw(st.integers(1, 4))):
        found = settled(changed(found, data, number), book)
        for entry in found.hosts.values():
            assert list(misfits(found, entry)) == [], entry.name


def changed(found: World, data: st.DataObject, number: int) -> World:
    """Somebody scales, or a host joins."""
    (shop,) = found.apps.values()
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(shop.formation)))
        quantity = data.draw(st.integers(0, 9))
        record: object = replace(shop, formation={**shop.formation, name: quantity})
        changes = [Change(kind="apps", names=(shop.name,), record=record)]  # type: ignore[arg-type]
    else:
        changes = joined(data.draw(hosts(f"new{number}")))
    return apply(found, changes, revision=found.revision + 1, now_s=100.0)


def joined(entry: HostEntry) -> list[Change]:
    return [
        Change(kind="hosts", names=(entry.name,), record=entry.host),
        Change(kind="sessions", names=(entry.name,), record=entry.session),
        Change(kind="status", names=(entry.name,), record=entry.status),
    ]


@SETTINGS
@given(worlds())
def test_every_placement_says_why(before: World) -> None:
    for document in step(before).documents:
        assert all(item.reason for item in document.instances)


@SETTINGS
@given(worlds(), hosts("new"))
def test_another_host_moves_nothing_and_displaces_nobody(before: World, entry: HostEntry) -> None:
    found = settled(before)
    more = settled(apply(found, joined(entry), revision=found.revision + 1, now_s=100.0))
    assert where(found).items() <= where(more).items()
    assert all(placed(more)[name] >= count for name, count in placed(found).items())


# -- liveness --------------------------------------------------------------------------------------


@SETTINGS
@given(worlds())
def test_what_has_no_host_fits_nowhere_and_says_so(before: World) -> None:
    after = settled(before)
    (shop,) = after.apps.values()
    assert isinstance(shop, App)
    pending = {slot.type for slot in step(after).pending}
    for name, quantity in shop.formation.items():
        if placed(after)[name] < quantity:
            assert name in pending
            assert not [e.name for e in after.hosts.values() if would_take(after, e, name)]
        else:
            assert placed(after)[name] == quantity


@SETTINGS
@given(worlds())
def test_never_fewer_than_one_by_one_where_room_is_most(before: World) -> None:
    """A type at a time, as the leader does it: the first that is hardest to place goes first."""
    (shop,) = before.apps.values()
    if len(shop.formation) == 1:
        name = next(iter(shop.formation))
        assert placed(settled(before))[name] >= greedy(before, name, shop.formation[name])


def greedy(before: World, name: str, quantity: int) -> int:
    found = before
    for number in range(quantity):
        open_to = [e for e in found.hosts.values() if would_take(found, e, name)]
        if not open_to:
            return number
        target = min(open_to, key=lambda e: (len(e.assigned), e.name))
        found = with_one_more(found, target, name, number)
    return quantity


def with_one_more(found: World, entry: HostEntry, name: str, number: int) -> World:
    base = entry.document or empty(entry)
    more = bundle(stay(f"{name}.{number + 1}", stem="greedy"))
    document = replace(base, bundles=(*base.bundles, more))
    return replace(
        found, hosts={**found.hosts, entry.name: structs.replace(entry, document=document)}
    )


@SETTINGS
@given(worlds(plain=True))
def test_hosts_that_are_alike_differ_by_one_at_most(before: World) -> None:
    alike = replace(
        before,
        hosts={
            name: structs.replace(
                entry,
                status=structs.replace(entry.status, labels={}, capacity=ROOMY),  # type: ignore[type-var]
            )
            for name, entry in before.hosts.items()
        },
    )
    after = settled(alike)
    counts = [len(e.assigned) for e in after.hosts.values() if e.connected and not e.cordoned]
    assert not counts or max(counts) - min(counts) <= 1


@SETTINGS
@given(worlds())
def test_a_satisfied_world_is_left_alone(before: World) -> None:
    after = settled(before)
    again = step(after)
    assert not again.writes


# -- the book --------------------------------------------------------------------------------------


@SETTINGS
@given(worlds(), st.data())
def test_a_book_that_was_kept_plans_as_a_new_one_does(before: World, data: st.DataObject) -> None:
    found, kept = before, Book()
    for number in range(data.draw(st.integers(1, 5))):
        plan = step(found, book=kept, stem=f"s{number}")
        fresh = step(found, book=Book(), stem=f"s{number}")
        assert plan.documents == fresh.documents
        assert plan.pending == fresh.pending
        found = changed(obeyed(found, plan), data, number)
