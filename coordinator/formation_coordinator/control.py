"""What users change of an app: its release, its formation, restarts. A thin shell over etcd."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from formation.automation import Autoscale
from formation.model import App, Assignment, InstanceState, Release
from formation.quantities import QuantityError, apply_changes, show
from formation.requests import QuantityChange
from formation.seen import FormationChange, Rollout
from formation_coordinator.changing import (
    ATTEMPTS_MAX,
    Applied,
    Changing,
    Invalid,
    Refused,
    Unknown,
    handed_on,
    race_lost,
    same_release,
    with_release,
)
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import (
    Delete,
    ModRevision,
    Put,
    StoreError,
    UnchangedSince,
    split,
)
from formation_coordinator.world import Change, World

log = logging.getLogger(__name__)

HISTORY_MAX = 20
# Those that a retry means something to; anything else ignores it.
RETRIED = frozenset({InstanceState.BACKOFF, InstanceState.FINISHED, InstanceState.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    before: Mapping[str, int]
    after: Mapping[str, int]
    revision: int


class Control(Changing):
    # ------------------------------------------------------------------ apply

    async def apply(
        self,
        wanted: Release,
        quantities: Mapping[str, int],
        who: str,
        *,
        canary: int = 0,
        keep_artifact: bool = False,
    ) -> Applied:
        """Create or update an app. `wanted` lacks number, time and config; they are given here.

        Quantities of types the app has met are untouched; new ones start at `quantities`, else
        at their own initial quantity. The operator's config goes on from the current release.
        """
        for _ in range(ATTEMPTS_MAX):
            app, seen = await self.read_app(wanted.app)
            current = await self.read_newest(app) if app else None
            release = handed_on(current, wanted, keep_artifact=keep_artifact)
            if app and current and _says_it_already(app, current, release):
                return Applied(app=app, release=current, unchanged=True, revision=seen.revision)
            number = await self.next_number(app, wanted.app)
            release = replace(release, number=number, created_at_ms=self.now_ms(), created_by=who)
            word = Rollout(canary=canary)
            applied = await self.make_release(app, seen, release, quantities, word, "apply")
            if applied is not None:
                return applied
        raise race_lost(wanted.app)

    async def applied_in_thought(
        self,
        wanted: Release,
        quantities: Mapping[str, int],
        *,
        canary: int = 0,
        keep_artifact: bool = False,
    ) -> list[Change]:
        """What `apply` would come to when a release command has passed, for a plan."""
        app, _ = await self.read_app(wanted.app)
        current = await self.read_newest(app) if app else None
        release = handed_on(current, wanted, keep_artifact=keep_artifact)
        if app and current and _says_it_already(app, current, release):
            return []
        number = await self.next_number(app, wanted.app)
        release = replace(release, number=number, command=None)
        changed = with_release(app, release, quantities, Rollout(canary=canary))
        return [
            Change(kind="releases", names=(changed.name, str(release.number)), record=release),
            Change(kind="apps", names=(changed.name,), record=changed),
        ]

    # ------------------------------------------------------------------ scale, restart, retry

    async def scaled_in_thought(
        self, name: str, changes: Sequence[QuantityChange], *, undo: bool = False
    ) -> list[Change]:
        """What `scale` or `undo_scale` would write, for a plan."""
        app, release, _ = await self.read(name)
        owned, _ = await self.read_autoscale(name)
        known = [spec.name for spec in release.types]
        before = {type_name: app.formation.get(type_name, 0) for type_name in known}
        if undo:
            after = _undone(app, before, owned)
        else:
            try:
                after = apply_changes(before, changes, known)
            except QuantityError as error:
                raise Invalid(str(error)) from error
            _check_owner(before, after, owned)
        changed = replace(app, formation={**app.formation, **after})
        return [Change(kind="apps", names=(name,), record=changed)]

    async def scale(
        self, name: str, changes: Sequence[QuantityChange], who: str, why: str = ""
    ) -> Scaled:
        """Change quantities, all or none. Raises `Unknown`, `Invalid`, `RaceLost`."""
        for _ in range(ATTEMPTS_MAX):
            app, release, seen = await self.read(name)
            known = [spec.name for spec in release.types]
            before = {type_name: app.formation.get(type_name, 0) for type_name in known}
            owned, unowned = await self.read_autoscale(name)
            try:
                after = apply_changes(before, changes, known)
            except QuantityError as error:
                raise Invalid(str(error)) from error
            _check_owner(before, after, owned)
            if after == before:
                return Scaled(before=before, after=after, revision=seen.revision)
            change = FormationChange(before=before, who=who, at_ms=self.now_ms())
            changed = replace(
                app,
                formation={**app.formation, **after},
                formation_history=(*app.formation_history, change)[-HISTORY_MAX:],
            )
            audit = self.audit(who, "scale", name, before=show(before), after=show(after), why=why)
            revision = await self.put_app(changed, seen, audit, [unowned])
            if revision:
                return Scaled(before=before, after=after, revision=revision)
        raise race_lost(name)

    async def undo_scale(self, name: str, who: str, why: str = "") -> Scaled:
        """Back to the formation before the last change, which is forgotten. What autoscale owns
        stays as it is. Raises `Refused`."""
        for _ in range(ATTEMPTS_MAX):
            app, release, seen = await self.read(name)
            owned, unowned = await self.read_autoscale(name)
            known = [spec.name for spec in release.types]
            before = {type_name: app.formation.get(type_name, 0) for type_name in known}
            after = _undone(app, before, owned)
            changed = replace(
                app,
                formation={**app.formation, **after},
                formation_history=app.formation_history[:-1],
            )
            audit = self.audit(
                who, "undo scale", name, before=show(before), after=show(after), why=why
            )
            revision = await self.put_app(changed, seen, audit, [unowned])
            if revision:
                return Scaled(before=before, after=after, revision=revision)
        raise race_lost(name)

    async def read_autoscale(self, name: str) -> tuple[Mapping[str, Autoscale], UnchangedSince]:
        """The app's rules by type, and a compare that fails when there are others meanwhile."""
        span = keys.autoscales(name)
        snapshot = await self.store.ranges([span])
        found = [codec.decode(item.key, item.value) for item in snapshot.items]
        rules = {rule.type: rule for rule in found if isinstance(rule, Autoscale)}
        return rules, UnchangedSince(span, snapshot.revision)

    async def restart(
        self, name: str, type_name: str, ordinal: int, who: str, world: World
    ) -> tuple[tuple[Assignment, ...], int]:
        """Ask for new stays, which the leader makes step by step. Gives those that will end."""
        for _ in range(ATTEMPTS_MAX):
            app, seen, types = await self.read_types(name, type_name)
            stays = _stays(world, name, type_name, ordinal)
            changed = replace(app, restart_marks=_marked(app.restart_marks, types, ordinal))
            detail = _short(type_name, ordinal) or "all"
            revision = await self.put_app(changed, seen, self.audit(who, "restart", name, detail))
            if revision:
                return tuple(stay for stay, _ in stays), revision
        raise race_lost(name)

    async def retry(
        self, name: str, type_name: str, ordinal: int, who: str, world: World
    ) -> tuple[tuple[Assignment, ...], int]:
        """Ask the same stays to try again now. Gives those that wait or have ended.

        Raises `Refused` when none does.
        """
        for _ in range(ATTEMPTS_MAX):
            app, seen, types = await self.read_types(name, type_name)
            stays = _stays(world, name, type_name, ordinal)
            waiting = tuple(stay for stay, state in stays if state in RETRIED)
            what = _short(type_name, ordinal) or name
            if not waiting:
                raise Refused(
                    f"{what} is {_states([state for _, state in stays])}: nothing to retry"
                )
            changed = replace(app, retry_marks=_marked(app.retry_marks, types, ordinal))
            detail = _short(type_name, ordinal) or "all"
            revision = await self.put_app(changed, seen, self.audit(who, "retry", name, detail))
            if revision:
                return waiting, revision
        raise race_lost(name)

    # ------------------------------------------------------------------ delete and forget

    async def delete_app(self, name: str, who: str) -> int:
        """The app goes in one transaction; its old releases after it, they are nobody's then.

        An empty record of the last release stays: its number is never given again, so no agent
        takes an old release for a new one.
        """
        for _ in range(ATTEMPTS_MAX):
            app, seen = await self.read_app(name)
            if app is None:
                raise Unknown(await self.no_such_app(name))
            last = keys.release(name, app.latest_release)
            empty = Release(app=name, number=app.latest_release, types=())
            owned, unowned = await self.read_autoscale(name)
            rules = [Delete(keys.autoscale(name, kind)) for kind in owned]
            revision = await self.commit(
                [ModRevision(keys.app(name), seen.mod_revision), unowned],
                [Delete(keys.app(name)), Put(last, codec.encode(empty)), *rules],
                self.audit(who, "delete", name, ""),
            )
            if revision:
                await self._delete_releases(name, keep=last)
                return revision
        raise race_lost(name)

    async def _delete_releases(self, name: str, keep: str) -> None:
        """The app is gone whether or not this comes through."""
        try:
            releases = await self.store.ranges([keys.releases(name)])
            runs = await self.store.ranges([keys.runs(name)])
            left = [*releases.items, *runs.items]
            old = [Delete(item.key) for item in left if item.key != keep]
            for batch in split(old):
                await self.store.commit([ModRevision(keys.app(name), 0)], batch)
        except StoreError as error:
            log.warning("app %s is deleted, its old releases are still in etcd: %s", name, error)


def _says_it_already(app: App, newest: Release, wanted: Release) -> bool:
    """A first release that has not passed may be tried again as it was."""
    goes_on = app.release or app.candidate
    return bool(goes_on) and same_release(newest, wanted)


def _check_owner(
    before: Mapping[str, int], after: Mapping[str, int], owned: Mapping[str, Autoscale]
) -> None:
    """Two that set one quantity would undo each other's word all day. Raises `Invalid`."""
    for name, rule in owned.items():
        wanted = after.get(name, 0)
        if wanted != before.get(name, 0):
            raise Invalid(
                f"{name} is autoscaled ({rule.bounds}), so {name}={wanted} would not stay: "
                f"formctl autoscale {name} --min {wanted} --max {max(wanted, 1)} holds it there, "
                f"formctl autoscale {name} --off gives it back to you"
            )


def _undone(app: App, before: Mapping[str, int], owned: Mapping[str, Autoscale]) -> dict[str, int]:
    """Raises `Refused`."""
    if not app.formation_history:
        raise Refused(f"app {app.name}: no change of its formation is known to undo")
    last = {n: q for n, q in app.formation_history[-1].before.items() if n in before}
    kept = [n for n, q in last.items() if n in owned and q != before[n]]
    after = {**before, **{n: q for n, q in last.items() if n not in owned}}
    if kept and after == before:
        raise Refused(
            f"app {app.name}: {', '.join(kept)} is autoscaled now, so the last change of it cannot "
            f"be undone: formctl autoscale {kept[0]} --off gives it back to you"
        )
    return after


def _stays(
    world: World, app: str, type_name: str, ordinal: int
) -> list[tuple[Assignment, InstanceState]]:
    """Those that are meant, each as it was last seen. Raises `Unknown` when there are none."""
    found = []
    for entry in world.hosts.values():
        observed = entry.observed()
        for item in entry.assigned:
            slot = item.slot
            if slot.app != app or (ordinal and slot.ordinal != ordinal):
                continue
            if type_name in ("", slot.type):
                status = observed.get(item.uid)
                found.append((item, status.state if status else InstanceState.WAITING))
    if not found:
        what = _short(type_name, ordinal) or "instance"
        raise Unknown(f"app {app} has no {what}; see formctl ps")
    return found


def _short(type_name: str, ordinal: int) -> str:
    """`web.3`, `web`, or nothing when all are meant."""
    return f"{type_name}.{ordinal}" if ordinal else type_name


def _states(states: Sequence[InstanceState]) -> str:
    """`healthy` when all are, else `3 healthy, 1 starting`."""
    counts = Counter(state.name.lower() for state in states)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{number} {word}" for word, number in counts.most_common())


def _marked(marks: Mapping[str, int], types: Sequence[str], ordinal: int) -> dict[str, int]:
    """Raise one slot's mark; or a type's above all its slots' and forget theirs."""
    changed = dict(marks)
    for name in types:
        if ordinal:
            key = f"{name}.{ordinal}"
            changed[key] = changed.get(key, 0) + 1
            continue
        slots = [key for key in changed if key.rpartition(".")[0] == name]
        highest = max((changed.pop(key) for key in slots), default=0)
        changed[name] = changed.get(name, 0) + highest + 1
    return changed
