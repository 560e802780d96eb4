"""The live world: what the leader here wrote itself comes back as it is; all else is decoded."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from formation.model import App
from formation_coordinator.driver import next_pass_s
from formation_coordinator.live import LiveWorld
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Put
from formation_coordinator.store.memory import MemoryStore
from formation_coordinator.store.mirror import Mirror
from formation_coordinator.watching import next_look_s

SHOP = App(name="shop", formation={"web": 2}, release=1, latest_release=1)


@pytest.mark.parametrize(
    ("written", "is_same"),
    [
        ({keys.app("shop"): (codec.encode(SHOP), SHOP)}, True),
        # Somebody else's write came first: these bytes are not ours.
        ({keys.app("shop"): (b"other", SHOP)}, False),
        ({keys.app("blog"): (codec.encode(SHOP), SHOP)}, False),
        ({}, False),
    ],
)
async def test_what_was_just_written_is_not_decoded(
    written: dict[str, tuple[bytes, codec.Record]], is_same: bool
) -> None:
    store = MemoryStore(clock=asyncio.get_running_loop().time)
    mirror = Mirror(store, keys.MIRRORED)
    live = LiveWorld(mirror, asyncio.get_running_loop().time)
    following = asyncio.create_task(mirror.run())
    await mirror.ready.wait()
    live.written.update(written)
    outcome = await store.commit([], [Put(keys.app("shop"), codec.encode(SHOP))])
    await live.reach(outcome.revision)
    assert live.world.apps["shop"] == SHOP
    assert (live.world.apps["shop"] is SHOP) is is_same
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following


@pytest.mark.parametrize(
    ("began_s", "ended_s", "next_s"),
    [
        (10.0, 10.0, 10.0),
        (10.0, 10.02, 10.12),  # five times what it took
        (10.0, 11.0, 11.2),  # and no longer than that
    ],
)
def test_passes_are_the_further_apart_the_longer_they_take(
    began_s: float, ended_s: float, next_s: float
) -> None:
    assert next_pass_s(began_s, ended_s) == pytest.approx(next_s)


@pytest.mark.parametrize(
    ("began_s", "ended_s", "next_s"),
    [
        (10.0, 10.0, 10.02),
        (10.0, 10.01, 10.05),
        (10.0, 11.0, 10.2),  # over already
    ],
)
def test_who_watches_is_told_the_more_seldom_the_more_there_is_to_look_at(
    began_s: float, ended_s: float, next_s: float
) -> None:
    assert next_look_s(began_s, ended_s) == pytest.approx(next_s)
