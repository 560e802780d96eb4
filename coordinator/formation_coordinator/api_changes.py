"""The half of `formation.v1.Control` that changes something. Checks what came in, calls control."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from formation import wire
from formation.artifacts import Artifact
from formation.model import Release
from formation.v1 import control_pb2 as pb
from formation.v1 import control_pb2_grpc, types_pb2
from formation.wire_maps import in_order
from formation_coordinator.api_errors import Context, status_of, worded
from formation_coordinator.backup import SIZE_MAX
from formation_coordinator.changing import Applied, ControlError, Invalid, plan_again
from formation_coordinator.checks import release_wanted
from formation_coordinator.control import Control
from formation_coordinator.control_hosts import HostControl, HostWord
from formation_coordinator.control_releases import ReleaseControl, Steering
from formation_coordinator.control_runs import RunControl
from formation_coordinator.control_secrets import SecretControl
from formation_coordinator.control_store import StoreControl
from formation_coordinator.live import LiveWorld
from formation_coordinator.planning import Planning, spread_to_pb
from formation_coordinator.store import keys
from formation_coordinator.store.base import Span, Store, StoreError
from formation_coordinator.store.mirror import Mirror
from formation_coordinator.vault import Vault

_STEERINGS = {
    pb.SteerRolloutRequest.ACTION_PAUSE: Steering.PAUSE,
    pb.SteerRolloutRequest.ACTION_RESUME: Steering.RESUME,
    pb.SteerRolloutRequest.ACTION_ABORT: Steering.ABORT,
    pb.SteerRolloutRequest.ACTION_PROMOTE: Steering.PROMOTE,
}
LEASE_WAIT_S = 1.0
LEASE_LOOK_S = 0.05
PART_BYTES = 1 << 20


class ChangeApi(control_pb2_grpc.ControlServicer):
    """`plans` computes a rebalance; `live` says what a change was planned on; `cut_off()` why we
    cannot know how things are, or "". `have` an app's artifact, or refuse."""

    def __init__(
        self,
        *,
        store: Store,
        mirror: Mirror,
        live: LiveWorld,
        apps: Control,
        releases: ReleaseControl,
        hosts: HostControl,
        runs: RunControl,
        secrets: SecretControl,
        vault: Vault,
        whole: StoreControl,
        plans: Planning,
        clock: Callable[[], float],
        cut_off: Callable[[], str],
        have: Callable[[str, Artifact], Awaitable[None]],
    ) -> None:
        self._store, self._mirror, self._live = store, mirror, live
        self._apps, self._releases, self._hosts, self._runs = apps, releases, hosts, runs
        self._secrets, self._vault = secrets, vault
        self._whole, self._plans, self._clock = whole, plans, clock
        self._cut_off, self._have = cut_off, have

    def _ready(self) -> None:
        if not self._mirror.ready.is_set():
            why = self._mirror.failure or "the store is not read yet"
            raise StoreError(f"this coordinator is not ready: {why}")

    async def _may_change(self) -> None:
        """Refuses soon, so that the caller goes on to another coordinator. etcd that has just come
        back gives us our lease within a moment."""
        self._ready()
        ends_s = self._clock() + LEASE_WAIT_S
        while why := self._cut_off():
            if self._clock() > ends_s:
                raise StoreError(f"this coordinator is not ready for changes: it {why}")
            await asyncio.sleep(LEASE_LOOK_S)

    async def _as_planned(self, revision: int) -> None:
        """Raises `Refused` when something was decided since that revision; 0 asks nothing.

        Here also for what the leader decided; the commit itself compares what people said.
        """
        if not revision:
            return
        await self._live.reach((await self._store.ranges([Span.prefix(keys.LEADER)])).revision)
        decided = self._live.world.decided_revision
        if decided > revision:
            raise plan_again(revision, decided)

    # ------------------------------------------------------------------ changes

    @worded
    async def Apply(self, request: pb.ApplyRequest, context: Context) -> pb.ApplyResponse:  # noqa: N802
        await self._may_change()
        wanted = release_wanted(request)
        if wanted.artifact is not None:
            await self._have(wanted.app, wanted.artifact)
        await self._as_planned(request.if_revision)
        applied = await self._apps.reviewed(request.if_revision).apply(
            wanted,
            in_order(request.formation),
            request.who,
            canary=request.canary,
            keep_artifact=request.keep_artifact,
        )
        return pb.ApplyResponse(**_applied(applied))

    @worded
    async def Scale(self, request: pb.ScaleRequest, context: Context) -> pb.ScaleResponse:  # noqa: N802
        await self._may_change()
        words = [wire.quantity_change_from_pb(change) for change in request.changes]
        await self._as_planned(request.if_revision)
        apps = self._apps.reviewed(request.if_revision)
        if request.undo:
            scaled = await apps.undo_scale(request.app, request.who, request.why)
        else:
            scaled = await apps.scale(request.app, words, request.who, request.why)
        return pb.ScaleResponse(before=scaled.before, after=scaled.after, revision=scaled.revision)

    @worded
    async def Restart(self, request: pb.RestartRequest, context: Context) -> pb.RestartResponse:  # noqa: N802
        await self._may_change()
        stays, revision = await self._apps.restart(
            request.app, request.type, request.ordinal, request.who, self._live.world
        )
        replaced = [wire.assignment_to_pb(item) for item in stays]
        return pb.RestartResponse(replaced=replaced, revision=revision)

    @worded
    async def Retry(self, request: pb.RetryRequest, context: Context) -> pb.RetryResponse:  # noqa: N802
        await self._may_change()
        stays, revision = await self._apps.retry(
            request.app, request.type, request.ordinal, request.who, self._live.world
        )
        retried = [wire.assignment_to_pb(item) for item in stays]
        return pb.RetryResponse(retried=retried, revision=revision)

    @worded
    async def DeleteApp(self, request: pb.DeleteAppRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        revision = await self._apps.delete_app(request.app, request.who)
        return pb.DeleteAppResponse(revision=revision)

    @worded
    async def ForgetHost(self, request: pb.ForgetHostRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        await self._hosts.forget_host(request.host, request.who, self._live.world)
        return pb.ForgetHostResponse()

    @worded
    async def SetConfig(self, request: pb.SetConfigRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        applied = await self._releases.set_config(
            request.app,
            in_order(request.set),
            tuple(request.unset),
            request.who,
            reason=request.reason,
            canary=request.canary,
        )
        return pb.SetConfigResponse(**_applied(applied))

    @worded
    async def SetSecrets(self, request: pb.SetSecretsRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        if request.set and not self._vault.sealer:  # the first secret of this cluster
            key = await self._vault.another_key()
            await self._live.reach(await self._secrets.turn_to(key, "", request.who))
        applied = await self._secrets.set_secrets(
            request.app,
            in_order(request.set),
            list(request.unset),
            request.who,
            self._vault,
            reason=request.reason,
            canary=request.canary,
        )
        return pb.SetSecretsResponse(**_applied(applied))

    @worded
    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        await self._as_planned(request.if_revision)
        applied = await self._releases.reviewed(request.if_revision).rollback(
            request.app, request.release, request.who, request.why
        )
        return pb.RollbackResponse(**_applied(applied))

    @worded
    async def SteerRollout(self, request: pb.SteerRolloutRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        how = _STEERINGS.get(request.action)
        if how is None:
            raise wire.WireError(f"unknown action on a rollout: {request.action}")
        app, revision = await self._releases.steer(request.app, how, request.who, request.why)
        return pb.SteerRolloutResponse(app=wire.app_to_pb(app), revision=revision)

    @worded
    async def SetHost(self, request: pb.SetHostRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        await self._as_planned(request.if_revision)
        has = request.HasField
        word = HostWord(
            cordoned=request.cordoned if has("cordoned") else None,
            draining=request.draining if has("draining") else None,
            drain_deadline_s=max(0.0, request.drain_deadline_s),
            labels=in_order(request.labels),
            unset=tuple(request.unset_labels),
        )
        hosts = self._hosts.reviewed(request.if_revision)
        host, revision = await hosts.set_host(request.host, word, request.who, request.why)
        return pb.SetHostResponse(host=wire.host_to_pb(host), revision=revision)

    @worded
    async def StartRebalance(self, request: pb.StartRebalanceRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        await self._as_planned(request.if_revision)
        found = await self._plans.balanced(request.wish.app, request.wish.moves_max)
        revision = 0
        if found.moves:
            hosts = self._hosts.reviewed(request.if_revision)
            revision = await hosts.rebalance(found.moves, request.who)
        return pb.StartRebalanceResponse(
            moves=[wire.move_to_pb(move) for move in found.moves],
            types=[spread_to_pb(spread) for spread in found.types],
            revision=revision,
        )

    @worded
    async def StartRun(self, request: pb.StartRunRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        run, revision = await self._runs.start(
            request.app, request.like, request.command, request.who
        )
        return pb.StartRunResponse(run=wire.run_to_pb(run), revision=revision)

    @worded
    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        revision = await self._runs.cancel(request.app, request.id, request.who)
        return pb.CancelRunResponse(revision=revision)

    # ------------------------------------------------------------------ the store as a whole

    async def Backup(  # noqa: N802
        self, request: pb.BackupRequest, context: Context
    ) -> AsyncIterator[pb.BackupPart]:
        try:
            self._ready()
            data, snapshot = await self._whole.backup()
        except (ControlError, StoreError, wire.WireError) as error:
            code, words = status_of(error)
            await context.abort(code, words)
        kinds = Counter(item.key.partition("/")[0] for item in snapshot.items)
        yield pb.BackupPart(revision=snapshot.revision, apps=kinds["apps"], hosts=kinds["hosts"])
        for start in range(0, len(data), PART_BYTES):
            yield pb.BackupPart(data=data[start : start + PART_BYTES])

    @worded
    async def Restore(  # noqa: N802
        self, request: AsyncIterator[pb.RestorePart], context: Context
    ) -> pb.RestoreResponse:
        await self._may_change()
        options, data = pb.RestoreOptions(), bytearray()
        async for part in request:
            if part.HasField("options"):
                options = part.options
            data += part.data
            if len(data) > SIZE_MAX:
                raise Invalid(f"a backup of more than {SIZE_MAX >> 20} MiB is no backup")
        restored = await self._whole.restore(
            bytes(data),
            self._live.world,
            options.who,
            over=options.replace,
            dry_run=options.dry_run,
        )
        about = restored.about
        return pb.RestoreResponse(
            revision=restored.revision,
            cluster_id=about.cluster_id,
            made_at_ms=about.made_at_ms,
            version=about.version,
            apps=[
                pb.RestoredApp(name=app.name, before=app.before, after=app.after)
                for app in restored.apps
            ],
            hosts=restored.hosts,
        )

    @worded
    async def Reconcile(self, request: pb.ReconcileRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        await self._as_planned(request.if_revision)
        whole = self._whole.reviewed(request.if_revision)
        epoch, revision = await whole.confirm(
            self._live.world, request.who, request.why, now_s=self._clock()
        )
        return pb.ReconcileResponse(cluster_epoch=epoch, revision=revision)


def without_values(release: Release) -> types_pb2.Release:
    """Names of variables only: values may be secrets. Of secrets the versions."""
    message = wire.release_to_pb(release)
    of_types = (spec.env for spec in message.types)
    for variables in (message.env, message.config, *of_types):
        for name in variables:
            variables[name] = ""
    for secret in message.secrets.values():
        secret.CopyFrom(types_pb2.Secret(version=secret.version))
    return message


def _applied(applied: Applied) -> dict[str, Any]:
    return {
        "release": without_values(applied.release),
        "app": wire.app_to_pb(applied.app),
        "unchanged": applied.unchanged,
        "revision": applied.revision,
    }
