"""How long the leader's decisions take, and how good they are, without any I/O.

    python bench/placement.py [--hosts 10000] [--instances 1000000] [--rounds 5]

One world of hosts in five zones with cpus and memory, and 20 types that reserve both. Times are
medians; "floor" is what numpy alone needs to level the counts, or what Python needs to make an
object for each instance, in the same run.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
from msgspec import structs

from formation.model import (
    App,
    Assignment,
    Capacity,
    Host,
    HostStatus,
    InstanceState,
    InstanceStatus,
    ProcessType,
    Release,
    Session,
    Slot,
)
from formation.rules import Resources
from formation_coordinator import placement
from formation_coordinator.book import Book
from formation_coordinator.plan import Plan
from formation_coordinator.reconcile import reconcile
from formation_coordinator.store import codec
from formation_coordinator.world import Change, HostEntry, World, apply

GIB = 2**30
TYPES = 20
ZONES = 5
STEMS = count(1)


def empty_world(hosts: int, instances: int) -> World:
    """Hosts without instances, and an app that wants so many in all."""
    per_host = instances / hosts
    types = tuple(
        ProcessType(
            name=f"type{n:02}",
            command="true",
            resources=Resources(cpus=0.05 * (1 + n % 4), memory_bytes=(64 << (n % 3)) * 2**20),
        )
        for n in range(TYPES)
    )
    share = instances // TYPES
    app = App(
        name="big",
        formation={spec.name: share for spec in types},
        release=1,
        latest_release=1,
        stable_release=1,
    )
    capacity = Capacity(cpus=per_host * 0.25, memory_bytes=int(per_host * 0.3 * GIB))
    entries = [host_entry(f"h{n:05}", f"z{n % ZONES}", capacity) for n in range(hosts)]
    return World(
        revision=1,
        apps={"big": app},
        releases={("big", 1): Release(app="big", number=1, types=types)},
        hosts={entry.name: entry for entry in entries},
    )


def host_entry(name: str, zone: str, capacity: Capacity) -> HostEntry:
    return HostEntry(
        name=name,
        host=Host(name=name),
        status=HostStatus(host=name, agent_id=name, labels={"zone": zone}, capacity=capacity),
        session=Session(session_id=name, coordinator_id="c", agent_id=name),
    )


def planned(world: World, book: Book, now_s: float = 0.0) -> Plan:
    return reconcile(
        world,
        now_s=now_s,
        wall_ms=0,
        epoch=1,
        replace_after_s=5.0,
        new_stem=lambda: f"{next(STEMS):016x}",
        book=book,
    )


def written(world: World, plan: Plan) -> World:
    changes = [Change(kind="assignments", names=(d.host,), record=d) for d in plan.documents]
    return apply(world, changes, revision=world.revision + 1, now_s=0.0)


def obeyed(world: World) -> World:
    """Every agent says that all it was told to run is healthy."""
    changes = []
    for entry in world.hosts.values():
        assert entry.status is not None
        table = tuple(healthy(item) for item in entry.assigned)
        status = structs.replace(entry.status, instances=table)
        changes.append(Change(kind="status", names=(entry.name,), record=status))
    return apply(world, changes, revision=world.revision + 1, now_s=0.0)


def healthy(item: Assignment) -> InstanceStatus:
    return InstanceStatus(
        uid=item.uid,
        slot=item.slot,
        release=item.release,
        state=InstanceState.HEALTHY,
        pid=4711,
        port=20_000,
        attempt=1,
        started_at_ms=1,
    )


def timed(work: Callable[[], object], rounds: int) -> list[float]:
    times = []
    for _ in range(rounds):
        gc.collect()
        began_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - began_s)
    return times


def show(what: str, seconds: float, floor: tuple[str, float] | None = None) -> None:
    beside = (
        f"   {seconds / floor[1]:6.2f} x {floor[0]} ({floor[1] * 1000:.1f} ms)" if floor else ""
    )
    print(f"  {what:<54}{seconds * 1000:9.1f} ms{beside}")


# ---------------------------------------------------------------------- the big world


def levelling_s(hosts: int, instances: int, rounds: int) -> float:
    """numpy alone: 20 types levelled over hosts that all take them."""
    zeros = np.zeros(hosts, dtype=np.int64)
    rooms, rank = np.full(hosts, 5_000), np.arange(hosts)

    def work() -> None:
        for _ in range(TYPES):
            placement.fill(instances // TYPES, zeros, rooms, rank)

    return statistics.median(timed(work, rounds))


def objects_s(instances: int) -> float:
    """Python alone: an object for each instance."""
    slot = Slot("big", "web", 1)
    return min(
        timed(lambda: [Assignment(uid="u", slot=slot, release=1) for _ in range(instances)], 1)
    )


def from_nothing(hosts: int, instances: int, rounds: int) -> World:
    empty = empty_world(hosts, instances)
    to_plan, to_bytes, plan = [], [], Plan()
    encoded: list[bytes] = []
    for _ in range(rounds):
        plan, encoded = Plan(), []  # what the last round made is no part of this one's heap
        gc.collect()
        began_s = time.perf_counter()
        plan = planned(empty, Book())
        to_plan.append(time.perf_counter() - began_s)
        encoded = [codec.encode(document) for document in plan.documents]
        to_bytes.append(time.perf_counter() - began_s)
    assert not plan.pending, next(iter(plan.pending.values()))
    counts = counts_only_s(empty, rounds)
    levelling = ("numpy levelling", levelling_s(hosts, instances, rounds))
    show(f"{instances:,} on {hosts:,} empty hosts: counts", counts, levelling)
    objects = ("an object each", objects_s(instances))
    show("... documents as values", statistics.median(to_plan), objects)
    show("... encoded documents", statistics.median(to_bytes), objects)
    size = sum(map(len, encoded)) / len(encoded)
    print(f"  {'a document':<54}{size:9.0f} bytes")
    return obeyed(written(empty, plan))


def counts_only_s(world: World, rounds: int) -> float:
    """Placement without documents: every type's counts for each host."""
    from formation_coordinator.desk import Now, open_desk
    from formation_coordinator.draft import Wish

    app, release = world.apps["big"], world.releases["big", 1]

    def work() -> None:
        now = Now(monotonic_s=0.0, wall_ms=0, replace_after_s=5.0)
        desk = open_desk(world, Book(), now, lambda: "s", {})
        for spec in release.types:
            wish = Wish(app=app, spec=spec, release=release)
            counts = placement.place(app.formation[spec.name], desk.draft.fit(wish).columns())
            desk.draft.space.take_many(wish.key, spec, counts)

    return statistics.median(timed(work, rounds))


def spread_of(world: World) -> int:
    """The most that any type differs between hosts."""
    worst = 0
    book = Book()
    book.look(world)
    for of_type in book.types.values():
        counts = of_type.count[: len(world.hosts)]
        worst = max(worst, int(counts.max() - counts.min()))
    return worst


def in_that_world(world: World, rounds: int) -> None:
    book = Book()
    first = timed(lambda: book.look(world), 1)[0]
    show("first look at it (once for a leader)", first)
    assert planned(world, book).documents == ()
    show("a pass with nothing to do", statistics.median(timed(lambda: planned(world, book), 20)))
    scale_up(world, book)
    lose_a_host(world, book, rounds)
    print(f"  {'most of a type on a host - least':<54}{spread_of(world):9}")


def scale_up(world: World, book: Book) -> None:
    rng = random.Random(1)
    times = []
    for _ in range(100):
        app = world.apps["big"]
        name = f"type{rng.randrange(TYPES):02}"
        more = replace(app, formation={**app.formation, name: app.formation[name] + 500})
        after = replace(world, apps={"big": more})
        began_s = time.perf_counter()
        plan = planned(after, book)
        times.append(time.perf_counter() - began_s)
        assert plan.sentence == "500 placed", plan.sentence
    times.sort()
    show("scale +500, plan only: p50", statistics.median(times))
    show("scale +500, plan only: p99", times[98])


def lose_a_host(world: World, book: Book, rounds: int) -> None:
    times, moved = [], 0
    for index in range(rounds):
        name = list(world.hosts)[index]
        gone = Change(kind="sessions", names=(name,), record=None)
        after = apply(world, [gone], revision=world.revision + 1, now_s=0.0)
        began_s = time.perf_counter()
        plan = planned(after, book, now_s=10.0)
        times.append(time.perf_counter() - began_s)
        moved = sum(d.size for d in plan.documents)
        assert plan.sentence.endswith(" moved"), plan.sentence
    lost = sum(len(d.ordinals) for d in world.hosts[name].bundles)
    assert moved
    show(f"a host lost, {lost} to place again", statistics.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    for part in (100, 10, 1):
        hosts, instances = asked.hosts // part, asked.instances // part
        print(f"{hosts:,} hosts, {instances:,} instances of {TYPES} types, {ZONES} zones")
        in_that_world(from_nothing(hosts, instances, asked.rounds), asked.rounds)


if __name__ == "__main__":
    main()
