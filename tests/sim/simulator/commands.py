"""What people ask for, by the rooms that serve them; how many were taken, refused, uncertain."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from formation.requests import ChangeKind, QuantityChange
from formation.runtime import monotonic_s, new_id, now_ms
from formation_coordinator import timeline
from formation_coordinator.changing import ControlError
from formation_coordinator.control import Control
from formation_coordinator.control_hosts import HostControl, HostWord
from formation_coordinator.control_releases import ReleaseControl, Steering
from formation_coordinator.control_runs import RunControl
from formation_coordinator.control_store import StoreControl
from formation_coordinator.planning import Planning
from formation_coordinator.store.base import StoreError
from simulator import apps, autoscaling

if TYPE_CHECKING:
    from simulator.nodes import Node
    from simulator.simulation import Simulation

APP = "shop"
WHO = "ann"
# So many always fit, whatever else is there.
MOST = {"web": 6, "api": 4, "worker": 2, "leader": 3, "everywhere": 2, "heavy": 2, "pinned": 2}
_TRIES = 60
# So many releases have a release command.
COMMANDS_SHARE = 0.4


class Commands:
    def __init__(self, simulation: Simulation) -> None:
        self._sim = simulation
        self._dice = simulation.dice
        self._tasks: set[asyncio.Task[Any]] = set()
        self._releases = 1
        self._kinds: list[tuple[int, Callable[[Node], Awaitable[Any]]]] = [
            (10, self.scale),
            (1, self.undo),
            (7, self.apply_good),
            (3, self.apply_bad),
            (2, self.apply_stopped),
            (3, self.canary),
            (3, self.steer),
            (2, self.rollback),
            (2, self.config),
            (5, self.restart),
            (3, self.retry),
            (4, self.cordon),
            (4, self.drain),
            (5, self.uncordon),
            (2, self.label),
            (1, self.forget),
            (4, self.run_once),
            (2, self.cancel),
            (2, self.rebalance),
        ]
        if simulation.autoscale:
            self._kinds += [(4, self.autoscale), (1, self.autoscale_off)]

    def one(self) -> None:
        command = self._dice.choices([kind for _, kind in self._kinds], [w for w, _ in self._kinds])
        node = self._dice.choice(list(self._sim.nodes.values()))
        if node.service is not None:
            self._start(command[0], node)

    def _start(self, command: Callable[[Node], Awaitable[Any]], node: Node) -> None:
        task = asyncio.create_task(self._carry_out(command, node))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._sim.failed)

    async def _carry_out(self, command: Callable[[Node], Awaitable[Any]], node: Node) -> bool:
        name = getattr(command, "__name__", str(command))
        note, done = self._sim.trace.note, self._sim.result.done
        try:
            said = await command(node)
        except (ControlError, StoreError) as error:
            note("COMMAND %s: %s", name, error)
            done[f"{name} refused"] += 1
            return False
        if said != "":
            note("COMMAND %s: %s", name, said or "done")
            done[name] += 1
        return True

    async def at_rest(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    # -- the beginning and the end

    async def found(self) -> None:
        await self._surely(self.apply_good)

    async def clear_the_way(self) -> None:
        """What people would do who want it all to work again."""

        async def uncordon_all(node: Node) -> str:
            for name, entry in sorted(self._sim.promises.truth.hosts.items()):
                if entry.host is not None:
                    await self._set_host(node, name, HostWord(draining=False, cordoned=False))
            return "all hosts"

        async def autoscale_nothing(node: Node) -> str:
            if self._sim.promises.truth.autoscale:
                await autoscaling.end(node.link, APP, WHO)
            return ""

        if self._sim.autoscale:
            await self._surely(autoscale_nothing)
        await self._surely(uncordon_all)
        await self._surely(self.apply_good)

    async def change_surely(self) -> None:
        """Of an app that has no other change under way."""
        if self._dice.random() < 0.25:
            hosts = self._sim.promises.truth.hosts.values()
            there = {item.slot.type for e in hosts for item in e.assigned if not item.run}
            for name in sorted(there)[:1]:
                await self.restart_all(name)
        else:
            await self._surely(self._dice.choice((self.scale, self.scale, self.apply_good)))

    async def confirm(self) -> None:
        """The operator's word, if it is waited for."""

        async def confirm_all(node: Node) -> str:
            assert node.service is not None
            world = node.service.live.world
            if not timeline.held_now(world):
                return ""
            self._sim.promises.confirming = True
            room = StoreControl(**self._shell(node))
            epoch, _ = await room.confirm(world, WHO, "", now_s=monotonic_s())
            return f"epoch {epoch}"

        await self._surely(confirm_all)

    async def restart_all(self, name: str) -> None:
        async def restart_type(node: Node) -> str:
            assert node.service is not None
            await self._apps(node).restart(APP, name, 0, WHO, node.service.live.world)
            return name

        await self._surely(restart_type)

    async def _surely(self, command: Callable[[Node], Awaitable[Any]]) -> None:
        for _ in range(_TRIES):
            node = self._dice.choice(list(self._sim.nodes.values()))
            if node.service is not None and await self._carry_out(command, node):
                return
            await asyncio.sleep(0.5)
        self._sim.promises.fail(f"{command.__name__} was not taken {_TRIES} times")

    # -- rooms

    def _shell(self, node: Node) -> dict[str, Any]:
        return {"store": node.link, "now_ms": now_ms, "new_id": new_id}

    def _apps(self, node: Node) -> Control:
        return Control(**self._shell(node))

    def _of_releases(self, node: Node) -> ReleaseControl:
        return ReleaseControl(**self._shell(node))

    async def _meanwhile(self, counters: list[Counter[str]], work: Awaitable[Any]) -> Any:
        """While it is under way, and a moment longer, what it asks for may become true."""
        for counter in counters:
            counter[APP] += 1
        try:
            return await work
        finally:
            for counter in counters:
                counter[APP] -= 1

    def _type(self) -> str:
        return self._dice.choice([t.name for t in self._sim.types[APP] if t.schedule is None])

    # -- commands: "" for nothing to do

    async def scale(self, node: Node) -> str:
        name = self._type()
        kind = self._dice.choice(list(ChangeKind))
        number = self._dice.randint(0, MOST[name]) if kind is ChangeKind.SET else 1
        app = self._sim.promises.truth.apps.get(APP)
        now = app.formation.get(name, 0) if app else 0
        if kind is ChangeKind.ADD and now >= MOST[name] - 1:
            return ""
        change = QuantityChange(type=name, kind=kind, quantity=number)
        work = self._apps(node).scale(APP, [change], WHO)
        await self._meanwhile([self._sim.promises.scaling], work)
        return f"{name}{kind.value}{number}"

    async def autoscale(self, node: Node) -> str:
        return await autoscaling.begin(node.link, APP, MOST["web"], self._dice, WHO)

    async def autoscale_off(self, node: Node) -> str:
        return await autoscaling.end(node.link, APP, WHO)

    async def undo(self, node: Node) -> str:
        work = self._apps(node).undo_scale(APP, WHO)
        await self._meanwhile([self._sim.promises.scaling], work)
        return "scale"

    async def _apply(
        self, node: Node, behaves: str, canary: int = 0, command: str | None = None
    ) -> str:
        """`command` None: sometimes one that passes."""
        self._releases += 1
        if command is None:
            command = "job" if self._dice.random() < COMMANDS_SHARE else ""
        wanted = apps.release(APP, self._sim.types[APP], self._releases, behaves, command)
        work = self._apps(node).apply(wanted, {}, WHO, canary=canary)
        applied = await self._meanwhile([self._sim.promises.releasing], work)
        said = f"v{applied.release.number}, {behaves}, canary {canary}"
        return said + (f", release command: {command}" if command else "")

    async def apply_good(self, node: Node) -> str:
        return await self._apply(node, "well")

    async def apply_bad(self, node: Node) -> str:
        return await self._apply(node, self._dice.choice(["crash", "deaf"]))

    async def apply_stopped(self, node: Node) -> str:
        """Its release command fails, or runs on and on."""
        return await self._apply(node, "well", command=self._dice.choice(["crash", "well"]))

    async def canary(self, node: Node) -> str:
        return await self._apply(node, "well", self._dice.randint(1, 2))

    async def steer(self, node: Node) -> str:
        how = self._dice.choice(list(Steering))
        work = self._of_releases(node).steer(APP, how, WHO)
        await self._meanwhile([self._sim.promises.releasing], work)
        return how.name.lower()

    async def rollback(self, node: Node) -> str:
        work = self._of_releases(node).rollback(APP, 0, WHO)
        await self._meanwhile([self._sim.promises.releasing], work)
        return "to the one before"

    async def config(self, node: Node) -> str:
        values = {"LEVEL": str(self._dice.randint(1, 9))}
        work = self._of_releases(node).set_config(APP, values, (), WHO)
        await self._meanwhile([self._sim.promises.releasing], work)
        return str(values)

    async def restart(self, node: Node) -> str:
        assert node.service is not None
        name = self._type()
        ordinal = self._dice.choice([0, 1, 2])
        await self._apps(node).restart(APP, name, ordinal, WHO, node.service.live.world)
        return f"{name}.{ordinal}"

    async def retry(self, node: Node) -> str:
        assert node.service is not None
        name = self._type()
        await self._apps(node).retry(APP, name, 0, WHO, node.service.live.world)
        return name

    async def _set_host(self, node: Node, name: str, word: HostWord) -> str:
        await HostControl(**self._shell(node)).set_host(name, word, WHO)
        return f"{name} {word}"

    def _host(self) -> str:
        return self._dice.choice(list(self._sim.machines))

    async def cordon(self, node: Node) -> str:
        return await self._set_host(node, self._host(), HostWord(cordoned=True))

    async def drain(self, node: Node) -> str:
        deadline_s = self._dice.choice([0.0, 0.0, 3.0])
        word = HostWord(draining=True, drain_deadline_s=deadline_s)
        return await self._set_host(node, self._host(), word)

    async def uncordon(self, node: Node) -> str:
        return await self._set_host(node, self._host(), HostWord(draining=False, cordoned=False))

    async def label(self, node: Node) -> str:
        gpu = self._dice.choice(["", "yes"])
        return await self._set_host(node, self._host(), HostWord(labels={"gpu": gpu}))

    async def forget(self, node: Node) -> str:
        truth = self._sim.promises.truth
        silent = [e.name for e in truth.hosts.values() if not e.connected and e.host is not None]
        if not silent:
            return ""
        name = self._dice.choice(sorted(silent))
        assert node.service is not None
        world = node.service.live.world
        await HostControl(**self._shell(node)).forget_host(name, WHO, world)
        return name

    async def run_once(self, node: Node) -> str:
        run, _ = await RunControl(**self._shell(node)).start(APP, "nightly", "true", WHO)
        return run.id

    async def cancel(self, node: Node) -> str:
        runs = sorted(run for app, run in self._sim.promises.truth.runs if app == APP)
        if not runs:
            return ""
        name = self._dice.choice(runs)
        await RunControl(**self._shell(node)).cancel(APP, name, WHO)
        return name

    async def rebalance(self, node: Node) -> str:
        assert node.service is not None
        plans = Planning(node.service.live, clock=monotonic_s, now_ms=now_ms, replace_after_s=5.0)
        found = await plans.balanced("", 3)
        if not found.moves:
            return ""
        await HostControl(**self._shell(node)).rebalance(found.moves, WHO)
        return " ".join(f"{m.slot.short} {m.from_host}->{m.to_host}" for m in found.moves)
