"""What people are shown, computed from a world. Pure; the same for every coordinator.

A view joins what is wanted (documents) with what is seen (statuses); it never invents a state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from msgspec import Struct, structs

from formation import secrets
from formation.model import (
    App,
    Assignment,
    Coordinator,
    HostState,
    InstanceState,
    InstanceStatus,
    ProcessType,
    Release,
    Slot,
)
from formation.requests import RunState
from formation_coordinator import timeline
from formation_coordinator.counting import HealthyCounts
from formation_coordinator.world import (
    OVER,
    HostEntry,
    World,
    host_state,
    is_current,
)


class InstanceView(Struct, frozen=True, kw_only=True, gc=False):
    """One line of `formctl ps`. `surplus`: on its way out. `current`: nothing newer is wanted.
    `surge`: one more than wanted, for a change. `run`: the run that it is."""

    status: InstanceStatus
    host: str = ""
    surplus: bool = False
    host_silent: bool = False
    current: bool = True
    surge: bool = False
    run: str = ""
    reason: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """`healthy`: as wanted; what has FINISHED is."""

    entry: HostEntry
    state: HostState
    instances: int
    healthy: int


def host_instances(entry: HostEntry, world: World, app: str = "") -> Iterator[InstanceView]:
    """All instances of one host, or those of one app: assigned ones first, then those it still runs
    unasked."""
    observed = entry.observed(app)
    address = entry.status.address if entry.status else ""
    bundles = (bundle for bundle in entry.bundles if app in ("", bundle.terms.app))
    for item in chain.from_iterable(bundle.stays() for bundle in bundles):
        seen = observed.pop(item.uid, None)
        status = _with_history(item, seen or _unseen(item, entry))
        yield InstanceView(
            status=status,
            host=entry.name,
            host_silent=not entry.connected,
            surplus=item.ending or not _is_wanted(world, item),
            current=bool(item.run) or is_current(world, item),
            surge=item.surge,
            run=item.run,
            reason=item.reason,
            address=address,
        )
    kept = timeline.is_held(world, entry)
    for status in observed.values():
        yield InstanceView(
            status=status,
            host=entry.name,
            host_silent=not entry.connected,
            surplus=not kept,
            current=kept,
            address=address,
        )


def _is_wanted(world: World, item: Assignment) -> bool:
    if item.run:
        return is_run_wanted(world, item.slot.app, item.run)
    app = world.apps.get(item.slot.app)
    return app is not None and app.formation.get(item.slot.type, 0) > 0


def is_run_wanted(world: World, app: str, run_id: str) -> bool:
    run = world.runs.get((app, run_id))
    return run is not None and run.state in (RunState.PENDING, RunState.PLACED)


def _with_history(item: Assignment, status: InstanceStatus) -> InstanceStatus:
    """Until it does better here, people should know that it has moved, and why."""
    if not item.avoided_hosts or status.state in (InstanceState.HEALTHY, *OVER):
        return status
    history = f"it kept failing on {', '.join(item.avoided_hosts)}"
    return structs.replace(
        status, reason=f"{status.reason}; {history}" if status.reason else history
    )


def _unseen(item: Assignment, entry: HostEntry) -> InstanceStatus:
    reason = "its host is silent" if not entry.connected else "sent to its host"
    return InstanceStatus(
        uid=item.uid,
        slot=item.slot,
        release=item.release,
        state=InstanceState.WAITING,
        reason=reason,
    )


def pending_instance(world: World, slot: Slot, reason: str) -> InstanceView:
    """A slot without a host; its uid is the slot's own name, since it has no stay yet."""
    run = world.runs.get((slot.app, slot.short))
    release = run.release if run else world.apps[slot.app].release
    status = InstanceStatus(
        uid=str(slot), slot=slot, release=release, state=InstanceState.PENDING, reason=reason
    )
    return InstanceView(status=status, current=False, run=run.id if run else "")


def wanted_of(world: World, app: App) -> dict[str, int]:
    """How many are to run, as far as the current release defines the types, in its order."""
    return {spec.name: _wanted_of_type(world, app, spec) for spec in types_of(world, app)}


def _wanted_of_type(world: World, app: App, spec: ProcessType) -> int:
    quantity = app.formation.get(spec.name, 0)
    if spec.schedule is not None:
        return 0  # it runs now and then
    if not spec.per_host:
        return quantity
    require = spec.where.require
    hosts = (e for e in world.hosts.values() if e.known and (e.connected or e.bundles))
    fitting = sum(all(c.allows(e.labels) for c in require) and not e.cordoned for e in hosts)
    return quantity * fitting


def types_of(world: World, app: App) -> tuple[ProcessType, ...]:
    """None of a release that cannot be read."""
    release = world.current_release(app)
    return release.types if release else ()


def needs_reasons(world: World) -> bool:
    """Would only a plan tell why something is not as wanted: a slot that no document names, a stay
    that is to be somewhere else, a change under way, an app that cannot be read? Cheap: one look
    at each bundle."""
    if any(run.state is RunState.PENDING for run in world.runs.values()):
        return True
    if timeline.held_now(world):
        return True
    if any(app.release != app.stable_release for app in world.apps.values()):
        return True
    if any(entry.draining and entry.bundles for entry in world.hosts.values()):
        return True
    assigned: Counter[tuple[str, str]] = Counter()
    silent = False
    for entry in world.hosts.values():
        silent = silent or (not entry.connected and bool(entry.bundles))
        for bundle in entry.bundles:
            if not bundle.terms.ending and not bundle.terms.run:
                assigned[bundle.terms.app, bundle.terms.type] += len(bundle.ordinals)
    return (
        silent
        or any(app.release and not world.current_release(app) for app in world.apps.values())
        or any(
            assigned[app.name, name] < quantity
            for app in world.apps.values()
            for name, quantity in wanted_of(world, app).items()
        )
    )


def hosts(
    world: World, counts: HealthyCounts, *, now_s: float, replace_after_s: float
) -> list[HostView]:
    """By name."""
    found = []
    for name in sorted(world.hosts):
        entry = world.hosts[name]
        if not entry.known:
            continue
        found.append(
            HostView(
                entry=entry,
                state=host_state(entry, now_s=now_s, replace_after_s=replace_after_s),
                instances=entry.document.size if entry.document else 0,
                healthy=counts.of_host(world, name),
            )
        )
    return found


def secret_names(release: Release) -> list[str]:
    """Those that are set, and those that its types name and nobody has set."""
    named = (secrets.missing(spec, release.secrets) for spec in release.types)
    return sorted({*release.secrets, *(name for names in named for name in names)})


def types_with_secret(release: Release, name: str) -> list[str]:
    everything = {**release.secrets, name: None}
    return [spec.name for spec in release.types if name in secrets.needed(spec, everything)]


def insecurity(world: World, me: Coordinator) -> str:
    """Loudly, who speaks to anybody; or ""."""
    known = {item.id: item for item in (*world.coordinators.values(), me)}
    addresses = sorted(item.address for item in known.values() if item.insecure)
    if not addresses:
        return ""
    return (
        f"INSECURE: whoever reaches {' or '.join(addresses)} can run commands on every host: "
        "formation-coordinator init makes certificates"
    )
