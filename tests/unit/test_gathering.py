"""Commits that go together: fewer requests, and to each its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from formation_coordinator.store.base import (
    Compare,
    LeaseLost,
    ModRevision,
    Operation,
    Outcome,
    OutcomeUnknown,
    Put,
    StoreUnavailable,
    TooLarge,
)
from formation_coordinator.store.gathering import Gathering
from formation_coordinator.store.memory import MemoryStore


class Slow(MemoryStore):
    """Every commit waits until the test lets it go; `sizes`: of what came."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.open = asyncio.Event()
        self.failure: Exception | None = None

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Outcome:
        self.sizes.append(len(operations))
        await self.open.wait()
        if self.failure:
            raise self.failure
        return await super().commit(compares, operations)


def put(
    gathering: Gathering, key: str, after: int = 0, value: bytes = b"v"
) -> asyncio.Task[Outcome]:
    return asyncio.create_task(gathering.commit([ModRevision(key, after)], [Put(key, value)]))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_comes_while_one_is_on_its_way_goes_together() -> None:
    store = Slow()
    gathering = Gathering(store)
    first = put(gathering, "first")
    await settled()
    others = [put(gathering, f"k{number}") for number in range(50)]
    await settled()
    store.open.set()
    outcomes = await asyncio.gather(first, *others)
    assert store.sizes == [1, 50]
    assert all(outcome.succeeded for outcome in outcomes)
    assert len({outcome.revision for outcome in outcomes}) == 2
    seen = await store.get("k7")
    assert seen is not None
    assert seen.mod_revision == outcomes[8].revision


async def test_one_that_does_not_hold_spoils_nobody_else_s() -> None:
    store = Slow()
    store.open.set()
    gathering = Gathering(store)
    await put(gathering, "k3")
    store.sizes.clear()
    outcomes = await asyncio.gather(*(put(gathering, f"k{number}") for number in range(6)))
    assert [outcome.succeeded for outcome in outcomes] == [number != 3 for number in range(6)]
    assert store.sizes == [6, 1, 1, 1, 1, 1, 1]


async def test_the_same_key_waits_for_the_next_one() -> None:
    store = Slow()
    gathering = Gathering(store)
    put(gathering, "first")
    await settled()
    once, again = put(gathering, "k"), put(gathering, "k")
    store.open.set()
    outcomes = await asyncio.gather(once, again)
    assert [outcome.succeeded for outcome in outcomes] == [True, False]


async def test_no_transaction_is_over_etcds_limits() -> None:
    store = Slow()
    gathering = Gathering(store)
    put(gathering, "first")
    await settled()
    many = [put(gathering, f"k{number}") for number in range(300)]
    large = [put(gathering, f"l{number}", value=bytes(600_000)) for number in range(3)]
    store.open.set()
    await asyncio.gather(*many, *large)
    assert store.sizes == [1, 128, 128, 45, 1, 1]


@pytest.mark.parametrize("failure", [OutcomeUnknown("lost"), StoreUnavailable("gone")])
async def test_what_nobody_knows_of_one_nobody_knows_of_all(failure: Exception) -> None:
    store = Slow()
    store.failure = failure
    gathering = Gathering(store)
    asked = [put(gathering, f"k{number}") for number in range(4)]
    store.open.set()
    failed = await asyncio.gather(*asked, return_exceptions=True)
    assert failed == [failure] * 4
    assert len(store.sizes) <= 2


async def test_a_lease_that_is_gone_is_its_holders_alone() -> None:
    store = Slow()
    gathering = Gathering(store)
    put(gathering, "first")
    await settled()
    dead = await store.grant_lease(5)
    await store.revoke_lease(dead)
    with_lease = asyncio.create_task(gathering.commit([], [Put("x", b"", lease=dead)]))
    plain = put(gathering, "k")
    too_large = put(gathering, "l", value=bytes(2_000_000))
    store.open.set()
    failed = await asyncio.gather(with_lease, plain, too_large, return_exceptions=True)
    assert isinstance(failed[0], LeaseLost)
    assert isinstance(failed[1], Outcome)
    assert failed[1].succeeded
    assert isinstance(failed[2], TooLarge)


async def test_who_does_not_wait_any_more_stops_nobody() -> None:
    store = Slow()
    gathering = Gathering(store)
    gone, stays = put(gathering, "a"), put(gathering, "b")
    await settled()
    gone.cancel()
    store.open.set()
    assert (await stays).succeeded
    assert (await put(gathering, "c")).succeeded
