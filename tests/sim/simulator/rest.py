"""Is all as it was asked for? What is not, in words. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from formation.model import App, Assignment, ProcessType
from formation_coordinator.world import World, is_current
from simulator.machines import Process


def is_run(uid: str) -> bool:
    return uid.startswith(("run.", "nightly.", "release."))


def missing(world: World, alive: Collection[Process], hosts: Collection[str]) -> Iterator[str]:
    """`alive`: every process there is; `hosts`: all that there should be."""
    for app in world.apps.values():
        yield from _of_app(world, alive, app)
    for name in hosts:
        if name not in world.hosts or not world.hosts[name].connected:
            yield f"{name} is silent"
    running = {process.uid for process in alive}
    for entry in world.hosts.values():
        for item in entry.assigned:
            if item.ending or not (item.run or item.uid in running):
                yield f"{item.uid} is listed on {entry.name}"
    if world.rebalance is not None:
        yield "a rebalance is not over"


def _of_app(world: World, alive: Collection[Process], app: App) -> Iterator[str]:
    release = world.current_release(app)
    if app.candidate is not None:
        yield f"{app.name}: v{app.candidate.release} waits for its release command"
    if app.release != app.stable_release:
        yield f"{app.name}: v{app.release} has not arrived"
    for spec in release.types if release else ():
        if spec.schedule is None:
            slot = app.name, spec.name
            running = [p for p in alive if (p.slot.app, p.slot.type) == slot]
            yield from _of_type(world, app, spec, running)


def _of_type(
    world: World, app: App, spec: ProcessType, running: Sequence[Process]
) -> Iterator[str]:
    wanted = _wanted(world, app, spec)
    if len(running) != wanted:
        yield f"{len(running)} of {wanted} {spec.name} run"
    by_uid = {item.uid: item for entry in world.hosts.values() for item in entry.assigned}
    for process in running:
        if why := _wrong(world, process, by_uid.get(process.uid)):
            yield f"{process.uid} {why}"


def _wrong(world: World, process: Process, item: Assignment | None) -> str:
    if item is None:
        return "runs and is not wanted"
    if item.surge or item.ending or not is_current(world, item):
        return "is still there"
    return "" if process.behaves == "well" else "runs what does not work"


def _wanted(world: World, app: App, spec: ProcessType) -> int:
    quantity = app.formation.get(spec.name, 0)
    if not spec.per_host:
        return quantity
    fitting = [
        entry
        for entry in world.hosts.values()
        if not entry.cordoned and all(one.allows(entry.labels) for one in spec.where.require)
    ]
    return quantity * len(fitting)
