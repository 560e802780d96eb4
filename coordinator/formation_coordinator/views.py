"""What people are shown, computed from a world. Pure; the same for every coordinator.

A view joins what is wanted (documents) with what is seen (statuses); it never invents a state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from formation.model import (
    App,
    Assignment,
    HostState,
    InstanceState,
    InstanceStatus,
    ProcessType,
    Slot,
)
from formation_coordinator.world import (
    OVER,
    HostEntry,
    World,
    host_state,
    is_current,
    is_healthy,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """One line of `formctl ps`. `surplus`: on its way out. `current`: nothing newer is wanted."""

    status: InstanceStatus
    host: str = ""
    surplus: bool = False
    host_silent: bool = False
    current: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """`healthy`: as wanted; what has FINISHED is."""

    entry: HostEntry
    state: HostState
    instances: int
    healthy: int


def host_instances(entry: HostEntry, apps: Mapping[str, App]) -> Iterator[InstanceView]:
    """All instances of one host: assigned ones first, then those it still runs unasked."""
    observed = entry.observed()
    for item in entry.assigned:
        seen = observed.pop(item.uid, None)
        status = _with_history(item, seen or _unseen(item, entry))
        app = apps.get(item.slot.app)
        yield InstanceView(
            status=status,
            host=entry.name,
            host_silent=not entry.connected,
            surplus=app is None or not _wanted_type(app, item.slot),
            current=app is not None and is_current(app, item),
        )
    for status in observed.values():
        yield InstanceView(
            status=status,
            host=entry.name,
            host_silent=not entry.connected,
            surplus=True,
            current=False,
        )


def _wanted_type(app: App, slot: Slot) -> bool:
    return app.formation.get(slot.type, 0) > 0


def _with_history(item: Assignment, status: InstanceStatus) -> InstanceStatus:
    """Until it does better here, people should know that it has moved, and why."""
    if not item.avoided_hosts or status.state in (InstanceState.HEALTHY, *OVER):
        return status
    history = f"it kept failing on {', '.join(item.avoided_hosts)}"
    return replace(status, reason=f"{status.reason}; {history}" if status.reason else history)


def _unseen(item: Assignment, entry: HostEntry) -> InstanceStatus:
    reason = "its host is silent" if not entry.connected else "sent to its host"
    return InstanceStatus(
        uid=item.uid,
        slot=item.slot,
        release=item.release,
        state=InstanceState.WAITING,
        reason=reason,
    )


def pending_instance(slot: Slot, release: int, reason: str) -> InstanceView:
    """A slot without a host; its uid is the slot's own name, since it has no stay yet."""
    status = InstanceStatus(
        uid=str(slot), slot=slot, release=release, state=InstanceState.PENDING, reason=reason
    )
    return InstanceView(status=status, current=False)


def wanted_of(world: World, app: App) -> dict[str, int]:
    """The formation as far as the current release defines its types, in the release's order."""
    return {spec.name: app.formation.get(spec.name, 0) for spec in types_of(world, app)}


def types_of(world: World, app: App) -> tuple[ProcessType, ...]:
    """None of a release that cannot be read."""
    release = world.current_release(app)
    return release.types if release else ()


def needs_reasons(world: World) -> bool:
    """Would only a plan tell why something is not as wanted: a slot that no document names, a stay
    whose new release may fit nowhere, an app that cannot be read? Cheap: one look at each stay."""
    choosy = {
        (app.name, spec.name)
        for app in world.apps.values()
        for spec in types_of(world, app)
        if spec.port or spec.requires
    }
    assigned: dict[tuple[str, str], set[int]] = {}
    for entry in world.hosts.values():
        for item in entry.assigned:
            key = (item.slot.app, item.slot.type)
            assigned.setdefault(key, set()).add(item.slot.ordinal)
            if key in choosy and not is_current(world.apps[item.slot.app], item):
                return True
    return any(world.current_release(app) is None for app in world.apps.values()) or any(
        len(assigned.get((app.name, name), ())) < quantity
        for app in world.apps.values()
        for name, quantity in wanted_of(world, app).items()
    )


def hosts(world: World, *, now_s: float, replace_after_s: float) -> list[HostView]:
    """By name."""
    found = []
    for name in sorted(world.hosts):
        entry = world.hosts[name]
        if not entry.known:
            continue
        observed = entry.observed()
        found.append(
            HostView(
                entry=entry,
                state=host_state(entry, now_s=now_s, replace_after_s=replace_after_s),
                instances=len(entry.assigned),
                healthy=sum(is_healthy(entry, observed.get(i.uid)) for i in entry.assigned),
            )
        )
    return found


def healthy_count(world: World, app: str) -> int:
    """How many are as wanted. FINISHED ones are: a batch type that is done is not short of any."""
    return sum(
        is_healthy(entry, observed.get(item.uid))
        for entry in world.hosts.values()
        for observed in (entry.observed(),)
        for item in entry.assigned
        if item.slot.app == app
    )
