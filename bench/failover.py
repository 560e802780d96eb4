"""What people notice when something dies: how long until the cluster does its work again.

    python bench/failover.py [--only stop,kill,freeze,cut,keeper,etcd] [--rounds 10] [--json FILE]

Real programs on test hosts of their own (network namespaces; needs root, iproute2, nftables and
Debian's etcd-server): three etcds, three coordinators, three agents. Each time stands beside a
floor that was measured in the same run. What is measured, and how, stands in docs/bench.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "harness"))
import netns
from lab import Lab

from formation.v1 import control_pb2 as pb
from formation.v1 import control_pb2_grpc, types_pb2
from formation_coordinator.store import codec
from formation_coordinator.store.base import Put, Span, StoreError
from formation_coordinator.store.etcd import EtcdStore

APP = "load"
ROUND_S = 60.0
HEALTHY, STARTING = types_pb2.INSTANCE_STATE_HEALTHY, types_pb2.INSTANCE_STATE_STARTING
Times = dict[str, list[float]]


class Watcher:
    """The instances as one coordinator shows them, kept up to date."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.address = lab.address(name)
        self.channel = lab.dialler().channel(self.address)
        self.stub = control_pb2_grpc.ControlStub(self.channel)
        self.views: dict[str, pb.InstanceView] = {}
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for update in self.stub.WatchInstances(pb.WatchInstancesRequest(app=APP)):
                    async with self._changed:
                        if update.complete:
                            self.views.clear()
                        self.views.update((v.status.uid, v) for v in update.changed)
                        for uid in update.gone_uids:
                            self.views.pop(uid, None)
                        self._changed.notify_all()
            await asyncio.sleep(0.05)

    async def until(self, condition: Callable[[], bool], within_s: float = ROUND_S) -> float:
        """When it is so, by our clock."""
        async with asyncio.timeout(within_s), self._changed:
            await self._changed.wait_for(condition)
        return time.monotonic()

    def placed(self, type_name: str) -> int:
        return sum(bool(v.host) and not v.surplus and v.status.type == type_name
                   for v in self.views.values())  # fmt: skip

    def running(self, type_name: str, *, without: str = "") -> int:
        """Those whose process is there, not on that host."""
        return sum(
            v.status.state in (HEALTHY, STARTING)
            and not v.surplus
            and not v.host_silent
            and v.host != without
            and v.status.type == type_name
            for v in self.views.values()
        )

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.channel.close()

    async def scale(self, **quantities: int) -> None:
        changes = [
            pb.QuantityChange(type=name, kind=pb.QuantityChange.KIND_SET, quantity=quantity)
            for name, quantity in quantities.items()
        ]
        request = pb.ScaleRequest(app=APP, changes=changes, who="bench")
        ends_s = time.monotonic() + ROUND_S
        while True:
            try:
                await self.stub.Scale(request, timeout=5.0)
                return
            except grpc.aio.AioRpcError as error:
                if time.monotonic() > ends_s:
                    raise AssertionError(error.details()) from error


class Bench:
    def __init__(self, lab: Lab, rounds: int) -> None:
        self.lab, self.rounds = lab, rounds
        self.times: Times = {}
        self.stale_writes = 0

    def note(self, name: str, seconds: float) -> None:
        self.times.setdefault(name, []).append(seconds)
        print(f"… {name}: {seconds:.3f} s", file=sys.stderr, flush=True)

    async def prepare(self) -> None:
        async with self.watching(self.lab.coordinator_names[0]) as watcher:
            types = [
                types_pb2.ProcessType(name=name, command="sleep 100000", stop_grace_s=5.0)
                for name in ("web", "probe")
            ]
            request = pb.ApplyRequest(app=APP, types=types, formation={"web": 0, "probe": 0},
                                      who="bench", workdir="/")  # fmt: skip
            await watcher.stub.Apply(request)

    @contextlib.asynccontextmanager
    async def watching(self, name: str) -> AsyncIterator[Watcher]:
        watcher = Watcher(self.lab, name)
        try:
            yield watcher
        finally:
            await watcher.close()

    async def leader(self) -> str:
        ends_s = time.monotonic() + ROUND_S
        while time.monotonic() < ends_s:
            name = await asyncio.to_thread(self.lab.leader)
            if name:
                return name
            await asyncio.sleep(0.2)
        raise AssertionError("nobody leads")

    # ------------------------------------------------------------------ coordinators

    async def one_placement(self, watcher: Watcher, number: int) -> float:
        """From the call to the moment at which the new instance has its host."""
        began_s = time.monotonic()
        await watcher.scale(probe=number)
        return await watcher.until(lambda: watcher.placed("probe") == number) - began_s

    async def leader_ends(self, name: str, how: signal.Signals) -> None:
        """Next placement, asked of another coordinator at the same moment."""
        number = 0
        for _ in range(self.rounds):
            leader = await self.leader()
            other = next(c for c in self.lab.coordinator_names if c != leader)
            async with self.watching(other) as watcher:
                await watcher.scale(probe=number)
                await watcher.until(lambda n=number: watcher.placed("probe") == n)  # type: ignore[misc]
                number += 1
                self.note(f"{name}: floor, a placement", await self.one_placement(watcher, number))
                number += 1
                self.lab.signal(leader, how)
                self.note(name, await self.one_placement(watcher, number))
            await self._back(leader, how)
        async with self.watching(self.lab.coordinator_names[0]) as watcher:
            await watcher.scale(probe=0)
            await watcher.until(lambda: watcher.placed("probe") == 0)

    async def _back(self, leader: str, how: signal.Signals) -> None:
        if how is signal.SIGSTOP:
            self.lab.signal(leader, signal.SIGCONT)
        else:
            await asyncio.to_thread(self.lab.programs.pop(leader).wait)
            self.lab.again(leader)
        await asyncio.to_thread(self.lab.wait, lambda: self._serves(leader), what="it to be back")
        await asyncio.sleep(1.0)

    def _serves(self, name: str) -> bool:
        found = self.lab.formctl("version", "--coordinator", self.lab.address(name), check=False)
        return found.returncode == 0

    async def lease(self) -> None:
        """The floor of every death of a leader: when a lease of 3 s is gone that nobody renews."""
        store = EtcdStore(self.lab.etcd.split(","), prefix="/bench/")
        for _ in range(self.rounds):
            lease = await store.grant_lease(3)
            await store.commit([], [Put("floor", b"", lease)])
            await store.keep_lease(lease)
            began_s = time.monotonic()
            revision = (await store.ranges([Span.prefix("floor")])).revision
            async for batch in store.watch(Span.prefix("floor"), revision + 1):
                if any(event.value is None for event in batch.events):
                    break
            self.note("kill: floor, etcd's lease of 3 s", time.monotonic() - began_s)
        await store.close()

    async def watch_epochs(self) -> None:
        """For ever: counts documents that were written in an older epoch than one before."""
        store = EtcdStore(self.lab.etcd.split(","))
        highest = 0
        revision = (await store.ranges([Span.prefix("leader")])).revision
        while True:
            with contextlib.suppress(StoreError):
                async for batch in store.watch(Span.prefix(""), revision + 1):
                    revision = batch.revision
                    for event in batch.events:
                        if event.key == "leader" and event.value is not None:
                            highest = max(highest, event.value.create_revision)
                        if event.key.startswith("assignments/") and event.value is not None:
                            document = codec.decode(event.key, event.value.value)
                            self.stale_writes += getattr(document, "epoch", 0) < highest

    # ------------------------------------------------------------------ hosts

    async def host_cut(self, name: str, watcher: Watcher) -> None:
        """From the cut to all of its instances running elsewhere."""
        for turn in range(self.rounds):
            victim = self.lab.agent_names[turn % len(self.lab.agent_names)]
            await watcher.scale(web=6)
            await watcher.until(lambda: watcher.running("web") == 6 and len(watcher.views) == 6)
            began_s = time.monotonic()
            self.lab.network.isolate(victim)
            at_s = await watcher.until(lambda v=victim: watcher.running("web", without=v) == 6)  # type: ignore[misc]
            self.note(name, at_s - began_s)
            self.lab.network.heal(victim)
            await watcher.until(lambda: len(watcher.views) == 6 and watcher.running("web") == 6)
            await watcher.scale(web=0)
            await watcher.until(lambda: not watcher.views)

    async def keeper_killed(self) -> None:
        """From kill -9, with a restart at once as systemd does it, to its instances running."""
        async with self.watching(self.lab.coordinator_names[0]) as watcher:
            for turn in range(self.rounds):
                victim = self.lab.agent_names[turn % len(self.lab.agent_names)]
                await watcher.scale(web=6)
                await watcher.until(lambda: watcher.running("web") == 6)
                before = {v.status.pid for v in watcher.views.values() if v.host == victim}
                began_s = time.monotonic()
                self.lab.kill(victim)
                self.lab.again(victim)

                def runs_again(v: str = victim, old: frozenset[int] = frozenset(before)) -> bool:
                    here = [w for w in watcher.views.values() if w.host == v and not w.host_silent]
                    return len(here) == len(old) and all(
                        w.status.state in (HEALTHY, STARTING) and w.status.pid not in old
                        for w in here
                    )

                at_s = await watcher.until(runs_again)
                self.note("keeper", at_s - began_s)
                await watcher.scale(web=0)
                await watcher.until(lambda: not watcher.views)

    async def agent_starts(self) -> None:
        """The floor of a keeper's death: Python and gRPC have to be there."""
        for _ in range(self.rounds):
            began_s = time.monotonic()
            words = ("python", "-c", "import formation_agent.agent")
            python = [sys.executable, *words[1:]]
            await (await asyncio.create_subprocess_exec(*python)).wait()
            self.note("keeper: floor, imports of the brain", time.monotonic() - began_s)

    # ------------------------------------------------------------------ etcd

    async def etcd_lost(self) -> None:
        """The longest gap between two acknowledged changes when a member is killed, through our
        API; and, as the floor, between two bare writes at the same time."""
        for turn in range(2 * self.rounds):
            member = self.lab.etcd_leader() if turn % 2 == 0 else self.lab.etcds[turn % 3]
            done = asyncio.Event()
            store = EtcdStore(self.lab.etcd.split(","), prefix="/bench/")
            gaps = [
                asyncio.create_task(_longest_gap(done, partial(_bare_write, store))),
                asyncio.create_task(self._longest_change_gap(done)),
            ]
            await asyncio.sleep(1.0)
            self.lab.kill(member)
            await asyncio.sleep(6.0)
            done.set()
            bare_s, ours_s = await asyncio.gather(*gaps)
            kind = "etcd's leader" if turn % 2 == 0 else "a member of etcd"
            self.note(f"etcd: floor, bare writes ({kind})", bare_s)
            self.note(f"etcd ({kind} killed)", ours_s)
            self.lab.again(member)
            await store.close()
            await asyncio.sleep(3.0)

    async def _longest_change_gap(self, done: asyncio.Event) -> float:
        stubs = [Watcher(self.lab, name) for name in self.lab.coordinator_names]
        number = 0

        async def change() -> None:
            nonlocal number
            number += 1
            stub = stubs[number % len(stubs)].stub
            request = pb.SetHostRequest(
                host=self.lab.agent_names[0], labels={"turn": str(number)}, who="bench"
            )
            await stub.SetHost(request, timeout=5.0)

        try:
            return await _longest_gap(done, change)
        finally:
            for watcher in stubs:
                await watcher.close()


async def _bare_write(store: EtcdStore) -> None:
    await store.commit([], [Put("turn", b"")])


async def _longest_gap(done: asyncio.Event, write: Callable[[], Awaitable[None]]) -> float:
    last_s, longest_s = time.monotonic(), 0.0
    while not done.is_set():
        try:
            await write()
        except (StoreError, grpc.aio.AioRpcError):
            await asyncio.sleep(0.01)
            continue
        now_s = time.monotonic()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
        await asyncio.sleep(0.01)
    return longest_s


SECTIONS = ("stop", "kill", "freeze", "cut", "keeper", "etcd")


async def measure(only: Sequence[str], rounds: int) -> tuple[Times, int]:
    with Lab(coordinators=3, agents=3) as lab:
        bench = Bench(lab.up(), rounds)
        await bench.prepare()
        epochs = asyncio.create_task(bench.watch_epochs())
        if "stop" in only:
            await bench.leader_ends("stop", signal.SIGTERM)
        if "kill" in only or "freeze" in only:
            await bench.lease()
        if "kill" in only:
            await bench.leader_ends("kill", signal.SIGKILL)
        if "freeze" in only:
            await bench.leader_ends("freeze", signal.SIGSTOP)
        if "keeper" in only:
            await bench.agent_starts()
            await bench.keeper_killed()
        if "cut" in only:
            async with bench.watching("c1") as watcher:
                bench.note("cut, defaults: floor, replace_after", 5.0)
                await bench.host_cut("cut, defaults", watcher)
        if "etcd" in only:
            await bench.etcd_lost()
        epochs.cancel()
        await asyncio.gather(epochs, return_exceptions=True)
    if "cut" in only:
        with Lab(coordinators=3, agents=3, flags=("--replace-after", "1")) as lab:
            quick = Bench(lab.up(), rounds)
            quick.times = bench.times
            await quick.prepare()
            async with quick.watching("c1") as watcher:
                quick.note("cut, --replace-after 1: floor, replace_after", 1.0)
                await quick.host_cut("cut, --replace-after 1", watcher)
    return bench.times, bench.stale_writes


# What each of them is compared with.
FLOORS = {
    "stop": "stop: floor, a placement",
    "kill": "kill: floor, etcd's lease of 3 s",
    "freeze": "kill: floor, etcd's lease of 3 s",
    "keeper": "keeper: floor, imports of the brain",
    "cut, defaults": "cut, defaults: floor, replace_after",
    "cut, --replace-after 1": "cut, --replace-after 1: floor, replace_after",
    "etcd (etcd's leader killed)": "etcd: floor, bare writes (etcd's leader)",
    "etcd (a member of etcd killed)": "etcd: floor, bare writes (a member of etcd)",
}


def table(times: Times) -> str:
    lines = [f"{'':<46}{'n':>4}{'median':>9}{'p99':>9}{'worst':>9}  of the floor"]
    for name, found in times.items():
        ordered, median = sorted(found), statistics.median(found)
        p99 = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
        floor = times.get(FLOORS.get(name, ""))
        ratio = f"{median / statistics.median(floor):>8.2f}" if floor else ""
        lines.append(
            f"{name:<46}{len(found):>4}{median:>8.3f}s{p99:>8.3f}s{ordered[-1]:>8.3f}s{ratio}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Times of recovery; see docs/bench.md.")
    parser.add_argument("--only", default=",".join(SECTIONS), metavar="SECTION,…")
    parser.add_argument("--rounds", type=int, default=10, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    why = netns.missing()
    if why:
        sys.exit(f"failover.py: {why}")
    only = options.only.split(",")
    unknown = set(only) - set(SECTIONS)
    if unknown:
        sys.exit(f"failover.py: no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    times, stale = asyncio.run(measure(only, options.rounds))
    print(table(times))
    print(f"documents written by a leader that had been deposed: {stale}")
    if options.json:
        options.json.write_text(json.dumps({"times_s": times, "stale_writes": stale}, indent=1))


if __name__ == "__main__":
    main()
