"""What happens after all is at rest: one thing in each history, so that it is surely looked at."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from formation.model import Assignment
from formation_coordinator.world import is_current
from simulator.machines import Machine
from simulator.rest import is_run

if TYPE_CHECKING:
    from simulator.nodes import Node
    from simulator.simulation import Simulation

# Longer than the lease and what is waited for a silent host.
_ALONE_S = 40.0
_CHANGES = 3
_LOOKED_AT_S = 30.0


class Endings:
    def __init__(self, sim: Simulation) -> None:
        self._sim = sim

    async def one(self) -> None:
        endings = (self.bad_machine, self.restart, self.reboot_alone)
        await endings[self._sim.result.seed % len(endings)]()

    async def put_back(self) -> None:
        """etcd goes back to what it was; nothing stops for it until an operator has looked."""
        sim = self._sim
        sim.machines["a"].bad = False
        await sim.comes_to_rest()
        earlier = sim.store.backup()
        for _ in range(_CHANGES):
            await sim.commands.change_surely()
        await sim.comes_to_rest()
        if sim.promises.broken:
            return
        before = self._lasting()
        sim.trace.note("etcd is put back to revision %d", earlier.revision)
        sim.store.restore(earlier)
        sim.promises.put_back(earlier)
        await asyncio.sleep(_LOOKED_AT_S)
        if gone := before - self._lasting():
            sim.promises.fail(f"etcd was put back, and for that {sorted(gone)} ended")
        await sim.commands.confirm()
        await sim.comes_to_rest()

    def _lasting(self) -> set[str]:
        alive = self._sim.promises.alive.values()
        return {process.uid for process in alive if not is_run(process.uid)}

    async def bad_machine(self) -> None:
        """Where everything crashes nothing stays but what every host has; it works elsewhere."""
        machine = self._sim.machines["a"]
        self._sim.trace.note("on a everything crashes")
        machine.bad = True
        for process in list(machine.processes.values()):
            machine.crash(process)
        await self._sim.until_none(self._left_on_a, "is still on a, where everything crashes")

    def _left_on_a(self) -> list[str]:
        here = self._sim.promises.truth.hosts["a"].assigned
        return [item.uid for item in here if not item.run and self._may_go_elsewhere(item)]

    def _may_go_elsewhere(self, item: Assignment) -> bool:
        truth = self._sim.promises.truth
        release = truth.current_release(truth.apps[item.slot.app])
        spec = release.type_named(item.slot.type) if release else None
        if spec is None or spec.per_host:
            return False
        others = [entry.labels for name, entry in truth.hosts.items() if name != "a"]
        return any(all(one.allows(labels) for one in spec.where.require) for labels in others)

    async def restart(self) -> None:
        """All is replaced, and nothing goes short meanwhile."""
        for name in sorted({item.slot.type for item in self._stays()}):
            await self._sim.commands.restart_all(name)
        await self._sim.until_none(self._not_restarted, "was not restarted")
        await self._sim.comes_to_rest()

    def _not_restarted(self) -> list[str]:
        truth = self._sim.promises.truth
        return [item.uid for item in self._stays() if not is_current(truth, item)]

    def _stays(self) -> list[Assignment]:
        hosts = self._sim.promises.truth.hosts.values()
        return [item for entry in hosts for item in entry.assigned if not item.run]

    async def reboot_alone(self) -> None:
        """A machine that hears nobody starts again; others run by then what is exclusive."""
        machine = self._of_exclusive()
        self._sim.trace.note("%s is alone", machine.name)
        nodes: list[Node] = list(self._sim.nodes.values())
        for node in nodes:
            self._sim.network.cut(machine.name, node.address)
        await asyncio.sleep(_ALONE_S)
        machine.stop_keeper()
        machine.start()
        await asyncio.sleep(_ALONE_S)
        for node in nodes:
            self._sim.network.heal(machine.name, node.address)
        await self._sim.comes_to_rest()

    def _of_exclusive(self) -> Machine:
        machines = self._sim.machines.values()
        having = (m for m in machines if any(p.exclusive for p in m.processes.values()))
        return next(having, self._sim.machines["b"])
