"""What every store promises, tried on the twin in memory and on each etcd there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest
from eventually import eventually
from store_backends import BACKENDS, Backend, open_backend

from formation_coordinator.store.base import (
    REQUEST_BYTES_MAX,
    Compacted,
    CreateRevision,
    Delete,
    LeaseLost,
    ModRevision,
    Outcome,
    Put,
    Span,
    Store,
    StoreError,
    StoreUnavailable,
    TooLarge,
    UnchangedSince,
    WatchBatch,
    split,
)

EVERYTHING = Span.prefix("")


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    async with open_backend(request.param) as opened:
        yield opened


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.store


async def put(store: Store, key: str, value: bytes = b"v", lease: int = 0) -> int:
    outcome = await store.commit([], [Put(key, value, lease)])
    assert outcome.succeeded
    return outcome.revision


async def values(store: Store, span: Span = EVERYTHING) -> dict[str, bytes]:
    return {item.key: item.value for item in (await store.ranges([span])).items}


async def take(watch: AsyncGenerator[WatchBatch, None], count: int) -> list[tuple[str, bool, int]]:
    """The first `count` events as (key, is it there, revision)."""
    events: list[tuple[str, bool, int]] = []
    async with asyncio.timeout(10):
        while len(events) < count:
            batch = await anext(watch)
            assert batch.events[-1].revision == batch.revision
            events += [(e.key, e.value is not None, e.revision) for e in batch.events]
    return events


async def test_a_missing_key_is_none(store: Store) -> None:
    assert await store.get("apps/none") is None


async def test_a_value_comes_back_with_its_revisions(store: Store) -> None:
    made = await put(store, "apps/shop", b"\x00\xff")
    changed = await put(store, "apps/shop", b"two")
    item = await store.get("apps/shop")
    assert item is not None
    assert (item.key, item.value, item.lease) == ("apps/shop", b"two", 0)
    assert (item.create_revision, item.mod_revision) == (made, changed)
    assert changed > made


async def test_a_key_made_again_has_a_new_create_revision(store: Store) -> None:
    made = await put(store, "leader")
    await store.commit([], [Delete("leader")])
    again = await put(store, "leader")
    item = await store.get("leader")
    assert item is not None
    assert item.create_revision == again > made


async def test_all_operations_of_a_transaction_share_one_revision(store: Store) -> None:
    await put(store, "c")
    outcome = await store.commit([], [Put("a", b"1"), Put("b", b"2"), Delete("c")])
    snapshot = await store.ranges([EVERYTHING])
    assert [(item.key, item.mod_revision) for item in snapshot.items] == [
        ("a", outcome.revision),
        ("b", outcome.revision),
    ]


async def test_a_failed_compare_writes_nothing_and_tells_the_revision(store: Store) -> None:
    before = await put(store, "a")
    outcome = await store.commit(
        [CreateRevision("a", before), CreateRevision("b", before)], [Put("a", b"no"), Put("c", b"")]
    )
    assert outcome == Outcome(succeeded=False, revision=before)
    assert await values(store) == {"a": b"v"}


@pytest.mark.parametrize("kind", [CreateRevision, ModRevision])
async def test_revision_zero_means_the_key_is_absent(
    store: Store, kind: type[CreateRevision | ModRevision]
) -> None:
    assert (await store.commit([kind("a", 0)], [Put("a", b"1")])).succeeded
    assert not (await store.commit([kind("a", 0)], [Put("a", b"2")])).succeeded
    await store.commit([], [Delete("a")])
    assert (await store.commit([kind("a", 0)], [Put("a", b"3")])).succeeded


async def test_unchanged_since_holds_until_something_in_the_span_is_written(store: Store) -> None:
    before = await put(store, "a/1")
    await put(store, "b")
    since = UnchangedSince(Span.prefix("a/"), before)
    assert (await store.commit([since], [Put("c", b"")])).succeeded
    await put(store, "a/2")
    assert not (await store.commit([since], [Put("c", b"no")])).succeeded
    nothing = UnchangedSince(Span.prefix("x/"), 1)
    assert (await store.commit([nothing], [Put("c", b"")])).succeeded


async def test_create_revision_survives_writes_and_mod_revision_does_not(store: Store) -> None:
    made = await put(store, "a")
    changed = await put(store, "a")
    assert (await store.commit([CreateRevision("a", made)], [])).succeeded
    assert not (await store.commit([CreateRevision("a", changed)], [])).succeeded
    assert (await store.commit([ModRevision("a", changed)], [])).succeeded
    assert not (await store.commit([ModRevision("a", made)], [])).succeeded


async def test_deleting_a_missing_key_is_done_and_changes_no_revision(store: Store) -> None:
    before = await put(store, "a")
    assert await store.commit([], [Delete("b")]) == Outcome(succeeded=True, revision=before)


async def test_of_writers_with_the_same_compare_exactly_one_succeeds(store: Store) -> None:
    outcomes = await asyncio.gather(
        *(store.commit([CreateRevision("leader", 0)], [Put("leader", b"x")]) for _ in range(10))
    )
    assert sum(outcome.succeeded for outcome in outcomes) == 1


async def test_ranges_are_half_open_and_in_key_order(store: Store) -> None:
    await store.commit([], [Put(key, b"") for key in ("c", "a", "audit/1", "b", "audit0")])
    snapshot = await store.ranges([Span("", "audit/"), Span("audit0", "")])
    assert [item.key for item in snapshot.items] == ["a", "audit0", "b", "c"]
    assert [item.key for item in (await store.ranges([Span("a", "b")])).items] == [
        "a",
        "audit/1",
        "audit0",
    ]


async def test_ranges_never_show_half_a_transaction(store: Store) -> None:
    async def write() -> None:
        for number in range(100):
            value = str(number).encode()
            await store.commit([], [Put("a/x", value), Put("b/x", value)])

    writing = asyncio.create_task(write())
    while not writing.done():
        found = await store.ranges([Span.prefix("a/"), Span.prefix("b/")])
        assert len({item.value for item in found.items}) <= 1
    await writing


async def test_a_snapshot_of_nothing_still_has_a_revision(store: Store) -> None:
    revision = await put(store, "a")
    snapshot = await store.ranges([Span.prefix("nothing/")])
    assert (snapshot.items, snapshot.revision) == ((), revision)


async def test_a_watch_tells_every_later_change_once_in_order(store: Store) -> None:
    first = await put(store, "a")
    expected = [("a", True, first)]
    async with aclosing(store.watch(EVERYTHING, first)) as watch:
        assert await take(watch, 1) == expected
        expected = []
        for number in range(30):
            revision = (await store.commit([], [Put("a", b""), Put(f"b/{number}", b"")])).revision
            expected += [("a", True, revision), (f"b/{number}", True, revision)]
        revision = (await store.commit([], [Delete("a")])).revision
        expected.append(("a", False, revision))
        assert await take(watch, len(expected)) == expected


async def test_a_watch_brings_what_happened_before_it_was_opened(store: Store) -> None:
    revisions = [await put(store, f"k/{number:04d}") for number in range(1500)]
    async with aclosing(store.watch(EVERYTHING, revisions[200])) as watch:
        assert [event[2] for event in await take(watch, 1300)] == revisions[200:]


async def test_a_watch_tells_only_of_its_span(store: Store) -> None:
    start = await put(store, "b/1")
    async with aclosing(store.watch(Span.prefix("a/"), start)) as watch:
        await put(store, "a0")
        revision = await put(store, "a/1")
        assert await take(watch, 1) == [("a/1", True, revision)]


async def test_a_watch_of_forgotten_history_raises_compacted(
    backend: Backend, store: Store
) -> None:
    first = await put(store, "a")
    last = await put(store, "a")
    backend.compact(last)
    with pytest.raises(Compacted):
        async with asyncio.timeout(10):
            await anext(store.watch(EVERYTHING, first))


async def test_a_watch_from_after_the_compaction_lives(backend: Backend, store: Store) -> None:
    await put(store, "a")
    last = await put(store, "a")
    backend.compact(last)
    async with aclosing(store.watch(EVERYTHING, last + 1)) as watch:
        revision = await put(store, "b")
        assert await take(watch, 1) == [("b", True, revision)]


async def test_a_quiet_watch_survives_a_compaction(backend: Backend, store: Store) -> None:
    async with aclosing(store.watch(Span.prefix("a/"), await put(store, "a/0"))) as watch:
        await take(watch, 1)
        waiting = asyncio.ensure_future(take(watch, 1))
        await put(store, "b")
        backend.compact(await put(store, "b"))
        revision = await put(store, "a/1")
        assert await waiting == [("a/1", True, revision)]


async def test_a_watch_from_a_revision_not_yet_given_out_is_refused(store: Store) -> None:
    revision = await put(store, "a")
    assert await anext(store.watch(EVERYTHING, revision))
    with pytest.raises(StoreUnavailable, match=f"{revision + 100}"):
        async with asyncio.timeout(10):
            await anext(store.watch(EVERYTHING, revision + 100))


async def test_a_lease_that_runs_out_deletes_its_keys(backend: Backend, store: Store) -> None:
    lease = await store.grant_lease(1)
    start = await put(store, "sessions/a", lease=lease)
    await put(store, "sessions/b", lease=lease)
    await put(store, "hosts/a")
    item = await store.get("sessions/a")
    assert item is not None
    assert item.lease == lease
    backend.pass_time(2.5)
    async with aclosing(store.watch(Span.prefix("sessions/"), start)) as watch:
        events = await take(watch, 4)
    assert sorted(events[2:]) == [
        ("sessions/a", False, events[2][2]),
        ("sessions/b", False, events[2][2]),
    ]
    assert await values(store) == {"hosts/a": b"v"}


async def test_a_renewed_lease_keeps_its_keys(backend: Backend, store: Store) -> None:
    lease = await store.grant_lease(2)
    await put(store, "sessions/a", lease=lease)
    for _ in range(4):
        backend.pass_time(1.0)
        assert 2 <= await store.keep_lease(lease) <= 5
    assert await values(store) == {"sessions/a": b"v"}


async def test_keeping_a_lost_lease_raises(backend: Backend, store: Store) -> None:
    lease = await store.grant_lease(1)
    await put(store, "sessions/a", lease=lease)
    backend.pass_time(2.5)
    await eventually(lambda: _is_gone(store, "sessions/a"))
    with pytest.raises(LeaseLost):
        await store.keep_lease(lease)


async def _is_gone(store: Store, key: str) -> bool:
    return await store.get(key) is None


async def test_a_revoked_lease_takes_its_keys_at_once_and_only_its(store: Store) -> None:
    lease = await store.grant_lease(60)
    await store.commit([], [Put("a", b"", lease), Put("b", b"", lease), Put("c", b"")])
    await put(store, "b")  # written again without the lease: no longer its
    await store.revoke_lease(lease)
    assert sorted(await values(store)) == ["b", "c"]
    await store.revoke_lease(lease)  # gone already is fine
    with pytest.raises(LeaseLost):
        await store.keep_lease(lease)


async def test_nothing_can_be_put_on_a_lease_that_is_gone(store: Store) -> None:
    lease = await store.grant_lease(60)
    await store.revoke_lease(lease)
    with pytest.raises(LeaseLost):
        await store.commit([], [Put("a", b"1"), Put("b", b"2", lease)])
    assert await values(store) == {}


async def test_too_large_a_value_is_refused_naming_it_and_the_limit(store: Store) -> None:
    with pytest.raises(
        TooLarge, match=r"releases/shop/1 is 1\d+ bytes; etcd takes at most"
    ) as info:
        await store.commit([], [Put("releases/shop/1", bytes(REQUEST_BYTES_MAX))])
    assert "\n" not in str(info.value)
    assert info.value.limit_bytes == REQUEST_BYTES_MAX < info.value.size_bytes
    assert await values(store) == {}


async def test_a_value_of_one_mebibyte_is_stored_and_seen(store: Store) -> None:
    value = bytes(range(256)) * 4096
    revision = await put(store, "a", value)
    async with aclosing(store.watch(EVERYTHING, revision)) as watch:
        batch = await anext(watch)
    assert batch.events[0].value is not None
    assert batch.events[0].value.value == value == (await values(store))["a"]


@pytest.mark.parametrize(
    "operations",
    [
        [Put("a", b""), Put("a", b"")],
        [Put("a", b""), Delete("a")],
        [Put(f"k{number}", b"") for number in range(129)],
    ],
)
async def test_what_no_transaction_can_hold_is_refused(
    store: Store, operations: list[Put | Delete]
) -> None:
    with pytest.raises(StoreError):
        await store.commit([], operations)
    assert await values(store) == {}


async def test_many_large_documents_are_stored_in_batches_and_read_back(store: Store) -> None:
    documents = [Put(f"assignments/h{number:05d}", bytes(10_000)) for number in range(1000)]
    for batch in split(documents):
        outcome = await store.commit([CreateRevision("leader", 0)], batch)
        assert outcome.succeeded
    assert len(await values(store)) == 1000  # a reply of 10 MB


async def test_after_close_every_call_says_so(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.get("a", timeout_s=0.1)
    with pytest.raises(StoreUnavailable):
        await store.commit([], [Put("a", b"")])


async def test_closing_ends_a_watch_with_an_error(store: Store) -> None:
    start = await put(store, "a")
    watch = store.watch(EVERYTHING, start)
    await take(watch, 1)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreUnavailable):
        async with asyncio.timeout(10):
            await waiting


async def test_what_is_forgotten_cannot_be_followed_and_forgetting_twice_is_fine(
    store: Store,
) -> None:
    first = await put(store, "a")
    last = await put(store, "a")
    for _ in range(2):
        await store.forget(last)
    with pytest.raises(Compacted):
        async with asyncio.timeout(10):
            await anext(store.watch(EVERYTHING, first))


async def test_its_health_has_its_revision_and_no_alarm(store: Store) -> None:
    revision = await put(store, "a")
    health = await store.health()
    assert health.revision >= revision
    assert health.alarms == ()
