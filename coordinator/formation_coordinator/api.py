"""Serves `formation.v1.Control`: checks what came in, calls control and views, words the errors.

Reads come from this coordinator's own world, so they work on every coordinator and while etcd is
away; a caller that has just changed something asks for a world at least that new (`min_revision`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from typing import Any

import grpc

import formation
from formation import wire
from formation.model import (
    App,
    AuditRecord,
    Coordinator,
    Release,
)
from formation.v1 import control_pb2 as pb
from formation.v1 import control_pb2_grpc, types_pb2
from formation_coordinator import control, views
from formation_coordinator.checks import BadRelease, release_wanted
from formation_coordinator.live import LiveWorld
from formation_coordinator.logfan import LogFan
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Store, StoreError, TooLarge
from formation_coordinator.store.mirror import Mirror
from formation_coordinator.usagefan import UsageFan
from formation_coordinator.watching import InstanceWatch

log = logging.getLogger(__name__)

MIRROR_WAIT_S = 5.0
_CODES = {
    control.Unknown: grpc.StatusCode.NOT_FOUND,
    control.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    control.Refused: grpc.StatusCode.FAILED_PRECONDITION,
    control.RaceLost: grpc.StatusCode.ABORTED,
    control.Uncertain: grpc.StatusCode.UNKNOWN,
}
Context = grpc.aio.ServicerContext[Any, Any]
Unary = Callable[[Any, Any, Context], Awaitable[Any]]


def _worded(method: Unary) -> Unary:
    """Turn our exceptions into a status with one line for people."""

    @wraps(method)
    async def call(self: Any, request: Any, context: Context) -> Any:
        try:
            return await method(self, request, context)
        except (control.ControlError, StoreError, wire.WireError, BadRelease) as error:
            code, words = _status_of(error)
        return await context.abort(code, words)

    return call


def _status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, control.ControlError):
        return _CODES[type(error)], str(error)
    if isinstance(error, wire.WireError | BadRelease | TooLarge):
        return grpc.StatusCode.INVALID_ARGUMENT, str(error)
    return grpc.StatusCode.UNAVAILABLE, str(error)


class ControlService(control_pb2_grpc.ControlServicer):
    def __init__(
        self,
        *,
        store: Store,
        mirror: Mirror,
        live: LiveWorld,
        changes: control.Control,
        logs: LogFan,
        usage: UsageFan,
        watch: InstanceWatch,
        me: Coordinator,
        clock: Callable[[], float],
        replace_after_s: float,
        connected: Callable[[], bool],
    ) -> None:
        self._store, self._mirror, self._live = store, mirror, live
        self._changes, self._logs, self._usage, self._watch = changes, logs, usage, watch
        self._me, self._clock, self._replace_after_s = me, clock, replace_after_s
        self._connected = connected

    def _ready(self) -> None:
        if not self._mirror.ready.is_set():
            why = self._mirror.failure or "the store is not read yet"
            raise StoreError(f"coordinator {self._me.id} is not ready: {why}")

    def _known_app(self, name: str) -> App:
        app = self._live.world.apps.get(name)
        if app is None:
            known = ", ".join(sorted(self._live.world.apps)) or "none"
            raise control.Unknown(f"no app {name!r}; known apps: {known}")
        return app

    # ------------------------------------------------------------------ changes

    @_worded
    async def Apply(self, request: pb.ApplyRequest, context: Context) -> pb.ApplyResponse:  # noqa: N802
        self._ready()
        wanted = release_wanted(request)
        applied = await self._changes.apply(wanted, dict(request.formation), request.who)
        return pb.ApplyResponse(
            release=wire.release_to_pb(applied.release),
            app=wire.app_to_pb(applied.app),
            unchanged=applied.unchanged,
            revision=applied.revision,
        )

    @_worded
    async def Scale(self, request: pb.ScaleRequest, context: Context) -> pb.ScaleResponse:  # noqa: N802
        self._ready()
        words = [wire.quantity_change_from_pb(change) for change in request.changes]
        scaled = await self._changes.scale(request.app, words, request.who)
        return pb.ScaleResponse(before=scaled.before, after=scaled.after, revision=scaled.revision)

    @_worded
    async def Restart(self, request: pb.RestartRequest, context: Context) -> pb.RestartResponse:  # noqa: N802
        self._ready()
        stays, revision = await self._changes.restart(
            request.app, request.type, request.ordinal, request.who, self._live.world
        )
        replaced = [wire.assignment_to_pb(item) for item in stays]
        return pb.RestartResponse(replaced=replaced, revision=revision)

    @_worded
    async def Retry(self, request: pb.RetryRequest, context: Context) -> pb.RetryResponse:  # noqa: N802
        self._ready()
        stays, revision = await self._changes.retry(
            request.app, request.type, request.ordinal, request.who, self._live.world
        )
        retried = [wire.assignment_to_pb(item) for item in stays]
        return pb.RetryResponse(retried=retried, revision=revision)

    @_worded
    async def DeleteApp(self, request: pb.DeleteAppRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        revision = await self._changes.delete_app(request.app, request.who)
        return pb.DeleteAppResponse(revision=revision)

    @_worded
    async def ForgetHost(self, request: pb.ForgetHostRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        await self._changes.forget_host(request.host, request.who)
        return pb.ForgetHostResponse()

    # ------------------------------------------------------------------ reads

    @_worded
    async def GetCluster(self, request: pb.GetClusterRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        world = self._live.world
        coordinators = sorted(world.coordinators.values(), key=lambda item: item.id)
        return pb.GetClusterResponse(
            cluster=wire.cluster_to_pb(world.cluster) if world.cluster else None,
            coordinators=[wire.coordinator_to_pb(item) for item in coordinators],
            leader_id=world.leader.id if world.leader else "",
            coordinator_id=self._me.id,
            version=formation.__version__,
            store_connected=self._connected(),
        )

    @_worded
    async def ListApps(self, request: pb.ListAppsRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        world = self._live.world
        found = []
        for name in sorted(world.apps):
            app = world.apps[name]
            release = world.current_release(app)
            found.append(
                pb.AppView(
                    app=wire.app_to_pb(app),
                    release=_without_values(release) if release else None,
                    healthy=views.healthy_count(world, name),
                    wanted=sum(views.wanted_of(world, app).values()),
                )
            )
        return pb.ListAppsResponse(apps=found)

    @_worded
    async def ListReleases(self, request: pb.ListReleasesRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        app, world = self._known_app(request.app), self._live.world
        found = [r for (name, _), r in world.releases.items() if name == app.name and r.types]
        newest_first = sorted(found, key=lambda release: -release.number)
        return pb.ListReleasesResponse(
            releases=[_without_values(release) for release in newest_first], current=app.release
        )

    @_worded
    async def ListHosts(self, request: pb.ListHostsRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        found = views.hosts(
            self._live.world, now_s=self._clock(), replace_after_s=self._replace_after_s
        )
        return pb.ListHostsResponse(hosts=[_host_view(view) for view in found])

    @_worded
    async def Usage(self, request: pb.UsageRequest, context: Context) -> pb.UsageResponse:  # noqa: N802
        self._ready()
        if request.app and not request.relayed:
            self._known_app(request.app)
        return await self._usage.read(request)

    @_worded
    async def ListAudit(self, request: pb.ListAuditRequest, context: Context) -> Any:  # noqa: N802
        items = (await self._store.ranges([keys.AUDIT])).items
        newest = items[::-1][: request.limit or 100]
        decoded = [codec.decode(item.key, item.value) for item in newest]
        records = [wire.audit_to_pb(r) for r in decoded if isinstance(r, AuditRecord)]
        return pb.ListAuditResponse(records=records)

    # ------------------------------------------------------------------ streams

    async def WatchInstances(  # noqa: N802
        self, request: pb.WatchInstancesRequest, context: Context
    ) -> AsyncIterator[pb.WatchUpdate]:
        try:
            self._ready()
            await self._mirror.wait_for(request.min_revision, MIRROR_WAIT_S)
            if request.app and request.once:
                self._known_app(request.app)
        except (control.ControlError, StoreError) as error:
            code, words = _status_of(error)
            await context.abort(code, words)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, "this coordinator lags behind etcd; try again"
            )
        async for update in self._watch.updates(request.app, once=request.once):
            yield update

    async def Logs(  # noqa: N802
        self, request: pb.LogsRequest, context: Context
    ) -> AsyncIterator[pb.LogsResponse]:
        try:
            self._ready()
        except StoreError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        async for response in self._logs.read(request):
            yield response


def _without_values(release: Release) -> types_pb2.Release:
    """Names of the config only: values may be secrets."""
    message = wire.release_to_pb(release)
    for name in message.env:
        message.env[name] = ""
    return message


def _host_view(view: views.HostView) -> pb.HostView:
    entry = view.entry
    status = wire.host_status_to_pb(entry.status) if entry.status else types_pb2.HostStatus()
    status.host = entry.name
    del status.instances[:]
    return pb.HostView(
        status=status,
        state=pb.HostState.ValueType(int(view.state)),
        instances=view.instances,
        healthy=view.healthy,
        coordinator_id=entry.session.coordinator_id if entry.session else "",
        since_ms=entry.session.since_ms if entry.session else 0,
    )
