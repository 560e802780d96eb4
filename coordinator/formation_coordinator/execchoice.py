"""Beside which instance a command is to run, or why beside none. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from formation.model import InstanceState, Slot
from formation_coordinator import views
from formation_coordinator.views import InstanceView
from formation_coordinator.world import World

_RUNNING = (InstanceState.HEALTHY, InstanceState.UNREADY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    slot: Slot
    uid: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPlace:
    """`unknown`: there is no such thing; else it is there and cannot be now. One line."""

    reason: str
    unknown: bool = False


def choose(world: World, app: str, type_name: str, ordinal: int) -> Chosen | NoPlace:
    """`ordinal` 0: the first healthy one that stays."""
    known = world.apps.get(app)
    if known is None:
        names = ", ".join(sorted(world.apps)) or "none"
        return NoPlace(reason=f"no app {app!r}; known apps: {names}", unknown=True)
    found = [
        view
        for entry in world.hosts.values()
        for view in views.host_instances(entry, world)
        if view.status.slot.app == app and view.status.slot.type == type_name
    ]
    types = [spec.name for spec in views.types_of(world, known)]
    if not found and type_name not in types:
        reason = f"app {app} has no type {type_name!r}; it has {', '.join(types) or 'none'}"
        return NoPlace(reason=reason, unknown=True)
    if not ordinal:
        return _any(found, type_name)
    slot = Slot(app, type_name, ordinal)
    return _one([view for view in found if view.status.slot == slot], slot)


def _any(found: list[InstanceView], type_name: str) -> Chosen | NoPlace:
    healthy = [v for v in found if v.status.state is InstanceState.HEALTHY and not v.host_silent]
    if not healthy:
        return NoPlace(reason=f"no instance of {type_name} is healthy: see formctl ps")
    return _chosen(min(healthy, key=_last_choices_last))


def _one(found: list[InstanceView], slot: Slot) -> Chosen | NoPlace:
    """A slot has several while one of them is on its way out."""
    if not found:
        return NoPlace(reason=f"there is no {slot.short}: see formctl ps", unknown=True)
    running = [view for view in found if _has_process(view)]
    heard = [view for view in running if not view.host_silent]
    if heard:
        return _chosen(min(heard, key=_last_choices_last))
    if running:
        host = running[0].host
        return NoPlace(reason=f"{slot.short} was last seen on host {host}, which is silent")
    status = found[0].status
    why = f": {status.reason or status.last_exit}" if status.reason or status.last_exit else ""
    state = status.state.name.lower()
    return NoPlace(reason=f"{slot.short} does not run now, it is {state}{why}")


def _has_process(view: InstanceView) -> bool:
    state = view.status.state
    return state in _RUNNING or (state is InstanceState.STARTING and view.status.pid > 0)


def _last_choices_last(view: InstanceView) -> tuple[bool, bool, int]:
    return view.surplus, not view.current, view.status.slot.ordinal


def _chosen(view: InstanceView) -> Chosen:
    return Chosen(slot=view.status.slot, uid=view.status.uid, host=view.host)
