"""One history: a cluster is made, things break and people ask for things, then all heals.

Safety is looked at all the while (`promises`); liveness at the end: within a bound all that is
wanted works, and nothing more is written.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from formation_coordinator.world import World
from simulator import apps, rest
from simulator.autoscaling import Number
from simulator.commands import MOST, Commands
from simulator.endings import Endings
from simulator.faults import Faults
from simulator.machines import Machine
from simulator.nodes import Etcd, Node
from simulator.promises import Promises
from simulator.virtual import BEGINS_S, Trace
from simulator.wires import Network

HOSTS = ("a", "b", "c", "d", "e")
NODES = ("c1", "c2")
# Between two things that the dice decide.
PAUSE_S = (0.02, 0.25, 1.5)
# Longer than everything that may be waited for: leases, silence, back-off, deadlines of changes.
HEALED_WITHIN_S = 240.0
QUIET_S = 12.0
LAG_S = 2.5


@dataclass(slots=True)
class Result:
    """`steps`: messages delivered, things that happened to processes, writes, faults, commands."""

    seed: int
    steps: int = 0
    virtual_s: float = 0.0
    digest: str = ""
    broken: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)


class Simulation:
    def __init__(self, seed: int, trace: Trace, result: Result, *, autoscale: bool = False) -> None:
        self.dice = random.Random(seed)
        self.trace, self.result, self.autoscale = trace, result, autoscale
        self.loop = asyncio.get_running_loop()
        self.promises = Promises(trace, self.view_of, self.lag_s)
        self.store = Etcd(self.loop.time, self.written)
        self.network = Network(self.dice, self.count)
        self.nodes = {name: self._node(name) for name in NODES}
        self.machines = {name: self._machine(name, i) for i, name in enumerate(HOSTS)}
        self.types = {"shop": apps.chosen(self.dice)}
        self.faults = Faults(self)
        self.commands = Commands(self)
        self._slow_until_s = 0.0

    def _node(self, name: str) -> Node:
        node = Node(
            name,
            store=self.store,
            network=self.network,
            dice=self.dice,
            failed=self.failed,
            metric=Number(self.dice, MOST["web"]) if self.autoscale else None,
        )
        node.others = lambda: [other for other in self.nodes.values() if other is not node]
        return node

    def _machine(self, name: str, index: int) -> Machine:
        labels = {"zone": f"z{index % 2}", "rack": f"r{index % 3}"}
        if name == "e":
            labels["gpu"] = "yes"
        return Machine(
            name,
            labels=labels,
            dice=self.dice,
            watcher=self.promises,
            dial=self.network.dial(name),
            coordinators=tuple(f"{node}:7100" for node in NODES),
            failed=self.failed,
        )

    # -- what others ask for

    def count(self) -> None:
        self.result.steps += 1

    def written(self, events: Any) -> None:
        self.result.steps += 1
        self.promises.written(events)

    def failed(self, task: asyncio.Task[Any]) -> None:
        """A task of a program ended that never should."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.promises.fail(f"{task.get_coro()} failed: {error!r}")

    def view_of(self, epoch: int) -> World | None:
        for node in self.nodes.values():
            if node.service is not None and node.service.election.epoch == epoch:
                return node.service.live.world
        return None

    def lag_s(self) -> float:
        slow_s = max(node.link.slow_s for node in self.nodes.values())
        lately = self.loop.time() < self._slow_until_s
        return LAG_S + (4 * slow_s if slow_s else 30.0 if lately else 0.0)

    def slowed(self) -> None:
        """Of what was sent while a link was slow some is under way for a while."""
        self._slow_until_s = self.loop.time() + 10.0

    # -- the story

    async def run(self, steps: int) -> None:
        try:
            await self._begin()
            for _ in range(steps):
                await asyncio.sleep(self.dice.uniform(0.0, self.dice.choice(PAUSE_S)))
                self.result.steps += 1
                self._something()
                if self.promises.broken or self.trace.errors:
                    return
            await self._heal()
        finally:
            self.result.virtual_s = self.loop.time() - BEGINS_S
            self.result.digest = self.trace.digest()
            self.result.done["autoscaled"] += self.promises.autoscaled
            self.trace.over = True
            self.result.broken = [*self.promises.broken, *self.trace.errors]

    async def _begin(self) -> None:
        self.loop.set_exception_handler(self._unheard)
        for node in self.nodes.values():
            node.start()
        for machine in self.machines.values():
            machine.start()
        await self._until(lambda: self._leading() is not None, 20.0, "nobody leads")
        await self.commands.found()

    def _unheard(self, _loop: object, context: Mapping[str, Any]) -> None:
        error = context.get("exception")
        if error is not None:  # what a program that died had begun is forgotten with it
            self.promises.fail(f"{context.get('message')}: {error!r}")

    def _something(self) -> None:
        if self.dice.random() < 0.45:
            self.commands.one()
        else:
            self.faults.one()

    def _leading(self) -> Node | None:
        return next((node for node in self.nodes.values() if node.leads), None)

    async def _until(self, condition: Any, within_s: float, otherwise: str) -> None:
        ends_s = self.loop.time() + within_s
        while not condition():
            if self.loop.time() > ends_s:
                self.promises.fail(otherwise)
                return
            await asyncio.sleep(0.2)

    # -- the end

    async def _heal(self) -> None:
        self.trace.note("all heals")
        await self.commands.at_rest()
        self.faults.heal()
        await self.commands.clear_the_way()
        await self.comes_to_rest()
        if not self.promises.broken:
            await self._stays_quiet()
        if not self.promises.broken:
            await Endings(self).one()
        if not self.promises.broken:
            await Endings(self).put_back()

    async def comes_to_rest(self) -> None:
        await self.until_none(self._missing, "")

    def _missing(self) -> list[str]:
        return list(rest.missing(self.promises.truth, self.promises.alive.values(), self.machines))

    async def until_none(self, left: Callable[[], list[str]], what: str) -> None:
        ends_s = self.loop.time() + HEALED_WITHIN_S
        await asyncio.sleep(0.5)
        while (found := left()) and not self.promises.broken:
            if self.loop.time() > ends_s:
                said = "; ".join(f"{one} {what}".strip() for one in found[:4])
                self.promises.fail(f"not at rest in {HEALED_WITHIN_S:g} s: {said}")
                return
            await asyncio.sleep(0.5)

    async def _stays_quiet(self) -> None:
        """Nothing is moved without need: but for schedules, no document changes any more."""
        before = {name: e.document for name, e in self.promises.truth.hosts.items()}
        running = {p.uid for p in self.promises.alive.values() if not rest.is_run(p.uid)}
        await asyncio.sleep(QUIET_S)
        after = {p.uid for p in self.promises.alive.values() if not rest.is_run(p.uid)}
        if running != after:
            self.promises.fail(f"at rest, and {sorted(running ^ after)} came or went")
        for name, entry in self.promises.truth.hosts.items():
            was, now = before.get(name), entry.document
            lasting = [
                [item for item in document.instances if not item.run] if document else []
                for document in (was, now)
            ]
            if lasting[0] != lasting[1]:
                both = set(map(str, lasting[0])) ^ set(map(str, lasting[1]))
                self.promises.fail(f"at rest, and the document of {name} changed: {sorted(both)}")
