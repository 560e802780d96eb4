"""An in-process coordinator for formctl's tests: the Control service over a few dictionaries.

It obeys at once and honestly: what is applied or scaled is placed on its hosts in turn and is
healthy in the same moment. Tests hold that back (`hold`, `release_held`), break it (`crashing`,
`room`), let it end (`ending`), or speak for an instance directly (`report`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from grpc import aio
from unasked_control import UnaskedControl

from formation import runtime, wire
from formation.quantities import QuantityError, apply_changes
from formation.v1 import agent_pb2, control_pb2, types_pb2
from formation.v1.control_pb2_grpc import add_ControlServicer_to_server

Context = aio.ServicerContext[Any, Any]

_FINISHED, _FAILED = types_pb2.INSTANCE_STATE_FINISHED, types_pb2.INSTANCE_STATE_FAILED
_RETRIED = (types_pb2.INSTANCE_STATE_BACKOFF, _FINISHED, _FAILED)


@dataclass(slots=True)
class KeptApp:
    app: types_pb2.App
    releases: list[types_pb2.Release] = field(default_factory=list)

    @property
    def current(self) -> types_pb2.Release:
        return self.releases[-1]

    def formation(self) -> dict[str, int]:
        return {spec.name: self.app.formation[spec.name] for spec in self.current.types}


class FakeControl(UnaskedControl):
    """`requests` records what was asked, in order; `refusals` are said instead of an answer."""

    def __init__(self, *, hosts: Iterable[str] = ("a", "b")) -> None:
        self.hosts = tuple(hosts)
        self.apps: dict[str, KeptApp] = {}
        self.instances: dict[str, control_pb2.InstanceView] = {}
        self.audit: list[types_pb2.AuditRecord] = []
        self.history: list[agent_pb2.LogLine] = []
        self.forgotten: list[str] = []
        self.requests: list[object] = []
        self.refusals: list[str] = []
        self.change_deadline_s = 0.0
        self.hold = False
        self.crashing: Mapping[str, str] = {}
        self.ending: Mapping[str, str] = {}
        self.usage: dict[str, types_pb2.InstanceUsage] = {}
        self.notices: list[str] = []
        self.host_status: dict[str, types_pb2.HostStatus] = {}
        self.room: int | None = None
        self.note = ""
        self.revision = 1
        self._uids = itertools.count(1)
        self._news: set[asyncio.Event] = set()
        self._live: set[asyncio.Queue[agent_pb2.LogLine]] = set()

    # What tests do.

    def put(self, name: str, formation: Mapping[str, int]) -> None:
        """An app with a first release, each type running `./type`: there without asking for it."""
        types = [types_pb2.ProcessType(name=kind, command=f"./{kind}") for kind in formation]
        release = types_pb2.Release(app=name, number=1, types=types)
        app = types_pb2.App(name=name, release=1, latest_release=1, formation=formation)
        self.apps[name] = KeptApp(app, [release])
        self._settle()

    @contextlib.asynccontextmanager
    async def serving(self, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
        server = aio.server(options=runtime.server_channel_options())
        add_ControlServicer_to_server(self, server)  # type: ignore[no-untyped-call,unused-ignore]
        port = server.add_insecure_port(address)
        await server.start()
        try:
            yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
        finally:
            await server.stop(None)

    def release_held(self) -> None:
        """Everything that was held back is healthy now, and what was leaving is gone."""
        self.hold = False
        self._settle()

    def advance(self, view: control_pb2.InstanceView) -> None:
        """That one alone is healthy now; the others stay held back."""
        self.hold = False
        self._advance(view)
        self.hold = True
        self._tell()

    def report(self, slot: str, change: Callable[[control_pb2.InstanceView], None]) -> None:
        """Changes the view of `web.1`, as if its agent had said so."""
        for view in self.instances.values():
            if f"{view.status.type}.{view.status.ordinal}" == slot:
                change(view)
        self._tell()

    def log(self, line: agent_pb2.LogLine) -> None:
        for queue in self._live:
            queue.put_nowait(line)

    @property
    def watchers(self) -> int:
        return len(self._news)

    @property
    def log_readers(self) -> int:
        return len(self._live)

    # What formctl asks.

    async def GetCluster(  # noqa: N802
        self, request: control_pb2.GetClusterRequest, context: Context
    ) -> control_pb2.GetClusterResponse:
        return control_pb2.GetClusterResponse(
            cluster=types_pb2.Cluster(id="c1"),
            coordinators=[types_pb2.Coordinator(id="one", address="a:7100", version="9.9")],
            leader_id="one",
            coordinator_id="one",
            version="9.9",
        )

    async def Apply(  # noqa: N802
        self, request: control_pb2.ApplyRequest, context: Context
    ) -> control_pb2.ApplyResponse:
        await self._may_refuse(context)
        self.change_deadline_s = context.time_remaining()
        self.requests.append(request)
        kept = self.apps.setdefault(request.app, KeptApp(types_pb2.App(name=request.app)))
        release = types_pb2.Release(
            app=request.app,
            number=len(kept.releases) + 1,
            types=request.types,
            env=request.env,
            workdir=request.workdir,
            reason=request.reason,
            created_by=request.who,
            created_at_ms=runtime.now_ms(),
        )
        unchanged = bool(kept.releases) and _says(kept.current) == _says(release)
        if not unchanged:
            kept.releases.append(release)
            kept.app.release = kept.app.latest_release = release.number
            for spec in release.types:
                if spec.name not in kept.app.formation:
                    first = request.formation.get(spec.name, spec.initial_quantity)
                    kept.app.formation[spec.name] = first
        self._settle()
        return control_pb2.ApplyResponse(
            release=_names_only(kept.current),
            app=kept.app,
            unchanged=unchanged,
            revision=self.revision,
        )

    async def Scale(  # noqa: N802
        self, request: control_pb2.ScaleRequest, context: Context
    ) -> control_pb2.ScaleResponse:
        await self._may_refuse(context)
        self.change_deadline_s = context.time_remaining()
        self.requests.append(request)
        kept = await self._kept(request.app, context)
        before = kept.formation()
        changes = [wire.quantity_change_from_pb(change) for change in request.changes]
        try:
            after = apply_changes(before, changes, list(before))
        except QuantityError as error:
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        kept.app.formation.update(after)
        self._settle()
        return control_pb2.ScaleResponse(before=before, after=after, revision=self.revision)

    async def Restart(  # noqa: N802
        self, request: control_pb2.RestartRequest, context: Context
    ) -> control_pb2.RestartResponse:
        self.requests.append(request)
        await self._kept(request.app, context)
        replaced = self._asked(request)
        for view in replaced:
            view.surplus, view.current = True, False
        self._settle()
        return control_pb2.RestartResponse(
            replaced=[_assignment(view) for view in replaced], revision=self.revision
        )

    async def Retry(  # noqa: N802
        self, request: control_pb2.RetryRequest, context: Context
    ) -> control_pb2.RetryResponse:
        await self._may_refuse(context)
        self.requests.append(request)
        await self._kept(request.app, context)
        waiting = [view for view in self._asked(request) if view.status.state in _RETRIED]
        if not waiting:
            said = f"{request.type}.{request.ordinal} is healthy: nothing to retry"
            await _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, said)
        for view in waiting:
            view.status.attempt += 1
            view.status.state = types_pb2.INSTANCE_STATE_STARTING
        retried = [_assignment(view) for view in waiting]
        self._settle()
        return control_pb2.RetryResponse(retried=retried, revision=self.revision)

    async def Usage(  # noqa: N802
        self, request: control_pb2.UsageRequest, context: Context
    ) -> control_pb2.UsageResponse:
        await self._may_refuse(context)
        found = [self.usage[uid] for uid in self.instances if uid in self.usage]
        return control_pb2.UsageResponse(instances=found, notices=self.notices)

    async def DeleteApp(  # noqa: N802
        self, request: control_pb2.DeleteAppRequest, context: Context
    ) -> control_pb2.DeleteAppResponse:
        self.requests.append(request)
        await self._kept(request.app, context)
        del self.apps[request.app]
        self._settle()
        return control_pb2.DeleteAppResponse(revision=self.revision)

    async def ListApps(  # noqa: N802
        self, request: control_pb2.ListAppsRequest, context: Context
    ) -> control_pb2.ListAppsResponse:
        await self._may_refuse(context)
        views = [
            control_pb2.AppView(
                app=kept.app,
                release=_names_only(kept.current),
                healthy=sum(
                    view.status.app == name
                    and view.status.state == types_pb2.INSTANCE_STATE_HEALTHY
                    for view in self.instances.values()
                ),
                wanted=sum(kept.formation().values()),
            )
            for name, kept in self.apps.items()
        ]
        return control_pb2.ListAppsResponse(apps=views)

    async def ListReleases(  # noqa: N802
        self, request: control_pb2.ListReleasesRequest, context: Context
    ) -> control_pb2.ListReleasesResponse:
        await self._may_refuse(context)
        kept = await self._kept(request.app, context)
        return control_pb2.ListReleasesResponse(
            releases=[_names_only(release) for release in reversed(kept.releases)],
            current=kept.app.release,
        )

    async def ListHosts(  # noqa: N802
        self, request: control_pb2.ListHostsRequest, context: Context
    ) -> control_pb2.ListHostsResponse:
        await self._may_refuse(context)
        return control_pb2.ListHostsResponse(
            hosts=[
                control_pb2.HostView(
                    status=self.host_status.get(name, _host_status(name)),
                    state=control_pb2.HOST_STATE_READY,
                    coordinator_id="one",
                )
                for name in self.hosts
            ]
        )

    async def ForgetHost(  # noqa: N802
        self, request: control_pb2.ForgetHostRequest, context: Context
    ) -> control_pb2.ForgetHostResponse:
        if request.host in self.hosts:
            said = f"host {request.host} is connected"
            await _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, said)
        self.forgotten.append(request.host)
        return control_pb2.ForgetHostResponse()

    async def ListAudit(  # noqa: N802
        self, request: control_pb2.ListAuditRequest, context: Context
    ) -> control_pb2.ListAuditResponse:
        return control_pb2.ListAuditResponse(records=self.audit[: request.limit])

    async def WatchInstances(  # noqa: N802
        self, request: control_pb2.WatchInstancesRequest, context: Context
    ) -> AsyncIterator[control_pb2.WatchUpdate]:
        await self._may_refuse(context)
        news = asyncio.Event()
        self._news.add(news)
        seen: dict[str, bytes] = {}
        complete = True
        try:
            while True:
                news.clear()
                update, seen = self._update(request.app, seen, complete)
                yield update
                if request.once:
                    return
                complete = False
                await news.wait()
        finally:
            self._news.discard(news)

    async def Logs(  # noqa: N802
        self, request: control_pb2.LogsRequest, context: Context
    ) -> AsyncIterator[control_pb2.LogsResponse]:
        await self._may_refuse(context)
        self.requests.append(request)
        queue: asyncio.Queue[agent_pb2.LogLine] = asyncio.Queue()
        self._live.add(queue)
        try:
            kept = [line for line in self.history if _is_asked(line, request)]
            if request.tail_lines:
                yield control_pb2.LogsResponse(lines=kept)
            yield control_pb2.LogsResponse(history_done=True)
            while request.follow:
                line = await queue.get()
                if _is_asked(line, request):
                    yield control_pb2.LogsResponse(lines=[line])
        finally:
            self._live.discard(queue)

    # How it keeps its word.

    async def _may_refuse(self, context: Context) -> None:
        if self.refusals:
            await _refuse(context, grpc.StatusCode.UNAVAILABLE, self.refusals.pop(0))

    def _asked(
        self, request: control_pb2.RestartRequest | control_pb2.RetryRequest
    ) -> list[control_pb2.InstanceView]:
        return [
            view
            for view in self.instances.values()
            if view.status.app == request.app
            and request.type in ("", view.status.type)
            and request.ordinal in (0, view.status.ordinal)
        ]

    async def _kept(self, name: str, context: Context) -> KeptApp:
        if name not in self.apps:
            await _refuse(context, grpc.StatusCode.NOT_FOUND, f"no app {name}")
        return self.apps[name]

    def _settle(self) -> None:
        wanted = {
            (name, spec.name, ordinal): (kept.app.release, spec)
            for name, kept in self.apps.items()
            for spec in kept.current.types
            for ordinal in range(1, kept.app.formation[spec.name] + 1)
        }
        self._retire(wanted)
        have = {_key(view) for view in self.instances.values() if not view.surplus}
        for key, (release, _) in wanted.items():
            if key not in have:
                self._start(key, release)
        for view in self.instances.values():
            self._advance(view)
        self._tell()

    def _retire(self, wanted: Mapping[tuple[str, str, int], tuple[int, object]]) -> None:
        for uid, view in list(self.instances.items()):
            fits = _key(view) in wanted and wanted[_key(view)][0] == view.status.release
            if view.surplus or not fits:
                view.surplus = True
                if not self.hold:
                    del self.instances[uid]

    def _start(self, key: tuple[str, str, int], release: int) -> None:
        number = next(self._uids)
        placed = self.room is None or number <= self.room
        app, type_name, ordinal = key
        status = types_pb2.InstanceStatus(
            uid=f"u{number}" if placed else f"{app}/{type_name}.{ordinal}",
            app=app,
            type=type_name,
            ordinal=ordinal,
            release=release,
            state=types_pb2.INSTANCE_STATE_STARTING if placed else types_pb2.INSTANCE_STATE_PENDING,
            attempt=1 if placed else 0,
            reason="" if placed else "no host has room: a 1/1, b 1/1",
        )
        host = self.hosts[number % len(self.hosts)] if placed else ""
        self.instances[status.uid] = control_pb2.InstanceView(
            status=status, host=host, current=placed
        )

    def _advance(self, view: control_pb2.InstanceView) -> None:
        status = view.status
        if self.hold or view.surplus or status.state != types_pb2.INSTANCE_STATE_STARTING:
            return
        if status.type in self.crashing:
            status.state = types_pb2.INSTANCE_STATE_BACKOFF
            status.reason = self.crashing[status.type]
            status.last_exit = "exit 1"
            status.retry_at_ms = runtime.now_ms() + 60_000
            return
        if status.type in self.ending:
            status.last_exit = self.ending[status.type]
            status.reason = f"{status.last_exit} after 2 s"
            finished = status.last_exit == "exit 0"
            status.state = _FINISHED if finished else _FAILED
            return
        status.state = types_pb2.INSTANCE_STATE_HEALTHY
        number = int(status.uid.removeprefix("u"))
        status.pid, status.port = 1000 + number, 20_000 + number
        status.started_at_ms = runtime.now_ms()

    def _update(
        self, app: str, seen: dict[str, bytes], complete: bool
    ) -> tuple[control_pb2.WatchUpdate, dict[str, bytes]]:
        views = {u: v for u, v in self.instances.items() if app in ("", v.status.app)}
        now = {uid: view.SerializeToString(deterministic=True) for uid, view in views.items()}
        update = control_pb2.WatchUpdate(
            complete=complete,
            changed=[views[uid] for uid, raw in now.items() if seen.get(uid) != raw],
            gone_uids=[uid for uid in seen if uid not in now],
            apps=[kept.app for kept in self.apps.values()],
            note=self.note,
        )
        return update, now

    def _tell(self) -> None:
        self.revision += 1
        for news in self._news:
            news.set()


def log_line(name: str, text: bytes, at_s: int, host: str = "a") -> agent_pb2.LogLine:
    """Of `web.1` of the app shop."""
    type_name, _, ordinal = name.partition(".")
    return agent_pb2.LogLine(
        app="shop",
        type=type_name,
        ordinal=int(ordinal),
        host=host,
        at_us=at_s * 1_000_000,
        text=text,
    )


async def _refuse(context: Context, code: grpc.StatusCode, said: str) -> NoReturn:
    await context.abort(code, said)
    raise AssertionError("abort raises")


def _says(release: types_pb2.Release) -> tuple[object, ...]:
    types = [spec.SerializeToString(deterministic=True) for spec in release.types]
    return types, dict(release.env), release.workdir


def _names_only(release: types_pb2.Release) -> types_pb2.Release:
    shown = types_pb2.Release()
    shown.CopyFrom(release)
    for name in shown.env:
        shown.env[name] = ""
    return shown


def _key(view: control_pb2.InstanceView) -> tuple[str, str, int]:
    return view.status.app, view.status.type, view.status.ordinal


def _assignment(view: control_pb2.InstanceView) -> types_pb2.InstanceAssignment:
    status = view.status
    return types_pb2.InstanceAssignment(
        uid=status.uid, app=status.app, type=status.type, ordinal=status.ordinal
    )


def _host_status(name: str) -> types_pb2.HostStatus:
    return types_pb2.HostStatus(host=name, address="127.0.0.1", labels={"zone": "z1"})


def _is_asked(line: agent_pb2.LogLine, request: control_pb2.LogsRequest) -> bool:
    return request.type in ("", line.type) and request.ordinal in (0, line.ordinal)
