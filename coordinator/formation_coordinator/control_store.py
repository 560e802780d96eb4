"""What operators do with the store as a whole: back it up, put a backup in its place, say that it
counts as it is. A thin shell over `backup`, `restoring` and `timeline`.

A restore is many transactions. The first says so in `cluster` and deposes the leader; from then on
everything is held, also when we die half-way. The last one says what it is held for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import formation
from formation.model import Cluster
from formation_coordinator import restoring, timeline
from formation_coordinator.backup import KINDS, About, Backup, BackupError, pack, unpack
from formation_coordinator.changing import Changing, Invalid, RaceLost, Refused
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import (
    Compare,
    Delete,
    ModRevision,
    Operation,
    OutcomeUnknown,
    Put,
    Snapshot,
    Span,
    StoreError,
    UnchangedSince,
    split,
)
from formation_coordinator.world import Change, World

SCHEMA_VERSION = 1
_SPANS = (
    Span(keys.CLUSTER, keys.CLUSTER + "\0"),
    *(Span.prefix(f"{kind}/") for kind in KINDS if kind != keys.CLUSTER),
)
_APPS = Span.prefix("apps/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """`revision` 0: only looked at."""

    about: About
    apps: tuple[restoring.RestoredApp, ...]
    hosts: int
    revision: int = 0


class StoreControl(Changing):
    # ------------------------------------------------------------------ backup

    async def backup(self) -> tuple[bytes, Snapshot]:
        """The bytes of a file, and what went into it, all of one revision. Raises `Refused` when
        there is no cluster."""
        snapshot = await self.store.ranges(_SPANS)
        try:
            data = pack(
                snapshot.items,
                revision=snapshot.revision,
                made_at_ms=self.now_ms(),
                version=formation.__version__,
            )
        except BackupError as error:
            raise Refused(str(error)) from error
        return data, snapshot

    # ------------------------------------------------------------------ restore

    async def restore(
        self, data: bytes, world: World, who: str, *, over: bool, dry_run: bool
    ) -> Restored:
        """`over`: also in the place of apps that there are. Raises `Invalid` for what is no good
        backup, `Refused`, `RaceLost`, StoreError."""
        try:
            given = unpack(data, schema_version=SCHEMA_VERSION)
        except BackupError as error:
            raise Invalid(str(error)) from error
        now = await self.store.ranges(_SPANS)
        found = Restored(
            about=given.about,
            apps=tuple(restoring.compared(given, now)),
            hosts=sum(key.startswith("hosts/") for key in given.values),
        )
        if dry_run:
            return found
        if not over:
            _refuse_over(given, now, world)
        revision = await self._put_in_place(given, now, who)
        return replace(found, revision=revision)

    async def _put_in_place(self, given: Backup, now: Snapshot, who: str) -> int:
        key = keys.cluster()
        old = next((item for item in now.items if item.key == key), None)
        # Without one, etcd is empty: this founds the cluster again.
        cluster = codec.decode(key, old.value if old else given.values[key])
        assert isinstance(cluster, Cluster)
        held = replace(cluster, held=timeline.RESTORING)
        began = codec.encode(held, old.value if old else given.values[key])
        compares: list[Compare] = [
            ModRevision(key, old.mod_revision if old else 0),
            *(UnchangedSince(span, now.revision) for span in _SPANS[1:3]),
        ]
        audit = self.audit(who, "restore", "cluster", f"of revision {given.about.revision}")
        # Without its key a leader's writes fail; the next one sees that everything is held.
        first = await self.commit(compares, [Put(key, began), Delete(keys.leader())], audit)
        if not first:
            raise RaceLost("others are changing the cluster at the same time; try again")
        try:
            last = await self._put_records(restoring.operations(given, now), first)
            return await self._finish(given, cluster, first, last)
        except (StoreError, RaceLost) as error:
            raise Refused(f"the restore broke off: {error}. {timeline.RESTORING}") from error

    async def _put_records(self, operations: Sequence[Operation], first: int) -> int:
        last = first
        for batch in split(operations):
            last = await self._step(first, last, batch)
        return last

    async def _finish(self, given: Backup, before: Cluster, first: int, last: int) -> int:
        restored = codec.decode(keys.cluster(), given.values[keys.CLUSTER])
        assert isinstance(restored, Cluster)
        epoch = max(restored.epoch, before.epoch)
        cluster = replace(restored, epoch=epoch, held=restoring.held_for(given.about))
        return await self._step(
            first, last, [Put(keys.cluster(), codec.encode(cluster, given.values[keys.CLUSTER]))]
        )

    async def _step(self, first: int, last: int, batch: Sequence[Operation]) -> int:
        """One transaction, while nobody else restores or changes apps."""
        fences: list[Compare] = [ModRevision(keys.cluster(), first), UnchangedSince(_APPS, last)]
        try:
            outcome = await self.store.commit(fences, batch)
        except OutcomeUnknown as error:
            raise StoreError(str(error)) from error
        if not outcome.succeeded:
            raise RaceLost("somebody changed an app, or restores too, at the same time")
        return outcome.revision

    # ------------------------------------------------------------------ the operator's word

    def confirmed_in_thought(self, world: World) -> Change:
        """What the word would write, for a plan. Raises `Refused`."""
        if not timeline.held_now(world):
            raise Refused("nothing is held: etcd and the hosts agree")
        if world.cluster is None or world.cluster.held == timeline.RESTORING:
            raise Refused(timeline.RESTORING)
        cluster = replace(world.cluster, epoch=timeline.next_epoch(world), held="")
        return Change(kind="cluster", names=(), record=cluster)

    async def confirm(self, world: World, who: str, why: str, *, now_s: float) -> tuple[int, int]:
        """The new epoch of the cluster, and the revision. Raises `Refused`, `RaceLost`."""
        cluster = self.confirmed_in_thought(world).record
        assert isinstance(cluster, Cluster)
        risk = timeline.may_still_run(world, now_s)
        if risk:
            raise Refused(risk)
        item = await self.store.get(keys.cluster())
        if item is None or codec.decode(item.key, item.value) != world.cluster:
            raise RaceLost("the cluster's record has just changed; look, then try again")
        audit = self.audit(who, "reconcile", "cluster", f"epoch {cluster.epoch}", why=why)
        put = Put(item.key, codec.encode(cluster, item.value))
        revision = await self.commit([ModRevision(item.key, item.mod_revision)], [put], audit)
        if not revision:
            raise RaceLost("the cluster's record has just changed; look, then try again")
        return cluster.epoch, revision


def _refuse_over(given: Backup, now: Snapshot, world: World) -> None:
    apps = [item.key.removeprefix("apps/") for item in now.items if item.key.startswith("apps/")]
    if apps:
        raise Refused(
            f"there are apps in this cluster ({', '.join(sorted(apps))}); --replace puts the"
            " backup in their place"
        )
    connected = [entry.name for entry in world.hosts.values() if entry.connected]
    if connected and world.cluster and world.cluster.id != given.about.cluster_id:
        raise Refused(
            f"the backup is of cluster {given.about.cluster_id}, and {', '.join(connected[:3])}"
            f" joined this one, {world.cluster.id}: such hosts would obey nobody any more;"
            " --replace does it all the same"
        )
