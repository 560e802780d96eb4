"""A cluster's life with hollow hosts: its phases, and what each costs.

Connect, idle, scale 0 → N, some more while N run, a release of those, 1 % of the hosts lost, idle,
and the leader killed. `bench/cluster.py` shows it, a test has bounds.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from formation.credentials import Credential
from formation.dialling import Dialler
from formation.identity import Role
from formation.v1 import control_pb2 as pb
from formation.v1 import control_pb2_grpc, types_pb2
from hollow.rig import Rig

APP, SMALL = "big", "small"
TYPES = ("web", "worker", "clock", "mail")
LOOKS_EVERY_S = 0.05
# Who looks is no part of what is measured: it leaves them so many times as long alone.
LOOKS_APART, LOOKS_APART_MAX_S = 4, 1.0
DEADLINE_S = 600.0
QUIET_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """`processes`: of hollow hosts. `ready_after_s`: until an instance counts as healthy. `more`:
    so many are added while all run. `idle_s`: at the end; `idle_empty_s`: before any runs.
    `kills_leader`: with a second coordinator, which is started for it if there is none."""

    hosts: int = 200
    instances: int = 20_000
    more: int = 500
    processes: int = 2
    ready_after_s: float = 0.0
    idle_s: float = 10.0
    idle_empty_s: float = 10.0
    kills_leader: bool = False


class Operator:
    """Asks a coordinator, as a person would."""

    def __init__(self, rig: Rig, address: str) -> None:
        credential: Credential | None = None
        if rig.tls:
            credential = rig.authority.issue(rig.directory / "operator", Role.OPERATOR, "ann")
        self.channel = Dialler(lambda: credential, insecure=not rig.tls).channel(address)
        self.stub: Any = control_pb2_grpc.ControlStub(self.channel)

    async def apply(self, app: str, ready_after_s: float, release: int = 1) -> None:
        types = [
            types_pb2.ProcessType(
                name=name, command=f"sleep {1000 + release}", ready_after_s=ready_after_s,
                stop_grace_s=5.0,
            )
            for name in TYPES
        ]  # fmt: skip
        for spec in types:
            spec.rollout.surge.percent = 25.0
            spec.rollout.healthy_s = 0.5
            spec.rollout.deadline_s = 300.0
        await self.stub.Apply(
            pb.ApplyRequest(app=app, types=types, workdir="/", formation=dict.fromkeys(TYPES, 0))
        )

    async def scale(self, app: str, quantities: dict[str, int]) -> int:
        changes = [
            pb.QuantityChange(type=name, kind=pb.QuantityChange.KIND_SET, quantity=number)
            for name, number in quantities.items()
        ]
        response = await self.stub.Scale(pb.ScaleRequest(app=app, changes=changes))
        return int(response.revision)

    async def ready_hosts(self, coordinator: str = "") -> int:
        """`coordinator`: only those whose session it holds."""
        answer = await self.stub.ListHosts(pb.ListHostsRequest())
        ready = [view for view in answer.hosts if view.state == pb.HOST_STATE_READY]
        return sum(coordinator in ("", view.coordinator_id) for view in ready)

    async def healthy(self, app: str) -> tuple[int, int]:
        """Healthy and wanted."""
        answer = await self.stub.ListApps(pb.ListAppsRequest())
        found = next(view for view in answer.apps if view.app.name == app)
        return int(found.healthy), int(found.wanted)

    async def are_healthy(self, app: str, count: int = 0) -> bool:
        """`count` 0: as many as are wanted."""
        healthy, wanted = await self.healthy(app)
        return bool(healthy >= (count or wanted))

    async def is_released(self, app: str, release: int) -> bool:
        """It runs everywhere."""
        answer = await self.stub.ListApps(pb.ListAppsRequest())
        found = next(view for view in answer.apps if view.app.name == app)
        arrived = found.app.stable_release == release
        return bool(arrived and found.healthy == found.wanted)


class Life:
    """Phases and their figures."""

    def __init__(self, rig: Rig, options: Size) -> None:
        self.rig, self.options = rig, options
        self.operator = Operator(rig, rig.addresses["c1"])
        self.phases: list[dict[str, Any]] = []
        self.left = options.hosts  # not lost yet

    async def phase(
        self, name: str, work: Callable[[], Awaitable[dict[str, Any]]], title: str = ""
    ) -> None:
        before, started_s = self.rig.figures(), time.perf_counter()
        said = await work()
        took_s = time.perf_counter() - started_s
        await until_durable(self.rig)  # what is still written belongs to this one
        after = self.rig.figures()
        differences = {key: round(after[key] - before[key], 3) for key in after}
        found = {"phase": name, "title": title or name, "took_s": round(took_s, 3)}
        found |= {**said, **differences, **self.rig.memory()}
        self.phases.append(found)
        print(line(found), file=sys.stderr, flush=True)

    async def all(self) -> list[dict[str, Any]]:
        options, before = self.options, self.rig.memory()["coordinator_memory"]
        await self.phase("connect", self.connect)
        grown = self.phases[-1]["coordinator_memory"] - before
        self.phases[-1]["memory_per_host"] = round(grown / options.hosts)
        if options.idle_empty_s:
            await self.phase("idle empty", lambda: idle(options.idle_empty_s))
        await self.operator.apply(APP, options.ready_after_s)
        await self.operator.apply(SMALL, 0.0)
        await self.phase("up", self.up, f"0 -> {options.instances}")
        await self.phase("more", self.more, f"+{options.more}")
        await self.phase("release", self.release, f"a release of {options.more}")
        await self.phase("lose", self.lose, "1 % of the hosts lost")
        await self.phase("idle", lambda: idle(options.idle_s))
        if options.kills_leader:
            if len(self.rig.coordinators) == 1:
                await self.phase("second", self.second, "a second coordinator")
            await self.phase("behead", self.behead, "the leader killed")
        return self.phases

    # ------------------------------------------------------------------ phases

    async def connect(self) -> dict[str, Any]:
        hosts: int = self.options.hosts
        took_s = await asyncio.to_thread(self.rig.add_hosts, hosts, self.options.processes)

        async def ready() -> bool:
            return await self.operator.ready_hosts() >= hosts

        return {"ready_s": round(took_s + await until(ready, "all hosts are ready"), 3)}

    async def up(self) -> dict[str, Any]:
        share = self.options.instances // len(TYPES)
        count, looks = share * len(TYPES), list[tuple[float, int]]()
        started_s = time.perf_counter()

        async def all_healthy() -> bool:
            healthy, _ = await self.operator.healthy(APP)
            looks.append((time.perf_counter() - started_s, healthy))
            return healthy >= count

        await self.operator.scale(APP, dict.fromkeys(TYPES, share))
        await until(all_healthy, "it is up")
        await until_durable(self.rig)
        durable_s = time.perf_counter() - started_s
        # A watcher of them all would be a part of what is measured: these are as often as it looks.
        reached = {f"p{part}_s": reached_s(looks, count * part / 100) for part in (50, 99)}
        return {"healthy_s": reached_s(looks, count), "durable_s": round(durable_s, 3), **reached}

    async def more(self) -> dict[str, Any]:
        return await latencies(self.operator, SMALL, self.options.more)

    async def release(self) -> dict[str, Any]:
        await self.operator.apply(SMALL, 0.0, release=2)
        arrived = await until(lambda: self.operator.is_released(SMALL, 2), "it is released")
        return {"rolled_out_s": round(arrived, 3)}

    async def lose(self) -> dict[str, Any]:
        count = max(1, self.options.hosts // 100)
        self.left -= count
        await asyncio.to_thread(self.rig.drop_hosts, count)

        async def noticed() -> bool:
            return await self.operator.ready_hosts() <= self.left

        noticed_s = await until(noticed, "their silence is noticed")
        replaced_s = noticed_s + await until(lambda: self.operator.are_healthy(APP), "replaced")
        return {
            "hosts_lost": count,
            "noticed_s": round(noticed_s, 3),
            "replaced_s": round(replaced_s, 3),
        }

    async def second(self) -> dict[str, Any]:
        """Until all hosts have heard of it."""
        await asyncio.to_thread(self.rig.start_coordinator, "c2")

        async def heard() -> bool:
            return (await asyncio.to_thread(self.rig.hosts))["with_a_choice"] >= self.left

        return {"heard_s": round(await until(heard, "all have heard of it"), 3)}

    async def behead(self) -> dict[str, Any]:
        """Its agents go on at the other one, which leads now."""
        other = Operator(self.rig, self.rig.addresses["c2"])
        await asyncio.to_thread(self.rig.kill_coordinator, "c1")

        async def over() -> bool:
            return await other.ready_hosts("c2") >= self.left

        over_s = await until(over, "all have come over")
        return {"all_over_s": round(over_s, 3), **await latencies(other, SMALL, 100)}


async def idle(for_s: float) -> dict[str, Any]:
    await asyncio.sleep(for_s)
    return {}


def reached_s(looks: Sequence[tuple[float, int]], count: float) -> float:
    """When the number that was seen was that large for the first time."""
    return round(next(at_s for at_s, seen in looks if seen >= count), 3)


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> float:
    """Seconds until it holds."""
    started_s = looked_s = time.perf_counter()
    while not await condition():
        now_s = time.perf_counter()
        assert now_s - started_s < DEADLINE_S, f"not in time: {what}"
        apart_s = min(LOOKS_APART_MAX_S, LOOKS_APART * (now_s - looked_s))
        await asyncio.sleep(max(LOOKS_EVERY_S, apart_s))
        looked_s = time.perf_counter()
    return looked_s - started_s


async def until_durable(rig: Rig) -> None:
    """Until etcd is quiet: nothing was written to it for half a second."""
    last_s, puts = time.perf_counter(), -1.0
    while time.perf_counter() - last_s < QUIET_S:
        now = rig.etcd_figures()["etcd_debugging_mvcc_put_total"]
        if now != puts:
            puts, last_s = now, time.perf_counter()
        await asyncio.sleep(LOOKS_EVERY_S)


def line(found: dict[str, Any]) -> str:
    shown = {k: v for k, v in found.items() if k not in ("phase", "title")}
    words = [f"{k}={v / 1e6:.0f}M" if "memory" in k or "bytes" in k else f"{k}={v:g}"
             for k, v in shown.items()]  # fmt: skip
    return f"{found['title']}: {' '.join(words)}"


async def latencies(operator: Operator, app: str, count: int) -> dict[str, Any]:
    """From sending Scale to each of `count` more being seen as healthy by who watches. `lag_s`:
    from the answer to the watcher's being told of the new quantity."""
    before = await operator.healthy(app)
    wanted = before[1] + count
    watch = operator.stub.WatchInstances(pb.WatchInstancesRequest(app=app))
    known: set[str] = set()
    async for update in watch:
        known = {view.status.uid for view in update.changed}
        break
    sent_s = time.perf_counter()
    await operator.scale(app, {"web": wanted})
    answered_s = told_s = time.perf_counter()
    seen: list[float] = []
    async for update in watch:
        now_s = time.perf_counter()
        if any(item.name == app and item.formation["web"] == wanted for item in update.apps):
            told_s = now_s
        for view in update.changed:
            if (
                view.status.state == types_pb2.INSTANCE_STATE_HEALTHY
                and view.status.uid not in known
            ):
                known.add(view.status.uid)
                seen.append(now_s - sent_s)
        if len(seen) >= count:
            break
    watch.cancel()
    seen.sort()
    return {
        "p50_s": round(statistics.median(seen), 4),
        "p99_s": round(seen[int(len(seen) * 0.99) - 1], 4),
        "lag_s": round(told_s - answered_s, 4),
    }
