"""What people are shown, computed from a world. Pure; the same for every coordinator.

A view joins what is wanted (documents) with what is seen (statuses); it never invents a state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from formation.model import App, Assignment, HostState, InstanceState, InstanceStatus, Slot
from formation_coordinator.world import HostEntry, World, host_state, is_current, is_healthy


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
    entry: HostEntry
    state: HostState
    instances: int
    healthy: int


def host_instances(entry: HostEntry, apps: Mapping[str, App]) -> Iterator[InstanceView]:
    """All instances of one host: assigned ones first, then those it still runs unasked."""
    observed = entry.observed()
    for item in entry.assigned:
        status = observed.pop(item.uid, None) or _unseen(item, entry)
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
    release = world.current_release(app)
    return {spec.name: app.formation.get(spec.name, 0) for spec in release.types} if release else {}


def is_short(world: World) -> bool:
    """Is some slot wanted that no document names? Cheap: counts only."""
    assigned: dict[tuple[str, str], set[int]] = {}
    for entry in world.hosts.values():
        for item in entry.assigned:
            assigned.setdefault((item.slot.app, item.slot.type), set()).add(item.slot.ordinal)
    return any(
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
    return sum(
        is_healthy(entry, observed.get(item.uid))
        for entry in world.hosts.values()
        for observed in (entry.observed(),)
        for item in entry.assigned
        if item.slot.app == app
    )
