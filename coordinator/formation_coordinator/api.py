"""Serves `formation.v1.Control`: checks what came in, calls control and views, words the errors.

Reads come from this coordinator's own world, so they work on every coordinator and while etcd is
away; a caller that has just changed something asks for a world at least that new (`min_revision`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import grpc
from msgspec import structs

import formation
from formation import wire
from formation.model import App, AuditRecord, Coordinator, HostStatus, Release, Slot
from formation.releasecommand import run_id
from formation.v1 import control_pb2 as pb
from formation.v1 import exec_pb2
from formation.wire_maps import in_order
from formation_coordinator import views
from formation_coordinator.api_automation import AutomationApi
from formation_coordinator.api_changes import without_values
from formation_coordinator.api_errors import Context, status_of, worded
from formation_coordinator.changing import ControlError, Refused, Unknown
from formation_coordinator.checks import release_wanted
from formation_coordinator.chronicle import Chronicle, Event
from formation_coordinator.counting import HealthyCounts
from formation_coordinator.execroom import ExecRoom
from formation_coordinator.explain import UnknownSlot
from formation_coordinator.happened import Happening
from formation_coordinator.logfan import LogFan
from formation_coordinator.planning import forecast_to_pb
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import StoreError
from formation_coordinator.turns import Turns
from formation_coordinator.usagefan import UsageFan
from formation_coordinator.watching import InstanceWatch
from formation_coordinator.world import Change, World

MIRROR_WAIT_S = 5.0


class ControlService(AutomationApi):
    """`changes`: what `AutomationApi` is made with, but for `me`."""

    def __init__(
        self,
        *,
        logs: LogFan,
        execs: ExecRoom,
        usage: UsageFan,
        watch: InstanceWatch,
        chronicle: Chronicle,
        me: Coordinator,
        outdated: Callable[[], str],
        replace_after_s: float,
        **changes: Any,
    ) -> None:
        super().__init__(me=me, **changes)
        self._logs, self._usage, self.watch = logs, usage, watch
        self.execs, self._counts, self._turns = execs, HealthyCounts(), Turns(self._clock)
        self.chronicle = chronicle
        self._replace_after_s, self._outdated = replace_after_s, outdated

    def _ready(self) -> None:
        if not self._mirror.ready.is_set():
            why = self._mirror.failure or "the store is not read yet"
            raise StoreError(f"coordinator {self._me.id} is not ready: {why}")

    def unsure(self) -> str:
        """Why nobody should go by what is known here now; or ""."""
        if not self._mirror.ready.is_set():
            return f"coordinator {self._me.id} is not ready"
        return self._outdated()

    async def _counted(self) -> World:
        """The world as it is now. What of it was not counted yet leaves time for others."""
        for _ in self._counts.catch_up(self._live.world):
            await self._turns.turn()
        return self._live.world

    def _known_app(self, name: str) -> App:
        app = self._live.world.apps.get(name)
        if app is None:
            known = ", ".join(sorted(self._live.world.apps)) or "none"
            raise Unknown(f"no app {name!r}; known apps: {known}")
        return app

    # ------------------------------------------------------------------ reads

    @worded
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
            store_connected=not self._cut_off(),
        )

    @worded
    async def ListApps(self, request: pb.ListAppsRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        world = await self._counted()
        found = []
        for name in sorted(world.apps):
            app = world.apps[name]
            release = world.current_release(app)
            found.append(
                pb.AppView(
                    app=wire.app_to_pb(app),
                    release=without_values(release) if release else None,
                    healthy=self._counts.of_app(world, name),
                    wanted=sum(views.wanted_of(world, app).values()),
                )
            )
        return pb.ListAppsResponse(apps=found)

    @worded
    async def ListReleases(self, request: pb.ListReleasesRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        app, world = self._known_app(request.app), self._live.world
        found = [r for (name, _), r in world.releases.items() if name == app.name and r.types]
        newest_first = sorted(found, key=lambda release: -release.number)
        return pb.ListReleasesResponse(
            releases=[without_values(release) for release in newest_first], current=app.release
        )

    @worded
    async def ListHosts(self, request: pb.ListHostsRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        found = views.hosts(
            await self._counted(),
            self._counts,
            now_s=self._clock(),
            replace_after_s=self._replace_after_s,
        )
        note = self._outdated() or await self._plans.standstill()
        return pb.ListHostsResponse(
            hosts=[_host_view(view) for view in found],
            note=note,
            warning=views.insecurity(self._live.world, self._me),
        )

    @worded
    async def Usage(self, request: pb.UsageRequest, context: Context) -> pb.UsageResponse:  # noqa: N802
        self._ready()
        if request.app and not request.relayed:
            self._known_app(request.app)
        return await self._usage.read(request)

    @worded
    async def ListAudit(self, request: pb.ListAuditRequest, context: Context) -> Any:  # noqa: N802
        items = (await self._store.ranges([keys.AUDIT])).items
        decoded = (codec.decode(item.key, item.value) for item in reversed(items))
        found = (
            record
            for record in decoded
            if isinstance(record, AuditRecord) and request.subject in ("", record.subject)
        )
        newest = islice(found, request.limit or 100)
        return pb.ListAuditResponse(records=[wire.audit_to_pb(record) for record in newest])

    @worded
    async def GetConfig(self, request: pb.GetConfigRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        app = self._known_app(request.app)
        release = self._newest_release(app)
        return pb.GetConfigResponse(
            variables=_variables(release, values=request.values), release=release.number
        )

    @worded
    async def ListSecrets(self, request: pb.ListSecretsRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        app, world = self._known_app(request.app), self._live.world
        release = self._newest_release(app)
        found = [_secret_view(world, release, name) for name in views.secret_names(release)]
        return pb.ListSecretsResponse(secrets=found, release=release.number)

    @worded
    async def DiffReleases(self, request: pb.DiffReleasesRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        app = self._known_app(request.app)
        before, after = (self._release(app, n) for n in (request.before, request.after))
        old, new = ({**r.env, **r.config} for r in (before, after))
        return pb.DiffReleasesResponse(
            before=without_values(before),
            after=without_values(after),
            changed_env=sorted(n for n in old.keys() & new.keys() if old[n] != new[n]),
        )

    def _newest_release(self, app: App) -> Release:
        """What a change of config or secrets builds on."""
        release = self._live.world.releases.get((app.name, app.newest))
        if release is None:
            raise Refused(f"app {app.name}: its release v{app.newest} cannot be read")
        return release

    def _release(self, app: App, number: int) -> Release:
        found = self._live.world.releases.get((app.name, number))
        if found is None or not found.types:
            raise Unknown(f"app {app.name} has no release v{number}; see formctl releases")
        return found

    @worded
    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        app = self._known_app(request.app)
        found = [
            run
            for (name, _), run in self._live.world.runs.items()
            if name == app.name and request.type in ("", run.slot.type)
        ]
        newest_first = sorted(found, key=lambda run: (-run.created_at_ms, -run.slot.ordinal))
        return pb.ListRunsResponse(runs=[wire.run_to_pb(run) for run in newest_first])

    @worded
    async def Explain(self, request: pb.ExplainRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        self._known_app(request.app)
        slot = Slot(request.app, request.type, request.ordinal)
        try:
            return await self._plans.explain(slot)
        except UnknownSlot as error:
            raise Unknown(f"app {slot.app} has no {slot.short}; see formctl ps") from error

    @worded
    async def Plan(self, request: pb.PlanRequest, context: Context) -> Any:  # noqa: N802
        self._ready()
        kind = request.WhichOneof("change")
        if kind == "rebalance":
            wish = request.rebalance
            return forecast_to_pb(await self._plans.balanced(wish.app, wish.moves_max))
        if kind == "reconcile":
            change = self._whole.confirmed_in_thought(self._live.world)
            return forecast_to_pb(await self._plans.confirmed(change))
        if kind == "scale":
            changes = await self._apps.scaled_in_thought(
                request.scale.app,
                [wire.quantity_change_from_pb(change) for change in request.scale.changes],
                undo=request.scale.undo,
            )
        elif kind == "apply":
            wanted = release_wanted(request.apply)
            changes = await self._apps.applied_in_thought(
                wanted,
                in_order(request.apply.formation),
                canary=request.apply.canary,
                keep_artifact=request.apply.keep_artifact,
            )
        elif kind == "drain_host":
            changes = await self._hosts.drained_in_thought(request.drain_host)
        else:
            raise wire.WireError("a plan of an unknown change; is this coordinator older?")
        found = await self._plans.after(changes)
        notes = [first for change in changes if (first := _command_first(request, change))]
        return forecast_to_pb(replace(found, notes=(*notes, *found.notes)))

    # ------------------------------------------------------------------ streams

    async def WatchInstances(  # noqa: N802
        self, request: pb.WatchInstancesRequest, context: Context
    ) -> AsyncIterator[pb.WatchUpdate]:
        try:
            self._ready()
            await self._mirror.wait_for(request.min_revision, MIRROR_WAIT_S)
            if request.app and request.once:
                self._known_app(request.app)
        except (ControlError, StoreError) as error:
            code, words = status_of(error)
            await context.abort(code, words)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, "this coordinator lags behind etcd; try again"
            )
        async for update in self.watch.updates(request.app, once=request.once):
            yield update

    async def WatchEvents(  # noqa: N802
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[pb.EventsResponse]:
        def wanted(happening: Happening) -> bool:
            return request.app in ("", happening.app) and request.host in ("", happening.host)

        try:
            self._ready()
        except StoreError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        read = self.chronicle.read(wanted, tail=request.tail, follow=request.follow)
        async for events, missed in read:
            yield pb.EventsResponse(events=map(_event_to_pb, events), missed=missed)

    async def Logs(  # noqa: N802
        self, request: pb.LogsRequest, context: Context
    ) -> AsyncIterator[pb.LogsResponse]:
        try:
            self._ready()
        except StoreError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        async for response in self._logs.read(request):
            yield response

    # ------------------------------------------------------------------ commands beside instances

    @worded
    async def StartExec(self, request: pb.StartExecRequest, context: Context) -> Any:  # noqa: N802
        await self._may_change()
        return self.execs.start(request)

    async def Exec(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[exec_pb2.ExecInput], context: Context
    ) -> None:
        await self.execs.run(request_iterator, context)

    async def RelayExec(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[exec_pb2.ExecInput], context: Context
    ) -> None:
        await self.execs.relay(request_iterator, context)


def _event_to_pb(event: Event) -> pb.Event:
    happening = event.happening
    return pb.Event(
        number=event.number,
        at_ms=event.at_ms,
        what=happening.what,
        subject=happening.subject,
        app=happening.app,
        host=happening.host,
        text=happening.text,
    )


def _variables(release: Release, *, values: bool) -> list[pb.Variable]:
    """What wins, with where it comes from; those of single types after those of all."""
    origins = {**dict.fromkeys(release.env, "project"), **dict.fromkeys(release.config, "config")}
    merged = {**release.env, **release.config}
    found = [(name, merged[name], origins[name]) for name in sorted(merged)]
    found += [
        (name, spec.env[name], spec.name)
        for spec in release.types
        for name in sorted(spec.env)
        if name not in release.config
    ]
    return [
        pb.Variable(name=name, value=value if values else "", origin=origin)
        for name, value, origin in found
    ]


def _secret_view(world: World, release: Release, name: str) -> pb.SecretView:
    secret = release.secrets.get(name)
    made = world.releases.get((release.app, secret.version)) if secret else None
    return pb.SecretView(
        name=name,
        version=secret.version if secret else 0,
        key=secret.key if secret else "",
        set_at_ms=made.created_at_ms if made else 0,
        set_by=made.created_by if made else "",
        types=views.types_with_secret(release, name),
    )


def _host_view(view: views.HostView) -> pb.HostView:
    entry = view.entry
    heard = entry.status or HostStatus(host=entry.name, agent_id="")
    return pb.HostView(
        status=wire.host_status_to_pb(structs.replace(heard, instances=())),
        state=pb.HostState.ValueType(int(view.state)),
        instances=view.instances,
        healthy=view.healthy,
        coordinator_id=entry.session.coordinator_id if entry.session else "",
        since_ms=entry.session.since_ms if entry.session else 0,
        host=wire.host_to_pb(entry.host) if entry.host else None,
    )


def _command_first(request: pb.PlanRequest, change: Change) -> str:
    """What runs before anything of a planned release; or ""."""
    command = request.apply.release_command.command
    if not (command and isinstance(change.record, Release)):
        return ""
    run = run_id(change.record.number)
    return f"first its release command runs once, as {run}; the rest only when it passes: {command}"
