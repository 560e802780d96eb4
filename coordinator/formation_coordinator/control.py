"""What users may change, each as one compare-and-set on what was read. A thin shell over etcd.

Every change is a transaction that compares the documents it was decided on, and writes its audit
record in the same breath. A lost race reads and decides again, a bounded number of times.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from formation.model import (
    App,
    Assignment,
    AssignmentDocument,
    AuditRecord,
    InstanceState,
    ProcessType,
    QuantityChange,
    Release,
    Session,
)
from formation.quantities import QuantityError, apply_changes, show
from formation.wire import WireError
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import (
    Compare,
    Delete,
    ModRevision,
    Operation,
    OutcomeUnknown,
    Put,
    Span,
    Store,
    StoreError,
    split,
)
from formation_coordinator.world import World

log = logging.getLogger(__name__)

ATTEMPTS_MAX = 8
# Those that a retry means something to; anything else ignores it.
RETRIED = frozenset({InstanceState.BACKOFF, InstanceState.FINISHED, InstanceState.FAILED})


class ControlError(Exception):
    """One line for people; the class says which gRPC status it becomes."""


class Unknown(ControlError):
    """No such app, type, instance or host."""


class Invalid(ControlError):
    """What was asked for makes no sense."""


class Refused(ControlError):
    """It makes sense, but not now."""


class Uncertain(ControlError):
    """The store broke off in the middle; only looking tells."""


class RaceLost(ControlError):
    """Others changed the same thing too often meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    app: App
    release: Release
    unchanged: bool
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    before: Mapping[str, int]
    after: Mapping[str, int]
    revision: int


class Control:
    def __init__(
        self, *, store: Store, now_ms: Callable[[], int], new_id: Callable[[], str]
    ) -> None:
        self._store = store
        self._now_ms = now_ms
        self._new_id = new_id

    # ------------------------------------------------------------------ apply

    async def apply(self, wanted: Release, quantities: Mapping[str, int], who: str) -> Applied:
        """Create or update an app. `wanted` lacks number and time; they are given here.

        Quantities of types the app has met are untouched; new ones start at `quantities`, else
        at their own initial quantity.
        """
        for _ in range(ATTEMPTS_MAX):
            app, seen = await self._read_app(wanted.app)
            current = await self._read_readable(app) if app else None
            if app and current and _same(current, wanted):
                revision = seen.revision
                return Applied(app=app, release=current, unchanged=True, revision=revision)
            number = await self._next_number(app, wanted.app)
            at_ms = self._now_ms()
            release = replace(wanted, number=number, created_at_ms=at_ms, created_by=who)
            changed = _with_release(app, release, quantities, at_ms)
            puts = [
                Put(keys.app(changed.name), codec.encode(changed)),
                Put(keys.release(changed.name, number), codec.encode(release)),
            ]
            compares: list[Compare] = [
                ModRevision(keys.app(changed.name), seen.mod_revision),
                ModRevision(keys.release(changed.name, number), 0),
            ]
            detail = f"v{number} {release.reason}".strip()
            revision = await self._commit(
                compares, puts, self._audit(who, "apply", changed.name, detail)
            )
            if revision:
                return Applied(app=changed, release=release, unchanged=False, revision=revision)
        raise RaceLost(f"app {wanted.app}: others are changing it at the same time; try again")

    async def _next_number(self, app: App | None, name: str) -> int:
        if app is not None:
            return app.latest_release + 1
        left = (await self._store.ranges([keys.releases(name)])).items
        numbers = [int(item.key.rsplit("/", 1)[1]) for item in left]
        return max(numbers, default=0) + 1

    # ------------------------------------------------------------------ scale, restart, retry

    async def scale(self, name: str, changes: Sequence[QuantityChange], who: str) -> Scaled:
        """Change quantities, all or none. Raises `Unknown`, `Invalid`, `RaceLost`."""
        for _ in range(ATTEMPTS_MAX):
            app, release, seen = await self._read(name)
            known = [spec.name for spec in release.types]
            before = {type_name: app.formation.get(type_name, 0) for type_name in known}
            try:
                after = apply_changes(before, changes, known)
            except QuantityError as error:
                raise Invalid(str(error)) from error
            if after == before:
                return Scaled(before=before, after=after, revision=seen.revision)
            changed = replace(app, formation={**app.formation, **after})
            detail = f"{show(before)} -> {show(after)}"
            revision = await self._put_app(changed, seen, self._audit(who, "scale", name, detail))
            if revision:
                return Scaled(before=before, after=after, revision=revision)
        raise RaceLost(f"app {name}: others are changing it at the same time; try again")

    async def restart(
        self, name: str, type_name: str, ordinal: int, who: str, world: World
    ) -> tuple[tuple[Assignment, ...], int]:
        """Ask for new stays, which the leader makes step by step. Gives those that will end."""
        for _ in range(ATTEMPTS_MAX):
            app, seen, types = await self._read_types(name, type_name)
            stays = _stays(world, name, type_name, ordinal)
            changed = replace(app, restart_marks=_marked(app.restart_marks, types, ordinal))
            detail = _short(type_name, ordinal) or "all"
            revision = await self._put_app(changed, seen, self._audit(who, "restart", name, detail))
            if revision:
                return tuple(stay for stay, _ in stays), revision
        raise RaceLost(f"app {name}: others are changing it at the same time; try again")

    async def retry(
        self, name: str, type_name: str, ordinal: int, who: str, world: World
    ) -> tuple[tuple[Assignment, ...], int]:
        """Ask the same stays to try again now. Gives those that wait or have ended.

        Raises `Refused` when none does.
        """
        for _ in range(ATTEMPTS_MAX):
            app, seen, types = await self._read_types(name, type_name)
            stays = _stays(world, name, type_name, ordinal)
            waiting = tuple(stay for stay, state in stays if state in RETRIED)
            what = _short(type_name, ordinal) or name
            if not waiting:
                raise Refused(
                    f"{what} is {_states([state for _, state in stays])}: nothing to retry"
                )
            changed = replace(app, retry_marks=_marked(app.retry_marks, types, ordinal))
            detail = _short(type_name, ordinal) or "all"
            revision = await self._put_app(changed, seen, self._audit(who, "retry", name, detail))
            if revision:
                return waiting, revision
        raise RaceLost(f"app {name}: others are changing it at the same time; try again")

    # ------------------------------------------------------------------ delete and forget

    async def delete_app(self, name: str, who: str) -> int:
        """The app goes in one transaction; its old releases after it, they are nobody's then.

        An empty record of the last release stays: its number is never given again, so no agent
        takes an old release for a new one.
        """
        for _ in range(ATTEMPTS_MAX):
            app, seen = await self._read_app(name)
            if app is None:
                raise Unknown(await self._no_such_app(name))
            last = keys.release(name, app.latest_release)
            empty = Release(app=name, number=app.latest_release, types=())
            revision = await self._commit(
                [ModRevision(keys.app(name), seen.mod_revision)],
                [Delete(keys.app(name)), Put(last, codec.encode(empty))],
                self._audit(who, "delete", name, ""),
            )
            if revision:
                await self._delete_releases(name, keep=last)
                return revision
        raise RaceLost(f"app {name}: others are changing it at the same time; try again")

    async def _delete_releases(self, name: str, keep: str) -> None:
        """The app is gone whether or not this comes through."""
        try:
            releases = await self._store.ranges([keys.releases(name)])
            old = [Delete(item.key) for item in releases.items if item.key != keep]
            for batch in split(old):
                await self._store.commit([ModRevision(keys.app(name), 0)], batch)
        except StoreError as error:
            log.warning("app %s is deleted, its old releases are still in etcd: %s", name, error)

    async def forget_host(self, host: str, who: str) -> None:
        """An operator's word that a silent host is gone for good; its slots go elsewhere."""
        session = await self._store.get(keys.session(host))
        if session is not None:
            record = codec.decode(session.key, session.value)
            assert isinstance(record, Session)
            raise Refused(
                f"host {host} is alive (connected to {record.coordinator_id}); stop its agent first"
            )
        if await self._store.get(keys.host(host)) is None:
            raise Unknown(f"no host {host!r}; see formctl hosts")
        key = keys.assignments(host)
        document = await self._store.get(key)
        changes: list[Operation] = [Delete(keys.host(host)), Delete(keys.status(host))]
        if document is not None:
            changes.append(Put(key, codec.encode(_emptied(codec.decode(key, document.value)))))
        revision = await self._commit(
            [
                ModRevision(keys.session(host), 0),
                ModRevision(key, document.mod_revision if document else 0),
            ],
            changes,
            self._audit(who, "forget-host", host, ""),
        )
        if not revision:
            raise Refused(f"host {host} has changed just now; look at formctl hosts, try again")

    # ------------------------------------------------------------------ reading and writing

    async def _read_app(self, name: str) -> tuple[App | None, _Seen]:
        snapshot = await self._store.ranges([Span(keys.app(name), keys.app(name) + "\0")])
        if not snapshot.items:
            return None, _Seen(0, snapshot.revision)
        item = snapshot.items[0]
        record = codec.decode(item.key, item.value)
        assert isinstance(record, App)
        return record, _Seen(item.mod_revision, snapshot.revision)

    async def _read_release(self, app: App) -> Release | None:
        """Raises WireError for one that this version cannot read."""
        item = await self._store.get(keys.release(app.name, app.release))
        record = codec.decode(item.key, item.value) if item else None
        return record if isinstance(record, Release) else None

    async def _read_readable(self, app: App) -> Release | None:
        with suppress(WireError):  # then anything that is applied now differs from it
            return await self._read_release(app)
        return None

    async def _read(self, name: str) -> tuple[App, Release, _Seen]:
        app, seen = await self._read_app(name)
        if app is None:
            raise Unknown(await self._no_such_app(name))
        try:
            release = await self._read_release(app)
        except WireError as error:
            raise Refused(f"app {name}: {error}; apply it again") from error
        if release is None:
            raise Refused(f"app {name}: its release v{app.release} is missing; apply it again")
        return app, release, seen

    async def _read_types(self, name: str, type_name: str) -> tuple[App, _Seen, list[str]]:
        """The app and the types that are meant: the named one, which must be there, or all."""
        app, release, seen = await self._read(name)
        known = [spec.name for spec in release.types]
        if type_name and type_name not in known:
            raise Unknown(f"app {name} has no type {type_name!r}; it has {', '.join(known)}")
        return app, seen, [type_name] if type_name else known

    async def _put_app(self, app: App, seen: _Seen, audit: Put) -> int:
        """Like `_commit`, when nothing else is written than the app as it was read and changed."""
        key = keys.app(app.name)
        compares = [ModRevision(key, seen.mod_revision)]
        return await self._commit(compares, [Put(key, codec.encode(app))], audit)

    async def _no_such_app(self, name: str) -> str:
        items = (await self._store.ranges([Span.prefix("apps/")])).items
        known = ", ".join(item.key.removeprefix("apps/") for item in items)
        return f"no app {name!r}; " + (f"there is {known}" if known else "none was applied yet")

    def _audit(self, who: str, action: str, subject: str, detail: str) -> Put:
        at_ms = self._now_ms()
        record = AuditRecord(at_ms=at_ms, who=who, action=action, subject=subject, detail=detail)
        return Put(keys.audit(at_ms, self._new_id()), codec.encode(record))

    async def _commit(
        self, compares: Sequence[Compare], operations: Sequence[Operation], audit: Put
    ) -> int:
        """The revision of the commit, or 0 when somebody else was first.

        An unknown outcome is resolved by looking for our own audit record, whose key is new. When
        it is not there the write may still be on its way: that is said, never tried again.
        """
        try:
            outcome = await self._store.commit(compares, [*operations, audit])
        except OutcomeUnknown as error:
            mine = await self._store.get(audit.key)
            if mine is not None:
                return mine.mod_revision
            raise Uncertain(
                f"{error}; the change may or may not have been made: look, then try again"
            ) from error
        return outcome.revision if outcome.succeeded else 0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a decision was based on: the document's own revision and the store's."""

    mod_revision: int
    revision: int


def _emptied(document: object) -> AssignmentDocument:
    """Of the next generation: the host, should it come back, stops what it still runs."""
    assert isinstance(document, AssignmentDocument)
    return replace(document, generation=document.generation + 1, bundles=())


def _same(current: Release, wanted: Release) -> bool:
    """Quantities at first are no part of what runs."""

    def essence(spec: ProcessType) -> ProcessType:
        return replace(spec, initial_quantity=0)

    return (
        tuple(map(essence, current.types)) == tuple(map(essence, wanted.types))
        and dict(current.env) == dict(wanted.env)
        and current.workdir == wanted.workdir
    )


def _with_release(
    app: App | None, release: Release, quantities: Mapping[str, int], at_ms: int
) -> App:
    old = app or App(
        name=release.app, formation={}, release=0, latest_release=0, created_at_ms=at_ms
    )
    formation = dict(old.formation)
    for spec in release.types:
        formation.setdefault(spec.name, quantities.get(spec.name, spec.initial_quantity))
    return replace(old, formation=formation, release=release.number, latest_release=release.number)


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
