"""The leader's looks, in virtual time: a load that instances share, and what follows it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count, pairwise
from typing import Any, cast

import pytest
from virtual_time import run_in_virtual_time
from worlds import app, bundle, host, process_type, release, stay

from formation.automation import Autoscale, AutoscaleChange, Measure, MeasureKind
from formation.model import App, AssignmentDocument, AuditRecord, Cluster, Coordinator
from formation.v1 import control_pb2 as pb
from formation.v1 import types_pb2
from formation_coordinator.live import LiveWorld
from formation_coordinator.outside import Answer, Outside, OutsideError
from formation_coordinator.plan import Plan
from formation_coordinator.scaler import Scaler
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Delete, Put
from formation_coordinator.store.memory import MemoryStore
from formation_coordinator.store.mirror import Mirror
from formation_coordinator.usagefan import UsageFan

CPU = Measure(kind=MeasureKind.CPU, target=50)
METRIC = Measure(kind=MeasureKind.METRIC, target=10, url="http://queue/length")
RULE = Autoscale(app="shop", type="web", minimum=2, maximum=12, measures=(CPU,))
Load = Callable[[float], float]


class Town:
    """A store, a mirror and a scaler that leads. `load(now_s)`: cores that all want together."""

    def __init__(self, load: Load) -> None:
        self.clock = asyncio.get_running_loop().time
        self.store = MemoryStore(clock=self.clock)
        self.mirror = Mirror(self.store, keys.MIRRORED)
        self.live = LiveWorld(self.mirror, self.clock)
        self.load, self.plan, self.deaf = load, Plan(), False
        self.answer: Callable[[], Answer] = lambda: Answer(status=200, body=b"0")
        self.cpu_s: dict[str, float] = {}
        self.seen_s = 0.0
        self.asked: list[pb.UsageRequest] = []
        numbers = count(1)
        self.scaler = Scaler(
            store=self.store,
            mirror=self.mirror,
            live=self.live,
            usage=cast("UsageFan", self),
            outside=cast("Outside", self),
            plan=lambda: self.plan,
            replace_after_s=5.0,
            clock=self.clock,
            now_ms=lambda: int(self.clock() * 1000),
            new_id=lambda: f"{next(numbers):04d}",
        )

    @property
    def quantity(self) -> int:
        return self.live.world.apps["shop"].formation["web"]

    async def put(self, **records: codec.Record) -> int:
        """By key, with _ for /."""
        return await self.put_all({key.replace("_", "/"): r for key, r in records.items()})

    async def put_all(self, records: dict[str, codec.Record]) -> int:
        puts = [Put(key, codec.encode(record)) for key, record in records.items()]
        outcome = await self.store.commit([], puts)
        await self.mirror.wait_for(outcome.revision, 5.0)
        return outcome.revision

    async def place(self) -> list[str]:
        """All that is wanted runs on one host; the uids."""
        stays = [stay(f"web.{n}") for n in range(1, self.quantity + 1)]
        entry = host("a", *stays)
        assert entry.host
        assert entry.status
        assert entry.session
        document = AssignmentDocument(
            host="a", generation=1, epoch=1, bundles=tuple(map(bundle, stays))
        )
        await self.put(
            hosts_a=entry.host, status_a=entry.status, sessions_a=entry.session,
            assignments_a=document,
        )  # fmt: skip
        return [item.uid for item in stays]

    async def read(self, request: pb.UsageRequest) -> pb.UsageResponse:
        """As `UsageFan`: what all have used since they began."""
        self.asked.append(request)
        uids = await self.place()
        past_s, self.seen_s = self.clock() - self.seen_s, self.clock()
        share = self.load(self.clock()) / max(1, len(uids))
        self.cpu_s = {uid: self.cpu_s.get(uid, 0.0) + share * past_s for uid in uids}
        used = [types_pb2.InstanceUsage(uid=uid, cpu_s=s) for uid, s in self.cpu_s.items()]
        return pb.UsageResponse(instances=[] if self.deaf else used)

    async def get(self, url: str, timeout_s: float) -> Answer:
        """As `Outside`."""
        await asyncio.sleep(0.1)
        return self.answer()

    async def audit(self) -> list[AuditRecord]:
        items = (await self.store.ranges([keys.AUDIT])).items
        found = [codec.decode(item.key, item.value) for item in items]
        return [record for record in found if isinstance(record, AuditRecord)]

    def why(self) -> str:
        return self.scaler.looks["shop", "web"].sentence


@asynccontextmanager
async def leading(load: Load, rule: Autoscale = RULE, at: int = 2) -> AsyncIterator[Town]:
    town = Town(load)
    running = [asyncio.create_task(town.mirror.run())]
    try:
        await town.mirror.ready.wait()
        epoch = await town.put(leader=Coordinator(id="c1", address="c1", version="1", since_ms=0))
        records: dict[str, codec.Record] = {
            "cluster": Cluster(id="c", schema_version=1),
            "apps/shop": app({"web": at}),
            "releases/shop/1": release(process_type("web")),
            "autoscale/shop/web": rule,
        }
        await town.put_all(records)
        running.append(asyncio.create_task(town.scaler.lead(epoch)))
        yield town
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def quantities(load: Load, looks: int, rule: Autoscale = RULE, at: int = 2) -> list[int]:
    """After each look."""

    async def story() -> list[int]:
        found = []
        async with leading(load, rule, at) as town:
            await asyncio.sleep(rule.every_s / 2)
            for _ in range(looks):
                await asyncio.sleep(rule.every_s)
                found.append(town.quantity)
        return found

    return run_in_virtual_time(story())


def shown(found: list[int]) -> str:
    """`2x5 6 3x10`: how often each in a row."""
    words: list[list[int]] = []
    for quantity in found:
        if words and words[-1][0] == quantity:
            words[-1][1] += 1
        else:
            words.append([quantity, 1])
    said = " ".join(f"{q}x{n}" if n > 1 else str(q) for q, n in words)
    print(said)
    return said


def test_a_load_that_stays_is_met_at_once_and_left_alone() -> None:
    assert shown(quantities(lambda _: 3.0, 40)) == "6x40"


def test_a_step_up_and_down_again() -> None:
    def load(now_s: float) -> float:
        return 4.0 if 300 < now_s < 900 else 1.0

    # At most four more, or doubled; who is new is measured from its second look on. Down when five
    # minutes said so.
    assert shown(quantities(load, 100)) == "2x20 6x2 8x56 2x22"


def test_a_spike_is_followed_and_forgotten_after_the_window() -> None:
    def load(now_s: float) -> float:
        return 6.0 if 300 < now_s < 320 else 1.0

    assert shown(quantities(load, 50)) == "2x20 6x20 5 2x9"


def test_a_load_that_grows_and_shrinks_slowly() -> None:
    def load(now_s: float) -> float:
        return 1.0 + 4.0 * (1 - abs(now_s - 900) / 900) if now_s < 1800 else 1.0

    assert shown(quantities(load, 150)) == (
        "2 3x8 4x9 5x8 6x8 7x8 8x9 9x8 10x27 9x7 8x8 7x7 6x8 5x7 4x8 3x7 2x12"
    )


def test_noise_within_the_tolerance_moves_nothing() -> None:
    dice = random.Random(7)
    assert shown(quantities(lambda _: 3.0 * dice.uniform(0.92, 1.08), 200)) == "6x200"


def test_wild_noise_goes_up_and_then_stays_up() -> None:
    dice = random.Random(7)
    found = quantities(lambda _: 3.0 * dice.uniform(0.5, 1.5), 200)
    shown(found)
    assert max(found) <= 10
    assert len(found) - sum(x == y for x, y in pairwise(found)) < 20


def test_a_change_is_written_with_its_reason_and_asked_for_gently() -> None:
    async def story() -> None:
        async with leading(lambda _: 3.0) as town:
            await asyncio.sleep(60)
            assert town.quantity == 6
            rule = town.live.world.autoscale["shop", "web"]
            why = "2 -> 6: cpu 150 % of 50 %, 2 measured"
            assert rule.last == AutoscaleChange(at_ms=15_000, before=2, after=6, why=why)
            assert [(r.who, r.before, r.after, r.why) for r in await town.audit()] == [
                ("autoscale", "web=2", "web=6", why)
            ]
            # Nobody's last change can be undone by undoing this.
            assert not town.live.world.apps["shop"].formation_history
            assert town.scaler.changes["shop", "web", "up"] == 1
            assert len(town.asked) == 5
            assert {(r.app, *r.types) for r in town.asked} == {("shop", "web")}

    run_in_virtual_time(story())


async def deposed(town: Town) -> None:
    await town.store.commit([], [Delete(keys.leader())])
    await town.put(leader=Coordinator(id="c2", address="c2", version="1", since_ms=0))


async def held(town: Town) -> None:
    await town.put(cluster=Cluster(id="c", schema_version=1, held="a backup was restored"))


async def braked(town: Town) -> None:
    town.plan = Plan(brake=True)


async def left_alone(town: Town) -> None:
    town.plan = Plan(left_alone={"shop": "its release cannot be read"})


async def unplaced(town: Town) -> None:
    town.plan = Plan(unnamed={("shop", "web"): 1})


async def deaf(town: Town) -> None:
    town.deaf = True


async def without_app(town: Town) -> None:
    await town.store.commit([], [Delete(keys.app("shop"))])


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (deposed, "others changed it at the same time, so not yet"),
        (held, "a backup was restored"),
        (braked, "the brake is on"),
        (left_alone, "its release cannot be read"),
        (unplaced, "1 of 2 fit nowhere"),
        (deaf, "cpu: nobody was measured"),
        (without_app, "there is no app shop"),
    ],
)
def test_nothing_changes_when(trouble: Callable[[Town], Any], why: str) -> None:
    async def story() -> None:
        async with leading(lambda _: 3.0) as town:
            await asyncio.sleep(5)
            await trouble(town)
            await asyncio.sleep(0.1)
            before = town.live.world.apps.get("shop")
            await asyncio.sleep(60)
            assert town.live.world.apps.get("shop") == before
            assert why in town.why()
            assert not await town.audit()

    run_in_virtual_time(story())


def test_a_rule_that_is_changed_begins_its_windows_anew_and_one_that_is_gone_rests() -> None:
    async def story() -> None:
        async with leading(lambda _: 1.0, at=8) as town:
            await asyncio.sleep(290)
            await town.put_all({"autoscale/shop/web": replace(RULE, maximum=11)})
            await asyncio.sleep(290)
            assert town.quantity == 8
            assert "down-window" in town.why()
            await asyncio.sleep(30)
            assert town.quantity == 2
            await town.store.commit([], [Delete(keys.autoscale("shop", "web"))])
            await asyncio.sleep(1)
            asked = len(town.asked)
            await asyncio.sleep(60)
            assert len(town.asked) == asked
            assert not town.scaler.looks

    run_in_virtual_time(story())


@pytest.mark.parametrize(
    ("answer", "then", "why"),
    [
        (Answer(status=200, body=b"55"), 6, "metric 55, 10 for each"),
        (Answer(status=500, body=b"55"), 3, "http://queue: status 500"),
        (Answer(status=302, body=b"55"), 3, "http://queue: status 302"),
        (Answer(status=200, body=b"NaN"), 3, "it says NaN"),
        (Answer(status=200, body=b"-7"), 3, "less than nothing"),
        (Answer(status=200, body=b"1e300"), 3, "more than anything can be"),
        (Answer(status=200, body=b"<html>"), 3, "neither a number nor an answer of Prometheus"),
        (Answer(status=200, body=b"1" * 70_000), 3, "more than 65536 bytes"),
        (OutsideError("http://queue: no answer within 5 s"), 3, "no answer within 5 s"),
    ],
)
def test_a_metric_of_a_url(answer: Answer | OutsideError, then: int, why: str) -> None:
    def answered() -> Answer:
        if isinstance(answer, OutsideError):
            raise answer
        return answer

    async def story() -> None:
        rule = replace(RULE, measures=(METRIC,), down_window_s=0.0)
        async with leading(lambda _: 0.0, rule, at=3) as town:
            town.answer = answered
            await asyncio.sleep(60)
            assert town.quantity == then
            assert why in town.why()
            assert not town.asked, "no agent is asked for what a URL tells"

    run_in_virtual_time(story())


def test_what_is_set_by_hand_in_between_is_seen_and_not_overrun() -> None:
    async def story() -> None:
        async with leading(lambda _: 3.0) as town:
            await asyncio.sleep(5)
            shop: App = town.live.world.apps["shop"]
            # As a restore may do it, past all that refuses.
            await town.put_all({"apps/shop": replace(shop, formation={"web": 4})})
            await asyncio.sleep(27)
            assert town.quantity == 6
            assert town.live.world.autoscale["shop", "web"].last is not None
            assert town.why().startswith("4 -> 6")

    run_in_virtual_time(story())
