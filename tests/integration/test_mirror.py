"""The warm copy: right after every kind of interruption, on every store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from etcd_server import EtcdServer, Relay
from eventually import eventually
from store_backends import BACKENDS, Backend, open_backend, require_etcd

from formation_coordinator.store.base import (
    Compacted,
    Delete,
    Event,
    KeyValue,
    Operation,
    OutcomeUnknown,
    Put,
    Span,
    Store,
    StoreUnavailable,
)
from formation_coordinator.store.etcd import EtcdStore
from formation_coordinator.store.keys import MIRRORED
from formation_coordinator.store.memory import MemoryStore
from formation_coordinator.store.mirror import Mirror

EVERYTHING = Span.prefix("")


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    async with open_backend(request.param) as opened:
        yield opened


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.store


class Replay:
    """What a consumer that only listens to events believes; and that events are never old."""

    def __init__(self, mirror: Mirror) -> None:
        self.records: dict[str, KeyValue] = {}
        self.batches: list[tuple[Event, ...]] = []
        self._mirror = mirror
        mirror.subscribe(self._take)

    def _take(self, events: Sequence[Event]) -> None:
        self.batches.append(tuple(events))
        for event in events:
            assert event.revision <= self._mirror.revision
            if event.value is None:
                del self.records[event.key]  # a deletion of what was never told would raise
            else:
                self.records[event.key] = event.value
        assert self.records == self._mirror.records


@asynccontextmanager
async def running(store: Store) -> AsyncIterator[tuple[Mirror, Replay]]:
    mirror = Mirror(store)
    replay = Replay(mirror)
    task = asyncio.create_task(mirror.run())
    try:
        async with asyncio.timeout(10):
            await mirror.ready.wait()
        yield mirror, replay
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def equals_store(mirror: Mirror, store: Store) -> bool:
    snapshot = await store.ranges(MIRRORED, timeout_s=20)
    return dict(mirror.records) == {item.key: item for item in snapshot.items}


async def put(store: Store, key: str, value: bytes = b"v") -> int:
    return (await store.commit([], [Put(key, value)])).revision


async def test_it_begins_with_everything_but_the_audit_trail(store: Store) -> None:
    operations = [Put("apps/a", b"1"), Put("audit/1", b"x"), Put("status/h", b"2")]
    revision = (await store.commit([], operations)).revision
    async with running(store) as (mirror, replay):
        assert sorted(mirror.records) == ["apps/a", "status/h"]
        assert mirror.revision >= revision
        assert mirror.connected
        assert mirror.failure == ""
        assert len(replay.batches) == 1


async def test_it_follows_changes_one_transaction_at_a_time(store: Store) -> None:
    async with running(store) as (mirror, replay):
        await put(store, "c")
        outcome = await store.commit([], [Put("a", b"1"), Put("b", b"2"), Delete("c")])
        await mirror.wait_for(outcome.revision, timeout_s=10)
        assert {key: item.value for key, item in mirror.records.items()} == {"a": b"1", "b": b"2"}
        assert [event.key for event in replay.batches[-1]][-3:] == ["a", "b", "c"]
        assert mirror.revision == outcome.revision


async def test_its_revision_moves_with_writes_outside_its_spans(store: Store) -> None:
    async with running(store) as (mirror, replay):
        revision = await put(store, "audit/1")
        await mirror.wait_for(revision, timeout_s=10)
        assert mirror.revision == revision
        assert replay.batches == []


async def test_waiting_for_a_revision_of_another_user_of_the_same_etcd_ends() -> None:
    with EtcdServer(require_etcd("debian")) as server:
        store, other = EtcdStore(server.endpoint), EtcdStore(server.endpoint, prefix="/other/")
        async with running(store) as (mirror, _):
            revision = await put(other, "x")
            await mirror.wait_for(revision, timeout_s=10)
            assert mirror.revision == revision
            await mirror.wait_for(await put(store, "apps/a"), timeout_s=10)
        await store.close()
        await other.close()


async def test_waiting_for_a_revision_that_does_not_come_ends_with_a_reason() -> None:
    store = MemoryStore()
    async with running(store) as (mirror, _):
        store.unavailable = True
        await eventually(lambda: not mirror.connected)
        with pytest.raises(
            TimeoutError, match=r"not yet at 99, after 0.1 s \(memory: switched off"
        ):
            await mirror.wait_for(99, timeout_s=0.1)


async def test_after_an_outage_subscribers_hear_the_difference_only() -> None:
    store = MemoryStore()
    for key in ("kept", "changed", "deleted"):
        await put(store, key)
    async with running(store) as (mirror, replay):
        store.unavailable = True
        await eventually(lambda: not mirror.connected)
        assert "switched off" in mirror.failure
        assert sorted(mirror.records) == ["changed", "deleted", "kept"]  # still served
        store._apply([], [Put("changed", b"2"), Delete("deleted"), Put("new", b"")])
        store.unavailable = False
        await eventually(lambda: mirror.connected)
        assert [(e.key, e.value is not None) for e in replay.batches[-1]] == [
            ("deleted", False),
            ("changed", True),
            ("new", True),
        ]
        assert mirror.failure == ""
        assert await equals_store(mirror, store)


async def test_after_a_compaction_it_lists_again() -> None:
    store = MemoryStore()
    async with running(store) as (mirror, _):
        revision = await put(store, "a")
        store.break_watches(Compacted("memory: on demand"))
        await mirror.wait_for(await put(store, "b"), timeout_s=10)
        assert mirror.revision > revision
        await eventually(lambda: mirror.connected)
        assert await equals_store(mirror, store)


async def test_a_store_that_went_back_in_time_is_mirrored_as_it_is_now(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    await put(store, "a", b"old")
    backup = store.backup()
    async with running(store) as (mirror, replay):
        await put(store, "a", b"new")
        await mirror.wait_for(await put(store, "b"), timeout_s=10)
        store.restore(backup)
        await eventually(lambda: mirror.revision == backup.revision)
        assert {key: item.value for key, item in mirror.records.items()} == {"a": b"old"}
        await mirror.wait_for(await put(store, "c"), timeout_s=10)
        assert sorted(replay.records) == ["a", "c"]
        assert "went back from revision" in caplog.text


async def test_an_unsubscribed_callback_hears_nothing_more() -> None:
    store = MemoryStore()
    async with running(store) as (mirror, replay):
        heard: list[Sequence[Event]] = []
        end = mirror.subscribe(heard.append)
        await mirror.wait_for(await put(store, "a"), timeout_s=10)
        end()
        await mirror.wait_for(await put(store, "b"), timeout_s=10)
        assert (len(heard), len(replay.batches)) == (1, 2)


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_breaks_it_ends_up_equal_to_the_store(seed: int) -> None:
    dice = random.Random(seed)
    store = MemoryStore()
    async with running(store) as (mirror, _):
        for _ in range(200):
            await _disturb(store, dice)
        store.unavailable = False
        await mirror.wait_for(await put(store, "end"), timeout_s=20)
        assert await equals_store(mirror, store), f"seed {seed}"


async def _disturb(store: MemoryStore, dice: random.Random) -> None:
    """One write, and now and then a fault around it."""
    match dice.randrange(12):
        case 0:
            store.unavailable = not store.unavailable
        case 1:
            store.break_watches(StoreUnavailable("memory: broken on demand"))
        case 2 if not store.unavailable and store.revision > store._compacted:
            store.compact(store.revision)
            store.break_watches(Compacted("memory: on demand"))
        case 3:
            await asyncio.sleep(dice.uniform(0, 0.01))  # lets repairs begin, not end
    operations: list[Operation] = [Put(f"apps/{dice.randrange(9)}", str(dice.random()).encode())]
    if dice.random() < 0.4:
        operations = [Delete(f"apps/{dice.randrange(9)}")]
    store._apply([], operations)
    await asyncio.sleep(0)


async def test_after_etcd_is_killed_and_restarted_it_equals_a_fresh_range() -> None:
    with EtcdServer(require_etcd("debian")) as server:
        store, writer = EtcdStore(server.endpoint), EtcdStore(server.endpoint)
        async with running(store) as (mirror, _):
            writing = asyncio.create_task(_keep_writing(writer))
            for _ in range(2):
                await mirror.wait_for(mirror.revision + 20, timeout_s=10)
                server.kill()
                await eventually(lambda: not mirror.connected)
                server.start()
                await eventually(lambda: mirror.connected, deadline_s=20)
            assert not writing.done()
            writing.cancel()
            await asyncio.wait([writing])
            await mirror.wait_for(await put(store, "end"), timeout_s=20)
            # The write that was cut short may still arrive, behind ours.
            await eventually(lambda: equals_store(mirror, store))
        await store.close()
        await writer.close()


async def _keep_writing(store: Store) -> None:
    for number in range(1, 1_000_000):
        try:
            await store.commit([], [Put(f"status/{number}", b"x"), Put("status/0", b"y")])
        except (StoreUnavailable, OutcomeUnknown):
            await asyncio.sleep(0.02)


async def test_it_recovers_from_a_network_that_froze() -> None:
    with EtcdServer(require_etcd("debian")) as server:
        relay = await Relay(server.socket).start()
        store, writer = EtcdStore(relay.endpoint), EtcdStore(server.endpoint)
        async with running(store) as (mirror, _):
            relay.freeze()
            revision = await put(writer, "apps/a")
            await eventually(lambda: not mirror.connected, deadline_s=20)
            relay.thaw()
            await mirror.wait_for(revision, timeout_s=20)
            assert await equals_store(mirror, writer)
        await store.close()
        await writer.close()
        await relay.cut()
