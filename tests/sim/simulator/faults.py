"""What breaks, and how it heals. Each fault is one method; the dice choose."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from simulator.machines import BRAIN_BACK_S, Machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.simulation import Simulation


class Faults:
    def __init__(self, simulation: Simulation) -> None:
        self._sim = simulation
        self._dice = simulation.dice
        self._loop = simulation.loop
        self._later: dict[asyncio.TimerHandle, None] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._healed = False
        self._compacted = 0
        self._kinds: list[tuple[int, Callable[[], str]]] = [
            (12, self.crash_process),
            (6, self.crash_brain),
            (3, self.kill_keeper),
            (3, self.reboot),
            (2, self.stop_agent),
            (8, self.partition),
            (4, self.break_streams),
            (1, self.cut_off_most),
            (4, self.crash_coordinator),
            (2, self.stop_coordinator),
            (3, self.cut_store),
            (3, self.slow_store),
            (2, self.lose_answers),
            (2, self.store_down),
            (1, self.compact),
            (2, self.bad_machine),
            (2, self.full_disk),
        ]

    def one(self) -> None:
        weights = [weight for weight, _ in self._kinds]
        fault = self._dice.choices([kind for _, kind in self._kinds], weights)[0]
        said = fault()
        if said:
            self._sim.result.done[fault.__name__] += 1
            self._sim.trace.note("FAULT %s: %s", fault.__name__, said)

    def heal(self) -> None:
        """Everything works from here on; what is down comes up."""
        self._healed = True
        for timer in self._later:
            timer.cancel()
        self._later.clear()
        self._sim.store.unavailable = False
        self._sim.network.heal_all()
        for node in self._sim.nodes.values():
            node.link.cut, node.link.slow_s, node.link.lost = False, 0.0, 0.0
            if not node.up:
                node.start()
        for machine in self._sim.machines.values():
            machine.bad = machine.disk_full = False
            for process in list(machine.processes.values()):
                if process.behaves == "crash":
                    machine.crash(process)
            if not machine.up:
                machine.start()
            machine.start_brain()

    # -- in a while

    def _in(self, low_s: float, high_s: float, then: Callable[[], None]) -> None:
        def due() -> None:
            self._later.pop(handle, None)
            then()

        handle = self._loop.call_later(self._dice.uniform(low_s, high_s), due)
        self._later[handle] = None

    def _do(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._sim.failed)
        task.add_done_callback(self._tasks.discard)

    def _machine(self) -> Machine:
        return self._dice.choice(list(self._sim.machines.values()))

    def _node(self) -> Any:
        return self._dice.choice(list(self._sim.nodes.values()))

    # -- machines

    def crash_process(self) -> str:
        alive = list(self._sim.promises.alive.values())
        if not alive:
            return ""
        process = self._dice.choice(alive)
        self._sim.machines[process.host].crash(process)
        return process.key

    def crash_brain(self) -> str:
        machine = self._machine()
        if machine.brain is None or machine.ending:
            return ""
        machine.stop_brain()
        self._sim.network.break_host(machine.name, "the brain died")
        self._in(*BRAIN_BACK_S, machine.start_brain)
        return machine.name

    def _down(self, machine: Machine, low_s: float, high_s: float, why: str) -> str:
        if not machine.up or machine.ending:
            return ""
        machine.stop_keeper()
        self._sim.network.break_host(machine.name, why)
        self._in(low_s, high_s, lambda: None if machine.up else machine.start())
        return machine.name

    def kill_keeper(self) -> str:
        return self._down(self._machine(), 0.1, 1.0, "the agent was killed")

    def reboot(self) -> str:
        """Nobody is told: the streams are cut, not closed."""
        machine = self._machine()
        for node in self._sim.nodes.values():
            self._sim.network.cut(machine.name, node.address)
        said = self._down(machine, 1.0, 25.0, "the machine is gone")
        for node in self._sim.nodes.values():
            self._sim.network.heal(machine.name, node.address)
        return said

    def stop_agent(self) -> str:
        machine = self._machine()
        if machine.brain is None or machine.ending:
            return ""
        self._do(self._stopped_and_started(machine))
        return machine.name

    async def _stopped_and_started(self, machine: Machine) -> None:
        await machine.end()
        self._sim.network.break_host(machine.name, "the agent ended")
        await asyncio.sleep(0.0 if self._healed else self._dice.uniform(0.1, 15.0))
        if not machine.up:
            machine.start()

    def bad_machine(self) -> str:
        machine = self._machine()
        machine.bad = not machine.bad
        return f"{machine.name} {'crashes everything' if machine.bad else 'is good again'}"

    def full_disk(self) -> str:
        machine = self._machine()
        machine.disk_full = True

        def free() -> None:
            machine.disk_full = False

        self._in(0.5, 12.0, free)
        return machine.name

    # -- the network

    def partition(self) -> str:
        machine, nodes = self._machine(), list(self._sim.nodes.values())
        if self._dice.random() < 0.3:
            nodes = [self._dice.choice(nodes)]
        up, down = self._dice.choice([(True, True), (True, True), (True, False), (False, True)])
        for node in nodes:
            self._sim.network.cut(machine.name, node.address, up=up, down=down)

        def heal() -> None:
            for node in nodes:
                self._sim.network.heal(machine.name, node.address)

        self._in(0.3, self._dice.choice([4.0, 12.0, 45.0]), heal)
        return f"{machine.name} from {' '.join(n.name for n in nodes)}, up {up}, down {down}"

    def break_streams(self) -> str:
        machine = self._machine()
        self._sim.network.break_host(machine.name, "connection reset")
        return machine.name

    def cut_off_most(self) -> str:
        names = self._dice.sample(list(self._sim.machines), 3)
        for name in names:
            for node in self._sim.nodes.values():
                self._sim.network.cut(name, node.address)

        def heal() -> None:
            for name in names:
                for node in self._sim.nodes.values():
                    self._sim.network.heal(name, node.address)

        self._in(2.0, 40.0, heal)
        return " ".join(names)

    # -- coordinators and the store

    def crash_coordinator(self) -> str:
        node = self._node()
        if not node.up:
            return ""
        node.crash()
        self._in(0.2, 12.0, lambda: None if node.up else node.start())
        return str(node.name)

    def stop_coordinator(self) -> str:
        node = self._node()
        if not node.up:
            return ""
        self._do(self._stopped_node(node))
        return str(node.name)

    async def _stopped_node(self, node: Any) -> None:
        await node.stop()
        await asyncio.sleep(0.0 if self._healed else self._dice.uniform(0.1, 6.0))
        if not node.up:
            node.start()

    def cut_store(self) -> str:
        link = self._node().link
        link.cut = True

        def heal() -> None:
            link.cut = False

        self._in(0.2, self._dice.choice([2.0, 10.0]), heal)
        return "one coordinator"

    def slow_store(self) -> str:
        """What a leader has sent may come when it leads no more."""
        node = self._node()
        link = node.link
        link.slow_s = self._dice.choice([0.3, 2.0, 6.0])

        def heal() -> None:
            link.slow_s = 0.0
            self._sim.slowed()

        self._in(0.5, 8.0, heal)
        return f"{node.name}, up to {link.slow_s} s"

    def lose_answers(self) -> str:
        link = self._node().link
        link.lost = self._dice.choice([0.1, 0.5])

        def heal() -> None:
            link.lost = 0.0

        self._in(0.5, 8.0, heal)
        return f"{link.lost:.0%} of the writes"

    def store_down(self) -> str:
        store = self._sim.store
        store.unavailable = True

        def heal() -> None:
            store.unavailable = False

        self._in(0.1, self._dice.choice([1.0, 4.0, 20.0]), heal)
        return "all of it"

    def compact(self) -> str:
        store = self._sim.store
        if store.revision == self._compacted:
            return ""
        store.compact(store.revision)
        self._compacted = store.revision
        return f"at {store.revision}"
