"""Who leads, told as stories in virtual time over the twin."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from candidates import TTL_S, Candidate, Stage, candidate
from store_link import StoreLink
from virtual_time import run_in_virtual_time

from formation.model import Coordinator
from formation_coordinator.election import MARGIN_S
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import CreateRevision, Delete, Put, StoreUnavailable
from formation_coordinator.store.memory import MemoryStore


@dataclass(slots=True)
class Theatre:
    """Candidates over one store in virtual time."""

    store: MemoryStore
    stage: Stage
    cast: list[Candidate] = field(default_factory=list)

    def clock(self) -> float:
        return asyncio.get_running_loop().time()

    def enter(
        self, name: str, *, then: Callable[[int], None] = lambda _epoch: None
    ) -> tuple[Candidate, StoreLink]:
        link = StoreLink(self.store, patience_s=0.5)
        new = candidate(name, link, self.stage, clock=self.clock, then=then)
        self.cast.append(new)
        return new, link

    async def until(self, condition: Callable[[], object], *, within_s: float) -> float:
        """Virtual seconds until it held."""
        began_s = self.clock()
        while not condition():
            assert self.clock() - began_s <= within_s, f"not within {within_s} s"
            await asyncio.sleep(0.01)
            self.store.tick()  # leases run out without anybody calling, as in etcd
        return self.clock() - began_s

    async def leader(self, name: str, *, within_s: float) -> float:
        return await self.until(lambda: self.stage.now == [name], within_s=within_s)


@asynccontextmanager
async def theatre() -> AsyncIterator[Theatre]:
    loop = asyncio.get_running_loop()
    stage = Theatre(MemoryStore(clock=loop.time), Stage())
    try:
        yield stage
    finally:
        for one in stage.cast:
            await one.die()


def test_a_candidate_alone_leads_with_the_create_revision_of_its_key() -> None:
    async def story() -> None:
        async with theatre() as on:
            one, _ = on.enter("a")
            await on.leader("a", within_s=1)
            item = await on.store.get(keys.LEADER)
            assert item is not None
            assert one.election.leading
            assert one.election.epoch == item.create_revision == on.stage.terms[0][1]
            assert item.lease == one.keeper.lease_id
            assert codec.decode(item.key, item.value) == Coordinator(id="a", address="a:1")
            await asyncio.sleep(600)  # and goes on to
            assert on.stage.terms == [("a", one.election.epoch)]

    run_in_virtual_time(story())


def test_of_two_candidates_one_leads_and_the_other_waits() -> None:
    async def story() -> None:
        async with theatre() as on:
            on.enter("a")
            on.enter("b")
            await on.until(lambda: on.stage.now, within_s=1)
            await asyncio.sleep(60)
            assert len(on.stage.terms) == 1
            assert sum(one.election.leading for one in on.cast) == 1

    run_in_virtual_time(story())


def test_a_clean_close_hands_over_at_once_and_leaves_no_lease() -> None:
    async def story() -> None:
        async with theatre() as on:
            one, _ = on.enter("a")
            await on.leader("a", within_s=1)
            two, _ = on.enter("b")
            await asyncio.sleep(10)
            await one.close()
            assert not one.election.leading
            assert await on.leader("b", within_s=TTL_S) < TTL_S / 10
            assert list(on.store._leases) == [two.keeper.lease_id]
            assert on.stage.terms[1][1] > on.stage.terms[0][1]

    run_in_virtual_time(story())


def test_closing_the_election_alone_hands_over_at_once_and_keeps_the_lease() -> None:
    async def story() -> None:
        async with theatre() as on:
            one, _ = on.enter("a")
            await on.leader("a", within_s=1)
            on.enter("b")
            await asyncio.sleep(1)
            await one.election.close()
            assert await on.leader("b", within_s=TTL_S) < TTL_S / 10
            assert one.keeper.remaining_s() > 0

    run_in_virtual_time(story())


def test_closing_the_lease_alone_hands_over_at_once_too() -> None:
    async def story() -> None:
        async with theatre() as on:
            one, _ = on.enter("a")
            await on.leader("a", within_s=1)
            on.enter("b")
            await asyncio.sleep(1)
            await one.keeper.close()
            assert await on.leader("b", within_s=TTL_S) < TTL_S / 10

    run_in_virtual_time(story())


@pytest.mark.parametrize("patience_s", [0.0, 1.0])
def test_a_leader_cut_off_stops_before_its_lease_ends_and_its_late_write_fails(
    patience_s: float,
) -> None:
    async def story() -> None:
        async with theatre() as on:
            one, link = on.enter("a")
            link.patience_s = patience_s
            await on.leader("a", within_s=1)
            old_epoch = one.election.epoch
            on.enter("b")
            await asyncio.sleep(7.3)
            link.cut = True
            await on.until(lambda: not on.stage.now, within_s=TTL_S)
            left_s = one.keeper.remaining_s()
            assert MARGIN_S - 0.1 < left_s <= MARGIN_S
            assert await on.store.get(keys.LEADER) is not None  # still the old one's
            assert await on.leader("b", within_s=TTL_S) < MARGIN_S + 0.2
            fence = CreateRevision(keys.LEADER, old_epoch)
            late = await on.store.commit([fence], [Put("assignments/h", b"stale")])
            assert not late.succeeded
            link.cut = False
            await asyncio.sleep(30)
            assert [name for name, _ in on.stage.terms] == ["a", "b"]

    run_in_virtual_time(story())


def test_an_outage_shorter_than_the_lease_interrupts_nothing() -> None:
    async def story() -> None:
        async with theatre() as on:
            _, link = on.enter("a")
            await on.leader("a", within_s=1)
            for _ in range(10):
                await asyncio.sleep(5)
                link.cut = True
                await asyncio.sleep(1)
                link.cut = False
            assert len(on.stage.terms) == 1
            assert on.stage.now == ["a"]

    run_in_virtual_time(story())


def test_after_an_outage_that_did_not_cost_the_lease_it_leads_on_in_the_same_epoch() -> None:
    async def story() -> None:
        async with theatre() as on:
            one, _ = on.enter("a")
            await on.leader("a", within_s=1)
            lost: list[int] = []
            one.keeper.subscribe(lost.append)
            backup = on.store.backup()
            on.store.unavailable = True
            await on.until(lambda: not on.stage.now, within_s=TTL_S)
            await asyncio.sleep(3600)
            assert lost == []  # nobody said so
            on.store.restore(backup)  # an etcd that restarts gives every lease its time anew
            on.store.unavailable = False
            await on.leader("a", within_s=3)
            assert on.stage.terms == [on.stage.terms[0]] * 2
            assert lost == []

    run_in_virtual_time(story())


def test_a_lease_lost_in_an_outage_is_replaced_and_subscribers_are_told() -> None:
    async def story() -> None:
        async with theatre() as on:
            one, _ = on.enter("a")
            await on.leader("a", within_s=1)
            old = one.keeper.lease_id
            lost: list[int] = []
            one.keeper.subscribe(lost.append)
            on.store.unavailable = True
            await asyncio.sleep(60)
            on.store.unavailable = False
            await on.leader("a", within_s=5)
            assert lost == [old]
            assert one.keeper.lease_id not in {0, old}
            assert on.stage.terms[1][1] > on.stage.terms[0][1]

    run_in_virtual_time(story())


@pytest.mark.parametrize(
    ("fault", "within_s"), [("lose_next_reply", 0.1), ("lose_next_request", 3)]
)
def test_a_campaign_of_unknown_outcome_is_settled_by_reading(fault: str, within_s: float) -> None:
    async def story() -> None:
        async with theatre() as on:
            setattr(on.store, fault, True)
            one, _ = on.enter("a")
            await on.leader("a", within_s=within_s)
            item = await on.store.get(keys.LEADER)
            assert item is not None
            assert on.stage.terms == [("a", item.create_revision)]
            assert one.election.epoch == item.create_revision

    run_in_virtual_time(story())


def test_a_leader_whose_key_is_deleted_stops_at_once_and_may_lead_again() -> None:
    async def story() -> None:
        async with theatre() as on:
            on.enter("a")
            await on.leader("a", within_s=1)
            await on.store.commit([], [Delete(keys.LEADER)])
            await on.until(lambda: len(on.stage.terms) == 2, within_s=0.2)
            assert on.stage.terms[1][1] > on.stage.terms[0][1]

    run_in_virtual_time(story())


def test_a_leader_stops_when_etcd_is_restored_from_before_its_time() -> None:
    async def story() -> None:
        async with theatre() as on:
            backup = on.store.backup()
            on.enter("a")
            await on.leader("a", within_s=1)
            await asyncio.sleep(1)
            on.store.restore(backup)
            await on.until(lambda: len(on.stage.terms) == 2, within_s=10)

    run_in_virtual_time(story())


def test_a_stuck_mirror_does_not_keep_a_deposed_leader_leading() -> None:
    async def story() -> None:
        async with theatre() as on:
            one, _ = on.enter("a")
            await on.leader("a", within_s=1)
            one.tasks[1].cancel()  # the mirror
            await on.store.commit([], [Delete(keys.LEADER)])
            await on.until(lambda: len(on.stage.terms) == 2, within_s=5)

    run_in_virtual_time(story())


def test_leading_that_fails_is_logged_and_somebody_else_tries(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_epoch: int) -> None:
        raise RuntimeError("the plan of a broken leader")

    async def story() -> None:
        async with theatre() as on:
            on.enter("a", then=fail)
            await on.until(lambda: on.stage.terms, within_s=1)
            on.enter("b")
            await on.leader("b", within_s=2)
            await asyncio.sleep(60)
            assert on.stage.now == ["b"]
            assert "the plan of a broken leader" in caplog.text

    run_in_virtual_time(story())


def test_leading_that_meets_a_store_error_is_one_line_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail_first(epoch: int) -> None:
        if len(epochs) < 2:
            epochs.append(epoch)
            raise StoreUnavailable("etcd does not answer at x")

    epochs: list[int] = []

    async def story() -> None:
        async with theatre() as on:
            on.enter("a", then=fail_first)
            await on.until(lambda: len(on.stage.terms) == 3 and on.stage.now, within_s=20)
            assert "leading ended: etcd does not answer at x" in caplog.text
            assert "Traceback" not in caplog.text

    run_in_virtual_time(story())


def test_a_killed_leader_is_followed_when_its_lease_has_run_out() -> None:
    async def story() -> None:
        async with theatre() as on:
            one, _ = on.enter("a")
            await on.leader("a", within_s=1)
            on.enter("b")
            await asyncio.sleep(5)
            await one.die()
            assert TTL_S / 2 < await on.leader("b", within_s=TTL_S + 1) <= TTL_S + 0.1

    run_in_virtual_time(story())


def test_a_keeper_closed_while_etcd_is_away_ends() -> None:
    async def story() -> None:
        async with theatre() as on:
            one, _ = on.enter("a")
            await on.leader("a", within_s=1)
            on.store.unavailable = True
            async with asyncio.timeout(5):
                await one.close()
            assert one.keeper.lease_id == 0
            assert one.keeper.remaining_s() < 0

    run_in_virtual_time(story())


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_cut_never_two_lead_at_once_and_in_the_end_one_does(seed: int) -> None:
    dice = random.Random(seed)

    async def story() -> None:
        async with theatre() as on:
            links = [on.enter(name)[1] for name in "abc"]
            for _ in range(150):
                await asyncio.sleep(dice.uniform(0, 3))
                on.store.tick()
                await _disturb(on, links, dice)
            for link in links:
                link.cut = False
            on.store.unavailable = False
            await on.until(lambda: on.stage.now, within_s=3 * TTL_S)
            epochs = [epoch for _, epoch in on.stage.terms]
            assert epochs == sorted(epochs), f"seed {seed}"

    run_in_virtual_time(story())


async def _disturb(on: Theatre, links: list[StoreLink], dice: random.Random) -> None:
    match dice.randrange(8):
        case 0 | 1 | 2:
            link = dice.choice(links)
            link.cut, link.patience_s = not link.cut, dice.choice([0.0, 0.3, 1.0])
        case 3:
            on.store.unavailable = not on.store.unavailable
        case 4:
            on.store.lose_next_reply = True
        case 5:
            on.store.lose_next_request = True
        case 6:
            on.store.break_watches(StoreUnavailable("broken on demand"))
        case _:
            if not on.store.unavailable:
                await on.store.get(keys.LEADER)
