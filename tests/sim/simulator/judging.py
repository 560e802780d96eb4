"""Was a document's change right? Written without the leader's code, from the rules as users know
them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from formation.model import App, Assignment, InstanceState, ProcessType
from formation.requests import RunState
from formation.running import spec_of
from formation_coordinator.world import BRAKE_HOSTS_MIN, HostEntry, World, is_current, is_over
from simulator.machines import Process

_OPEN = (RunState.PENDING, RunState.PLACED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Eyes:
    """`before`, `after`: the store around the write; `lately`: as it was when the leader may have
    planned; `view`: what it saw, None when that is not known. `by_uid`: the last process of each
    stay. Times are the loop's."""

    before: World
    after: World
    lately: Sequence[World]
    view: World | None
    by_uid: Mapping[str, Process]
    worked_until_s: Mapping[str, float]
    silent_since_s: Mapping[str, float]
    cordoned_since_s: Mapping[str, float]
    now_s: float
    lag_s: float

    def runs(self, item: Assignment) -> bool:
        process = self.by_uid.get(item.uid)
        return process is not None and process.alive

    def worked_lately(self, item: Assignment) -> bool:
        """By the truth, or by what the leader could still believe."""
        process = self.by_uid.get(item.uid)
        if process is not None and process.alive and process.behaves == "well":
            return True
        until_s = self.worked_until_s.get(item.uid)
        lately = until_s is not None and self.now_s - until_s <= self.lag_s
        return lately or self.seen_healthy(item)

    def seen_healthy(self, item: Assignment) -> bool:
        return any(
            status.uid == item.uid and status.state is InstanceState.HEALTHY
            for entry in (self.view or self.before).hosts.values()
            if entry.status is not None
            for status in entry.status.instances
        )


def stays_of(world: World, app: str, type_name: str) -> Iterator[tuple[HostEntry, Assignment]]:
    for entry in world.hosts.values():
        for item in entry.assigned:
            if (item.slot.app, item.slot.type) == (app, type_name):
                yield entry, item


# -- removals --------------------------------------------------------------------------------------


def faults_of_removal(eyes: Eyes, host: str, item: Assignment) -> Iterator[str]:
    """Of what a document lists no longer, or as ending."""
    if not eyes.runs(item):
        return
    why = _reason(eyes, eyes.after, host, item)
    if not why:
        why = next((w for world in eyes.lately if (w := _reason(eyes, world, host, item))), "")
    if not why:
        yield f"{item.uid} runs on {host}, and was given up without a reason"
    elif why == "changed":
        yield from _budget(eyes, host, item)


def _spec(world: World, item: Assignment) -> ProcessType | None:
    app = world.apps.get(item.slot.app)
    release = world.current_release(app) if app else None
    return release.type_named(item.slot.type) if release else None


def _reason(eyes: Eyes, world: World, host: str, item: Assignment) -> str:
    """Why what runs may be given up, by the store's word; "" when it may not."""
    return next(_reasons(eyes, world, host, item), "")


def _reasons(eyes: Eyes, world: World, host: str, item: Assignment) -> Iterator[str]:
    app, spec = world.apps.get(item.slot.app), _spec(world, item)
    entry = world.hosts.get(host)
    if entry is None or entry.host is None:
        yield "its host was forgotten"
    elif item.run:
        run = world.runs.get((item.slot.app, item.run))
        if run is None or run.state not in _OPEN or app is None:
            yield "the run is over"
    elif app is None or spec is None or spec.schedule:
        yield "nobody wants the type"
    else:
        if item.surge or _are_too_many(eyes, app, spec):
            yield "too many"
        if _elsewhere(eyes, item):
            yield "another copy works"
        if not is_current(world, item):
            yield "changed"
        yield from _host_reasons(eyes, world, entry, item, spec)


def _are_too_many(eyes: Eyes, app: App, spec: ProcessType) -> bool:
    """Which of them goes is the leader's choice."""
    slots = {
        item.slot
        for entry in eyes.before.hosts.values()
        for item in entry.assigned
        if (item.slot.app, item.slot.type) == (app.name, spec.name) and not item.surge
    }
    return len(slots) > app.formation.get(spec.name, 0)


def _elsewhere(eyes: Eyes, item: Assignment) -> bool:
    """Which of two that work stays, and is then replaced perhaps, is the leader's choice."""
    return any(
        other.slot == item.slot and other.uid != item.uid and eyes.worked_lately(other)
        for world in (eyes.before, eyes.after)
        for _, other in stays_of(world, item.slot.app, item.slot.type)
    )


def _host_reasons(
    eyes: Eyes, world: World, entry: HostEntry, item: Assignment, spec: ProcessType
) -> Iterator[str]:
    if entry.status is None or entry.status.departed:
        yield "the host said goodbye"
    if not all(one.allows(entry.labels) for one in spec.where.require):
        yield "the host does not fit"
    if spec.per_host and entry.cordoned:
        yield "the host takes none"
    if entry.draining and (spec.exclusive or _is_late(entry, eyes)):
        yield "the host is drained"  # others go when they work elsewhere
    said = entry.status.instances if entry.status else ()
    status = next((one for one in said if one.uid == item.uid), None)
    if is_over(status) or (status is not None and status.crash_looping):
        yield "it cannot work here"
    if world.rebalance and any(move.slot == item.slot for move in world.rebalance.moves):
        yield "it is moved"
    if spec.exclusive and entry.name in eyes.silent_since_s:
        yield "its host was lost, and its lease is over"


def _is_late(entry: HostEntry, eyes: Eyes) -> bool:
    since_s, host = entry.draining_since_s, entry.host
    if since_s is None or host is None or not host.drain_deadline_s:
        return False
    return eyes.now_s - since_s >= host.drain_deadline_s


def _budget(eyes: Eyes, host: str, item: Assignment) -> Iterator[str]:
    """A change takes away only what may be missing."""
    app, spec = eyes.after.apps[item.slot.app], _spec(eyes.after, item)
    entry = eyes.after.hosts.get(host)
    if spec is None or spec.per_host or entry is None or not entry.connected or entry.draining:
        return
    seen = (eyes.view or eyes.after).hosts.get(host, entry)
    since_s = seen.healthy_since_s.get(item.uid)
    if not eyes.seen_healthy(item) or (since_s is not None and eyes.now_s - since_s < eyes.lag_s):
        return
    if f"{spec.name}.{item.slot.ordinal}" in app.restart_marks:
        return  # it was named, which is done whatever the numbers say
    known = [w.apps[app.name] for w in (eyes.after, *eyes.lately) if app.name in w.apps]
    quantity = min(one.formation.get(spec.name, 0) for one in known)
    least = quantity - spec.rollout.unavailable.of(quantity)
    working = {
        other.slot.ordinal
        for where, other in stays_of(eyes.after, app.name, spec.name)
        if not other.ending and eyes.worked_lately(other)
    }
    if len(working) < least:
        yield f"{item.uid} was replaced while {len(working)} of {quantity} work, not {least}"


# -- additions -------------------------------------------------------------------------------------


def faults_of_addition(eyes: Eyes, host: str, item: Assignment) -> Iterator[str]:
    entry = eyes.after.hosts[host]
    app = eyes.after.apps.get(item.slot.app)
    release = eyes.after.releases.get((item.slot.app, item.release))
    spec = spec_of(release, item)
    if app is None or spec is None:
        return  # deleted meanwhile
    since_s = eyes.cordoned_since_s.get(host)
    was_here = any(old.slot == item.slot for old in eyes.before.hosts[host].assigned)
    if since_s is not None and eyes.now_s - since_s > eyes.lag_s and not was_here:
        yield f"{item.uid} was placed on {host}, which takes nothing new"
    silent_s = eyes.silent_since_s.get(host)
    if silent_s is not None and eyes.now_s - silent_s > eyes.lag_s:
        yield f"{item.uid} was placed on {host}, which is silent"
    if item.after_loss:
        yield from _brake(eyes, item)
    yield from _place(eyes, entry, app, spec, item)


def _brake(eyes: Eyes, item: Assignment) -> Iterator[str]:
    """Silent hosts whose instances were all replaced, or that said goodbye, do not count."""
    lost = eyes.before.hosts.get(item.moved_from)
    if lost is not None and lost.status is not None and lost.status.departed:
        return  # that one said goodbye
    heard = sum(entry.connected for entry in eyes.after.hosts.values())
    silent = [entry for entry in eyes.before.hosts.values() if _long_silent(eyes, entry)]
    if len(silent) >= BRAKE_HOSTS_MIN and len(silent) > heard:
        yield f"{item.uid} replaces a lost one, {len(silent)} hosts are silent and {heard} heard"


def _long_silent(eyes: Eyes, entry: HostEntry) -> bool:
    since_s = eyes.silent_since_s.get(entry.name)
    long = since_s is not None and eyes.now_s - since_s > eyes.lag_s
    return long and bool(entry.assigned) and not (entry.status and entry.status.departed)


def _place(
    eyes: Eyes, entry: HostEntry, app: App, spec: ProcessType, item: Assignment
) -> Iterator[str]:
    view = (eyes.view or eyes.after).hosts.get(entry.name, entry)
    seen = [world.hosts[entry.name] for world in eyes.lately if entry.name in world.hosts]
    for one in spec.where.require:
        if not any(one.allows(known.labels) for known in (view, *seen)):
            yield f"{item.uid} was placed on {entry.name}, whose labels are {view.labels}"
    same = [other for other in entry.assigned if other.slot.type == spec.name]
    if spec.port and len([other for other in same if not other.ending]) > 1:
        yield f"{entry.name} has two of {spec.name} for port {spec.port}"
    if spec.where.max_per_host and len(same) > spec.where.max_per_host:
        yield f"{entry.name} has {len(same)} of {spec.name}, at most {spec.where.max_per_host}"
    apart = {name for name in spec.where.apart_from if "/" not in name}
    beside = [o.uid for o in entry.assigned if o.slot.app == app.name and o.slot.type in apart]
    if beside:
        yield f"{item.uid} was placed beside {beside[0]}, which it shall be apart from"
    yield from _capacity(eyes, entry, view)


def _capacity(eyes: Eyes, entry: HostEntry, view: HostEntry) -> Iterator[str]:
    capacity = view.status.capacity if view.status else None
    if capacity is None or not capacity.memory_bytes:
        return
    kept = 0
    for other in entry.assigned:
        spec = spec_of(eyes.after.releases.get((other.slot.app, other.release)), other)
        kept += spec.resources.memory_bytes if spec else 0
    if kept > capacity.memory_bytes:
        yield f"{entry.name} keeps {kept} bytes of memory, and has {capacity.memory_bytes}"
