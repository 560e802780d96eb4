"""Is the store as new as what hosts follow, and what to do when it is not. Pure.

A store that was put back to an earlier state knows less than the hosts do. Acting on it would stop
what runs, so then everything is held until an operator's word. With that word the cluster's epoch
grows, and each connected host's document is written anew from what the host says that it runs:
nothing stops for it but what the store does not want. Theory: docs/design/restore.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from msgspec import structs

from formation.model import (
    Assignment,
    AssignmentDocument,
    Bundle,
    InstanceState,
    InstanceStatus,
    ProcessType,
    Terms,
)
from formation.policy import surely_stopped_s
from formation.releasecommand import RELEASE
from formation_coordinator.world import Change, HostEntry, World, bundle_order, departed

GO_ON = "nothing is started, moved or stopped until `formctl reconcile --confirm`"
# Of a restore that broke off half-way: its word cannot be given yet.
RESTORING = "a restore has not come to its end: run `formctl restore` again"
FOUND = "found running"
_NAMED_MAX = 3
_ENDED = frozenset({InstanceState.STOPPED})
_ENDING = frozenset({InstanceState.DRAINING, InstanceState.STOPPING})


def is_ahead(entry: HostEntry, epoch: int) -> bool:
    """Does this host follow a newer document than the store has?"""
    status, document = entry.status, entry.document
    if not entry.connected or status is None or is_behind(entry, epoch):
        return status is not None and entry.connected and status.cluster_epoch > epoch
    if status.cluster_epoch != epoch:
        return status.cluster_epoch > epoch
    return status.ahead or status.generation > (document.generation if document else 0)


def is_behind(entry: HostEntry, epoch: int) -> bool:
    """Is its document still of an earlier epoch of the cluster?"""
    status, document = entry.status, entry.document
    if not entry.connected or status is None:
        return False
    if document is not None:
        return document.cluster_epoch < epoch
    return status.generation > 0 and status.cluster_epoch < epoch


def held(world: World, ahead: Collection[str]) -> str:
    """Why nothing may be decided, for people; or "". `ahead`: names of hosts that are."""
    said = world.cluster.held if world.cluster else ""
    if said:
        return said if said == RESTORING else f"{said}: {GO_ON}"
    if not ahead:
        return ""
    named = sorted(ahead)[:_NAMED_MAX]
    more = f" and {len(ahead) - len(named)} more" if len(ahead) > len(named) else ""
    verb = "follow" if len(ahead) > 1 else "follows"
    return (
        f"{', '.join(named)}{more} {verb} newer orders than etcd knows of, so it was put back to"
        f" an earlier state: {GO_ON}"
    )


def held_now(world: World) -> str:
    """As `held`, for who has no book."""
    epoch = world.cluster_epoch
    return held(world, [e.name for e in world.hosts.values() if is_ahead(e, epoch)])


def is_held(world: World, entry: HostEntry) -> bool:
    """Does all that this host runs stay, also what the store does not know of?"""
    said = bool(world.cluster and world.cluster.held)
    return said or is_ahead(entry, world.cluster_epoch)


def next_epoch(world: World) -> int:
    """Higher than any that was ever heard of."""
    known = [world.cluster_epoch]
    for entry in world.hosts.values():
        known += [entry.status.cluster_epoch] if entry.status else []
        known += [entry.document.cluster_epoch] if entry.document else []
    return max(known) + 1


# --- what hosts say becomes what is wanted ------------------------------------------------------


def caught_up(world: World, entry: HostEntry, epoch: int) -> AssignmentDocument:
    """This host's document in the present epoch of the cluster: what it runs of what the store
    knows. `epoch`: the leader's."""
    known = {item.uid: item for item in entry.assigned}
    stays: list[Assignment] = []
    for status in _running(entry):
        item = known.get(status.uid)
        spec = _spec(world, status, item.like if item else "")
        if item is not None and item.command and (item.slot.app, item.release) in world.releases:
            found: Assignment | None = item  # what it runs stands in it
        elif spec is None:
            found = _of_unknown_release(world, status)
        else:
            found = item or _adopted(world, spec, status)
        stays += [found] if found else []
    return _document(entry, stays, cluster_epoch=world.cluster_epoch, epoch=epoch)


def as_reported(entry: HostEntry) -> AssignmentDocument:
    """All that it runs, also what nobody here knows: for a look at what would change."""
    stays = [
        item
        for status in _running(entry)
        if status.state not in _ENDING
        and (item := _assignment(status, mark=0, retry=0)) is not None
    ]
    return _document(entry, stays, cluster_epoch=0, epoch=0)


def raised_numbers(world: World) -> Iterator[Change]:
    """No number of a release that runs somewhere is given again."""
    highest: dict[str, int] = {}
    for entry in world.hosts.values():
        for status in entry.status.instances if entry.status else ():
            name = status.slot.app
            highest[name] = max(status.release, highest.get(name, 0))
    for name, number in sorted(highest.items()):
        app = world.apps.get(name)
        if app is not None and app.latest_release < number:
            yield Change(kind="apps", names=(name,), record=replace(app, latest_release=number))


def _running(entry: HostEntry) -> Iterable[InstanceStatus]:
    seen = entry.status.instances if entry.status else ()
    return (status for status in seen if status.state not in _ENDED)


def _spec(world: World, status: InstanceStatus, like: str) -> ProcessType | None:
    """How the store says it is to run; None: it does not know of it."""
    release = world.releases.get((status.slot.app, status.release))
    if release is None or status.slot.app not in world.apps:
        return None
    return release.type_named(like or status.slot.type)


def _adopted(world: World, spec: ProcessType, status: InstanceStatus) -> Assignment | None:
    """One that the store did not know of. What is on its way out is not taken in, but an exclusive
    one is waited for."""
    app = world.apps[status.slot.app]
    ending = status.state in _ENDING
    if ending and not spec.exclusive:
        return None
    name, ordinal = status.slot.type, status.slot.ordinal
    item = _assignment(
        status, mark=app.restart_mark(name, ordinal), retry=app.retry_mark(name, ordinal)
    )
    return structs.replace(item, ending=ending) if item else None


def _of_unknown_release(world: World, status: InstanceStatus) -> Assignment | None:
    """It goes; but of an exclusive type, and as a release command, it has to be gone before another
    one comes. It is listed as of the present release, which the host can be told."""
    app = world.apps.get(status.slot.app)
    release = world.current_release(app) if app else None
    spec = release.type_named(status.slot.type) if release else None
    item = _assignment(status, mark=0, retry=0)
    if item is None or release is None:
        return None
    ending = structs.replace(item, release=release.number, ending=True)
    if spec is None and status.slot.type == RELEASE:
        # A run of no record, so that it goes, and no other begins before it has.
        return structs.replace(ending, run=FOUND, command=RELEASE)
    return ending if spec is not None and spec.exclusive else None


def _assignment(status: InstanceStatus, *, mark: int, retry: int) -> Assignment | None:
    prefix = f"{status.slot.type}.{status.slot.ordinal}-"
    if not status.uid.startswith(prefix) or status.uid == prefix:
        return None
    return Assignment(
        uid=status.uid,
        slot=status.slot,
        release=status.release,
        restart_mark=mark,
        retry_mark=retry,
        reason=FOUND,
    )


def _document(
    entry: HostEntry, stays: Iterable[Assignment], *, cluster_epoch: int, epoch: int
) -> AssignmentDocument:
    of_terms: dict[Terms, list[int]] = {}
    for item in stays:
        of_terms.setdefault(_terms(item), []).append(item.slot.ordinal)
    bundles = [Bundle(terms, tuple(sorted(ordinals))) for terms, ordinals in of_terms.items()]
    followed = entry.status.generation if entry.status else 0
    written = entry.document.generation if entry.document else 0
    return AssignmentDocument(
        host=entry.name,
        generation=max(followed, written) + 1,
        epoch=epoch,
        cluster_epoch=cluster_epoch,
        bundles=tuple(sorted(bundles, key=bundle_order)),
    )


def _terms(item: Assignment) -> Terms:
    shared: Mapping[str, object] = {
        name: getattr(item, name) for name in Terms.__struct_fields__ if hasattr(item, name)
    }
    stem = item.uid.removeprefix(f"{item.slot.type}.{item.slot.ordinal}-")
    return Terms(app=item.slot.app, type=item.slot.type, stem=stem, **shared)  # type: ignore[arg-type]


# --- who might still run what ---------------------------------------------------------------------


def may_still_run(world: World, now_s: float) -> str:
    """Why an exclusive instance may still run on a host that is not there: its lease may not have
    run out yet, and the store does not know what the host had. For people; or ""."""
    graces = [
        spec.stop_grace_s
        for app in world.apps.values()
        if (release := world.current_release(app))
        for spec in release.types
        if spec.exclusive
    ]
    if not graces:
        return ""
    wait_s = surely_stopped_s(max(graces))
    for entry in world.hosts.values():
        if entry.connected or entry.silent_since_s is None or departed(entry):
            continue
        left_s = entry.silent_since_s + wait_s - now_s
        if left_s > 0:
            return (
                f"host {entry.name} is silent and may still run an exclusive instance:"
                f" try again in {left_s:.0f} s, or when it is back"
            )
    return ""
