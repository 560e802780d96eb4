"""A cluster, from a program: what runs, what happens, and how many of each.

    from formation.client import connect

    async with connect() as cluster:
        await cluster.scale("shop", {"web": 5, "worker": "+1"})
        await cluster.until_settled("shop")

Finds the cluster and proves who it is as formctl does. Errors are those of `formation.errors`, one
line each. docs/client.md tells it by examples.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Self

from formation import client_views as views
from formation import wire
from formation.calling import CALL_DEADLINE_S, Connection, Stream
from formation.client_views import App, Event, Host, Instance, LogLine, Release
from formation.discovery import find_target
from formation.errors import FormationError, InputError, UnreachableError
from formation.person import who
from formation.quantities import QuantityError, parse_changes
from formation.targets import parse_target
from formation.v1 import agent_pb2
from formation.v1 import control_pb2 as pb

__all__ = [
    "App",
    "Change",
    "Cluster",
    "Event",
    "FormationError",
    "Host",
    "InputError",
    "Instance",
    "LogLine",
    "Release",
    "UnreachableError",
    "connect",
]

_NAMED_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`instances`: all there are now, by uid; the same mapping each time, kept up to date. `gone`:
    as they were last seen."""

    instances: Mapping[str, Instance]
    changed: tuple[Instance, ...]
    gone: tuple[Instance, ...]


def connect(
    coordinator: str | None = None,
    *,
    insecure: bool = False,
    environ: Mapping[str, str] | None = None,
    notice: Callable[[str], None] = lambda line: None,
) -> Cluster:
    """`coordinator`: "host:port", "unix:/path", several separated by commas; else what
    FORMATION_COORDINATOR, FORMATION_CONTEXT, a running `formctl dev` or the current context says.
    `insecure`: plain TCP will do. `notice`: is told, for people, when a connection is lost and
    tried again.

    Raises `InputError` when no coordinator is known.
    """
    known = dict(os.environ if environ is None else environ)
    if insecure:
        known["FORMATION_INSECURE"] = "1"
    target = find_target(coordinator, known, os.getcwd(), flag="coordinator")
    return Cluster(Connection(target, notice=notice))


class Cluster:
    """Connected inside of `async with`. One may be used by many tasks at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Of our last change: what is read after it is not from before it.
        self._revision = 0

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connection.close()

    # ------------------------------------------------------------------ what there is

    async def apps(self) -> tuple[App, ...]:
        """By name."""
        answer = await self._connection.read(lambda stub: stub.ListApps, pb.ListAppsRequest())
        return tuple(sorted(map(views.app, answer.apps), key=lambda app: app.name))

    async def app(self, name: str) -> App:
        """Raises `InputError` when there is none of that name."""
        apps = await self.apps()
        found = next((app for app in apps if app.name == name), None)
        if found is None:
            known = ", ".join(app.name for app in apps)
            raise InputError(f"no app {name}: there is {known or 'none'}")
        return found

    async def hosts(self) -> tuple[Host, ...]:
        answer = await self._connection.read(lambda stub: stub.ListHosts, pb.ListHostsRequest())
        return tuple(map(views.host, answer.hosts))

    async def releases(self, app: str) -> tuple[Release, ...]:
        """Newest first."""
        request = pb.ListReleasesRequest(app=app)
        answer = await self._connection.read(lambda stub: stub.ListReleases, request)
        return tuple(map(views.release, answer.releases))

    async def instances(self, app: str = "") -> tuple[Instance, ...]:
        """Of all apps, or of one. What an earlier change made of it is in there."""
        request = pb.WatchInstancesRequest(app=app, once=True, min_revision=self._revision)

        async def ask() -> pb.WatchUpdate:
            call = self._connection.stub.WatchInstances(request, timeout=CALL_DEADLINE_S)
            try:
                async for update in call:
                    return update
            finally:
                call.cancel()
            raise UnreachableError("the coordinator ended its answer before it began")

        update = await self._connection.on_any(ask)
        with _understanding():
            return tuple(map(views.instance, update.changed))

    # ------------------------------------------------------------------ what changes

    async def watch(self, app: str = "") -> AsyncGenerator[Change, None]:
        """Everything at once, then each change, for ever. Goes on with another coordinator when
        one is lost; raises `UnreachableError` after 30 s without any."""
        known: dict[str, Instance] = {}
        seen = MappingProxyType(known)
        request = pb.WatchInstancesRequest(app=app, min_revision=self._revision)
        opened = self._connection.stream(lambda: self._connection.stub.WatchInstances(request))
        async with contextlib.aclosing(opened) as updates:
            async for update in updates:
                yield _changed(known, seen, update)

    async def until_settled(self, app: str, *, timeout_s: float = 300.0) -> None:
        """Until everything of the app is as it is wanted, after the last change of ours. Raises
        TimeoutError with what is missing."""
        missing = f"{app}: nothing is known yet"
        try:
            async with asyncio.timeout(timeout_s), contextlib.aclosing(self.watch(app)) as changes:
                async for change in changes:
                    unsettled = [item for item in change.instances.values() if not item.is_good]
                    missing = _missing(app, unsettled)
                    if not unsettled:
                        return
        except TimeoutError:
            raise TimeoutError(f"{missing} (after {timeout_s:g} s)") from None

    async def events(
        self, app: str = "", *, host: str = "", tail: int = 50, follow: bool = False
    ) -> AsyncGenerator[Event, None]:
        """The last so many that a coordinator has seen; with `follow` those that come, for ever."""
        first = True

        def opened() -> Stream[pb.EventsResponse]:
            nonlocal first
            asked = pb.WatchEventsRequest(
                app=app, host=host, tail=tail if first else 0, follow=follow
            )
            first = False
            return self._connection.stub.WatchEvents(asked)

        stream = self._connection.stream(opened, endless=follow)
        async with contextlib.aclosing(stream) as answers:
            async for answer in answers:
                for event in answer.events:
                    yield views.event(event)

    async def logs(
        self,
        app: str,
        *targets: str,
        tail: int = 100,
        since: float = 0.0,
        grep: str = "",
        follow: bool = False,
    ) -> AsyncGenerator[LogLine, None]:
        """Lines of types ("web") or instances ("web.3"), as they arrive: of each host in order.
        `tail`: of each instance, -1 for all that is kept. `since`: seconds since 1970.

        Raises `UnreachableError` when the coordinator is lost: ask again with `since`.
        """
        wanted = [_log_target(target) for target in targets]
        only = wanted[0] if len(wanted) == 1 else agent_pb2.LogTarget()
        choice = agent_pb2.LogChoice(
            targets=wanted, not_before_us=int(since * 1_000_000), text=grep
        )
        request = pb.LogsRequest(
            app=app, type=only.type, ordinal=only.ordinal, tail_lines=tail, follow=follow,
            choice=choice,
        )  # fmt: skip
        stream = self._connection.stream_once(lambda: self._connection.stub.Logs(request))
        async with contextlib.aclosing(stream) as answers:
            async for answer in answers:
                for line in answer.lines:
                    yield views.log_line(line)

    # ------------------------------------------------------------------ to change it

    async def scale(
        self, app: str, quantities: Mapping[str, int | str], *, why: str = ""
    ) -> dict[str, int]:
        """`{"web": 5, "worker": "+1", "mail": "-2"}`, all or nothing; answers with the whole
        formation. Raises `InputError` for a type that there is none of."""
        words = [f"{name}{_signed(value)}" for name, value in quantities.items()]
        try:
            changes = parse_changes(words)
        except QuantityError as error:
            raise InputError.of(error.problems) from None
        request = pb.ScaleRequest(
            app=app,
            changes=map(wire.quantity_change_to_pb, changes),
            why=why,
            who=who(),
        )
        answer = await self._connection.change(lambda stub: stub.Scale, request)
        self._revision = answer.revision
        return dict(answer.after)

    async def restart(self, app: str, target: str = "") -> tuple[str, ...]:
        """Replaces instances of a type, one instance, or all of the app; answers with which."""
        chosen = _log_target(target) if target else agent_pb2.LogTarget()
        request = pb.RestartRequest(app=app, type=chosen.type, ordinal=chosen.ordinal, who=who())
        answer = await self._connection.change(lambda stub: stub.Restart, request)
        self._revision = answer.revision
        return tuple(sorted(f"{item.type}.{item.ordinal}" for item in answer.replaced))

    async def rollback(self, app: str, release: int = 0, *, why: str = "") -> int:
        """To that release, or to the one before; answers with the number that it has now."""
        request = pb.RollbackRequest(app=app, release=release, who=who(), why=why)
        answer = await self._connection.change(lambda stub: stub.Rollback, request)
        self._revision = answer.revision
        return answer.app.release


def _changed(
    known: dict[str, Instance], seen: Mapping[str, Instance], update: pb.WatchUpdate
) -> Change:
    with _understanding():
        changed = tuple(map(views.instance, update.changed))
    now = {item.uid for item in changed}
    lost = [uid for uid in known if uid not in now] if update.complete else update.gone_uids
    gone = tuple(known.pop(uid) for uid in list(lost) if uid in known)
    known.update((item.uid, item) for item in changed)
    return Change(instances=seen, changed=changed, gone=gone)


def _missing(app: str, unsettled: list[Instance]) -> str:
    named = [f"{item.name} is {item.state}" for item in unsettled[:_NAMED_MAX]]
    more = f" and {len(unsettled) - _NAMED_MAX} more" if len(unsettled) > _NAMED_MAX else ""
    return f"{app}: {', '.join(named)}{more}"


def _signed(value: int | str) -> str:
    text = str(value)
    return text if text.startswith(("+", "-")) and isinstance(value, str) else f"={text}"


def _log_target(text: str) -> agent_pb2.LogTarget:
    kind, ordinal = parse_target(text)
    return agent_pb2.LogTarget(type=kind, ordinal=ordinal)


@contextlib.contextmanager
def _understanding() -> Iterator[None]:
    try:
        yield
    except wire.WireError as error:
        raise FormationError(f"{error}; is this program older than the coordinator?") from None
