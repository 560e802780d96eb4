"""A change whose answers are lost is made once, or said to be in doubt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pytest
from worlds import app

from formation.model import App
from formation_coordinator import changing
from formation_coordinator.changing import Changing, Refused, Uncertain
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import (
    Compare,
    Operation,
    Outcome,
    OutcomeUnknown,
    Put,
    Span,
    StoreUnavailable,
)
from formation_coordinator.store.memory import MemoryStore

SHOP = app({"web": 1})


class Flaky(MemoryStore):
    """`faults`: what happens to the next writes: "reply" and "request" are lost, "away"."""

    def __init__(self, *faults: str) -> None:
        super().__init__()
        self.faults = list(faults)

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Outcome:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "away":
            raise StoreUnavailable("etcd has no leader")
        if fault == "request":
            raise OutcomeUnknown("lost")
        outcome = await super().commit(compares, operations)
        if fault == "reply":
            raise OutcomeUnknown("lost")
        return outcome


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changing, "SEND_AGAIN_S", 0.0)


async def change(store: MemoryStore) -> int:
    ids = (f"id{n}" for n in count())
    shell = Changing(store=store, now_ms=lambda: 1, new_id=lambda: next(ids))
    _, seen = await shell.read_app("shop")
    return await shell.put_app(SHOP, seen, shell.audit("ann", "apply", "shop"))


async def audits(store: MemoryStore) -> int:
    return len((await store.ranges([keys.AUDIT])).items)


@pytest.mark.parametrize(
    "faults",
    [
        (),
        ("reply",),
        ("request",),
        ("request", "reply"),
        ("request", "away", "request"),
    ],
)
async def test_it_is_made_once(faults: tuple[str, ...]) -> None:
    store = Flaky(*faults)
    revision = await change(store)
    item = await store.get("apps/shop")
    assert item is not None
    assert item.mod_revision == revision == store.revision == 2
    assert isinstance(codec.decode(item.key, item.value), App)
    assert await audits(store) == 1


async def test_a_late_first_try_is_not_made_twice() -> None:
    """It was under way, and arrives while we look for it."""
    store = Flaky("request")
    late: list[tuple[Sequence[Compare], Sequence[Operation]]] = []
    commit = store.commit

    async def kept(compares: Sequence[Compare], operations: Sequence[Operation]) -> Outcome:
        if late:  # just before the second try
            await commit(*late.pop())
        elif store.faults:
            late.append((compares, operations))
        return await commit(compares, operations)

    store.commit = kept  # type: ignore[method-assign]
    assert await change(store) == store.revision == 2
    assert await audits(store) == 1


async def test_others_who_were_first_are_told_from_ourselves() -> None:
    store = Flaky("request")
    await MemoryStore.commit(store, [], [Put("apps/other", b"")])
    shell = Changing(store=store, now_ms=lambda: 1, new_id=lambda: "x")
    _, seen = await shell.read_app("shop")
    await MemoryStore.commit(store, [], [Put("apps/shop", codec.encode(SHOP))])
    assert not await shell.put_app(SHOP, seen, shell.audit("ann", "apply", "shop"))
    with pytest.raises(Refused, match="has changed since that plan"):
        await shell.reviewed(seen.revision).put_app(SHOP, seen, shell.audit("a", "b", "c"))


async def test_when_nobody_answers_for_long_the_doubt_is_said() -> None:
    store = Flaky("request", "away", "away", "away", "away")
    with pytest.raises(Uncertain, match="may or may not have been made"):
        await change(store)
    assert not (await store.ranges([Span.prefix("apps/")])).items


async def test_an_etcd_that_is_away_from_the_first_is_no_doubt() -> None:
    with pytest.raises(StoreUnavailable):
        await change(Flaky("away"))
