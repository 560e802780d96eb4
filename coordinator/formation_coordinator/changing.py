"""Changes of what is wanted, each as one compare-and-set on what was read: what all have in common.

Every change is a transaction that compares the documents it was decided on, and writes its audit
record in the same breath. A lost race reads and decides again, a bounded number of times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from typing import Self

from formation.model import App, AuditRecord, ProcessType, Release
from formation.seen import Rollout
from formation.wire import WireError
from formation_coordinator import candidates
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import (
    Compare,
    ModRevision,
    Operation,
    OutcomeUnknown,
    Put,
    Span,
    Store,
    StoreUnavailable,
    UnchangedSince,
)

ATTEMPTS_MAX = 8
# How often a write is sent whose answers are lost, and the pause while etcd serves nobody.
SENDS_MAX = 4
SEND_AGAIN_S = 0.5
# What people say. Not the leader's documents: etcd would read megabytes of them in each commit.
_SAID = (
    Span.prefix("apps/"),
    Span.prefix("autoscale/"),
    Span.prefix("hosts/"),
    Span.prefix("runs/"),
    Span(keys.REBALANCE, keys.REBALANCE + "\0"),
)


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


@dataclass(frozen=True, slots=True)
class Seen:
    """What a decision was based on: the document's own revision and the store's, and its bytes."""

    mod_revision: int
    revision: int
    value: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    app: App
    release: Release
    unchanged: bool
    revision: int


class Changing:
    """Reads, and commits with an audit record."""

    def __init__(
        self, *, store: Store, now_ms: Callable[[], int], new_id: Callable[[], str]
    ) -> None:
        self.store, self.now_ms, self.new_id = store, now_ms, new_id
        self.reviewed_revision = 0

    def reviewed(self, revision: int) -> Self:
        """One that commits only while people have decided nothing since; 0 asks nothing."""
        bound = copy(self)
        bound.reviewed_revision = revision
        return bound

    async def read_app(self, name: str) -> tuple[App | None, Seen]:
        snapshot = await self.store.ranges([Span(keys.app(name), keys.app(name) + "\0")])
        if not snapshot.items:
            return None, Seen(0, snapshot.revision)
        item = snapshot.items[0]
        record = codec.decode(item.key, item.value)
        assert isinstance(record, App)
        return record, Seen(item.mod_revision, snapshot.revision, item.value)

    async def read_release(self, app: App, number: int) -> Release | None:
        """Raises WireError for one that this version cannot read."""
        item = await self.store.get(keys.release(app.name, number))
        record = codec.decode(item.key, item.value) if item else None
        return record if isinstance(record, Release) else None

    async def read_newest(self, app: App) -> Release | None:
        """What the next release builds on, if it can be read."""
        with suppress(WireError):  # then anything that is applied now differs from it
            return await self.read_release(app, app.newest)
        return None

    async def read(self, name: str, *, newest: bool = False) -> tuple[App, Release, Seen]:
        """With the release that is current, or the one that the next builds on."""
        app, seen = await self.read_app(name)
        if app is None:
            raise Unknown(await self.no_such_app(name))
        number = app.newest if newest else app.release
        if not number:
            raise Refused(not_there_yet(app))
        try:
            release = await self.read_release(app, number)
        except WireError as error:
            raise Refused(f"app {name}: {error}; apply it again") from error
        if release is None:
            raise Refused(f"app {name}: its release v{number} is missing; apply it again")
        return app, release, seen

    async def read_types(self, name: str, type_name: str) -> tuple[App, Seen, list[str]]:
        """The app and the types that are meant: the named one, which must be there, or all."""
        app, release, seen = await self.read(name)
        known = [spec.name for spec in release.types]
        if type_name and type_name not in known:
            raise Unknown(f"app {name} has no type {type_name!r}; it has {', '.join(known)}")
        return app, seen, [type_name] if type_name else known

    async def next_number(self, app: App | None, name: str) -> int:
        if app is not None:
            return app.latest_release + 1
        left = (await self.store.ranges([keys.releases(name)])).items
        numbers = [int(item.key.rsplit("/", 1)[1]) for item in left]
        return max(numbers, default=0) + 1

    async def make_release(
        self,
        app: App | None,
        seen: Seen,
        release: Release,
        quantities: Mapping[str, int],
        word: Rollout,
        action: str,
    ) -> Applied | None:
        """The new release becomes the app's, or the candidate for it where it has a release
        command; None: somebody else was first."""
        release = replace(release, command_end=None)
        changed = with_release(app, release, quantities, word)
        puts = [
            Put(keys.app(changed.name), codec.encode(changed, seen.value)),
            Put(keys.release(changed.name, release.number), codec.encode(release)),
        ]
        if changed.candidate is not None:
            run = candidates.run_of(release, changed.candidate)
            puts.append(Put(keys.run(changed.name, run.id), codec.encode(run)))
        compares: list[Compare] = [ModRevision(keys.app(changed.name), seen.mod_revision)]
        compares += [ModRevision(put.key, 0) for put in puts[1:]]
        audit = self.audit(
            release.created_by,
            action,
            changed.name,
            f"canary {word.canary}" if word.canary else "",
            before=f"v{app.release}" if app and app.release else "",
            after=f"v{release.number}",
            why=release.reason,
        )
        revision = await self.commit(compares, puts, audit)
        if not revision:
            return None
        return Applied(app=changed, release=release, unchanged=False, revision=revision)

    async def put_app(self, app: App, seen: Seen, audit: Put, also: Sequence[Compare] = ()) -> int:
        """Like `commit`, when nothing else is written than the app as it was read and changed."""
        key = keys.app(app.name)
        compares = [ModRevision(key, seen.mod_revision), *also]
        return await self.commit(compares, [Put(key, codec.encode(app, seen.value))], audit)

    async def no_such_app(self, name: str) -> str:
        items = (await self.store.ranges([Span.prefix("apps/")])).items
        known = ", ".join(item.key.removeprefix("apps/") for item in items)
        return f"no app {name!r}; " + (f"there is {known}" if known else "none was applied yet")

    def audit(self, who: str, action: str, subject: str, detail: str = "", **more: str) -> Put:
        """`more`: before, after, why."""
        at_ms = self.now_ms()
        record = AuditRecord(
            at_ms=at_ms, who=who, action=action, subject=subject, detail=detail, **more
        )
        return Put(keys.audit(at_ms, self.new_id()), codec.encode(record))

    async def commit(
        self, compares: Sequence[Compare], operations: Sequence[Operation], audit: Put
    ) -> int:
        """The revision of the commit, or 0 when somebody else was first.

        A write whose answer was lost is looked for, and sent again when it is not there. It can
        succeed but once: it makes our audit record, and only where that is not there yet.
        """
        asked = [UnchangedSince(span, self.reviewed_revision) for span in _SAID]
        guards = [*compares, ModRevision(audit.key, 0), *(asked if self.reviewed_revision else ())]
        unknown: OutcomeUnknown | None = None
        for _ in range(SENDS_MAX):
            try:
                outcome = await self.store.commit(guards, [*operations, audit])
            except OutcomeUnknown as error:
                unknown = error
            except StoreUnavailable:
                if unknown is None:
                    raise
                await asyncio.sleep(SEND_AGAIN_S)
            else:
                return outcome.revision if outcome.succeeded else await self._judged(audit, unknown)
            mine = await self.store.get(audit.key)
            if mine is not None:
                return mine.mod_revision
        raise Uncertain(
            f"{unknown}; the change may or may not have been made: look, then try again"
        ) from unknown

    async def _judged(self, audit: Put, unknown: OutcomeUnknown | None) -> int:
        """A compare failed: because of others, or of our own first try."""
        mine = await self.store.get(audit.key) if unknown else None
        if mine is not None:
            return mine.mod_revision
        if self.reviewed_revision:
            now = (await self.store.ranges([Span(audit.key, audit.key + "\0")])).revision
            raise plan_again(self.reviewed_revision, now)
        return 0


def plan_again(reviewed: int, now: int) -> Refused:
    return Refused(
        f"the cluster has changed since that plan (revision {reviewed}, now {now}): plan again"
    )


def race_lost(app: str) -> RaceLost:
    return RaceLost(f"app {app}: others are changing it at the same time; try again")


def same_release(current: Release, wanted: Release) -> bool:
    """Quantities at first are no part of what runs."""

    def essence(spec: ProcessType) -> ProcessType:
        return replace(spec, initial_quantity=0)

    return (
        tuple(map(essence, current.types)) == tuple(map(essence, wanted.types))
        and dict(current.env) == dict(wanted.env)
        and dict(current.config) == dict(wanted.config)
        and (current.workdir, current.artifact) == (wanted.workdir, wanted.artifact)
        and current.build == wanted.build
        and current.command == wanted.command
    )


def handed_on(current: Release | None, wanted: Release, *, keep_artifact: bool = False) -> Release:
    """With what operators have set: it outlives what the project says. `keep_artifact`: and with
    the code that was deployed, if any was."""
    if current is None:
        return wanted
    if keep_artifact and wanted.artifact is None and current.artifact is not None:
        wanted = replace(wanted, artifact=current.artifact, workdir="")
    return replace(wanted, config=current.config, secrets=current.secrets)


def not_there_yet(app: App) -> str:
    """Of an app whose first release has not passed."""
    said = f"app {app.name}: it has no release yet"
    if app.candidate is not None:
        return f"{said}, v{app.candidate.release} waits for its release command"
    return f"{said}; {app.rollout.reason}" if app.rollout.reason else said


def with_release(
    app: App | None, release: Release, quantities: Mapping[str, int], word: Rollout
) -> App:
    """With the release as what is wanted; or, when it has a release command, as its candidate."""
    old = app or App(
        name=release.app,
        formation={},
        release=0,
        latest_release=0,
        created_at_ms=release.created_at_ms,
    )
    formation = dict(old.formation)
    for spec in release.types:
        formation.setdefault(spec.name, quantities.get(spec.name, spec.initial_quantity))
    if release.command is not None:
        return candidates.entered(old, release, formation, word)
    return replace(
        old,
        formation=formation,
        release=release.number,
        latest_release=release.number,
        rollout=word,
        candidate=None,
    )
