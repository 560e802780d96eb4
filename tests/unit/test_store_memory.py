"""The faults that only the twin in memory can have on demand."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from formation_coordinator.store.base import (
    Compacted,
    CreateRevision,
    OutcomeUnknown,
    Put,
    Span,
    StoreUnavailable,
)
from formation_coordinator.store.memory import MemoryStore

EVERYTHING = Span.prefix("")


async def test_a_lost_reply_leaves_the_write_done() -> None:
    store = MemoryStore()
    store.lose_next_reply = True
    with pytest.raises(OutcomeUnknown):
        await store.commit([], [Put("a", b"1")])
    assert await store.get("a") is not None
    assert (await store.commit([], [Put("a", b"2")])).succeeded


async def test_a_lost_request_leaves_the_write_undone() -> None:
    store = MemoryStore()
    store.lose_next_request = True
    with pytest.raises(OutcomeUnknown):
        await store.commit([], [Put("a", b"1")])
    assert await store.get("a") is None
    assert (await store.commit([CreateRevision("a", 0)], [Put("a", b"2")])).succeeded


async def test_while_it_is_switched_off_every_call_fails_and_watches_end() -> None:
    store = MemoryStore()
    await store.commit([], [Put("a", b"1")])
    async with aclosing(store.watch(EVERYTHING, 1)) as watch:
        await anext(watch)
        store.unavailable = True
        with pytest.raises(StoreUnavailable):
            await anext(watch)
    for call in (store.get("a"), store.ranges([EVERYTHING]), store.commit([], [])):
        with pytest.raises(StoreUnavailable):
            await call
    store.unavailable = False
    assert await store.get("a") is not None


async def test_watches_break_on_demand_after_what_they_were_told() -> None:
    store = MemoryStore()
    await store.commit([], [Put("a", b"1")])
    async with aclosing(store.watch(EVERYTHING, 1)) as watch:
        await anext(watch)
        await store.commit([], [Put("b", b"1")])
        store.break_watches(Compacted("on demand"))
        assert (await anext(watch)).events[0].key == "b"
        with pytest.raises(Compacted):
            await anext(watch)


async def test_restoring_a_backup_goes_back_in_time_and_gives_revisions_out_again() -> None:
    store = MemoryStore()
    lease = await store.grant_lease(60)
    await store.commit([], [Put("a", b"1"), Put("sessions/h", b"", lease)])
    backup = store.backup()
    later = await store.commit([], [Put("a", b"2"), Put("b", b"")])
    store.restore(backup)
    item = await store.get("a")
    assert item is not None
    assert item.value == b"1"
    assert await store.get("b") is None
    again = await store.commit([], [Put("c", b"")])
    assert again.revision == later.revision
    await store.revoke_lease(lease)
    assert await store.get("sessions/h") is None
