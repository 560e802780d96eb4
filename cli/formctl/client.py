"""formctl's own view of a coordinator: what `formation.calling` gets, as what commands show.

The only room of formctl that knows grpc and the wire.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from formation import wire_seen
from formation.calling import CALL_DEADLINE_S, STREAM_PATIENCE_S, Connection, Stream
from formation.discovery import Target
from formation.seen import HostState
from formation.v1 import control_pb2 as pb
from formation.v1 import types_pb2
from formation.wire_maps import WireError
from formctl.errors import CommandError
from formctl.settings import note
from formctl.views import AppLine, HostLine, Instance, Update, UsageReport

if TYPE_CHECKING:
    from formation.model import Release

__all__ = ["CALL_DEADLINE_S", "Client", "Stream", "instance_from_pb", "irregular", "update_from_pb"]

# For what grows with the whole cluster.
WHOLE_DEADLINE_S = 300.0
_PART_BYTES = 1 << 20


class Client(Connection):
    """`notice` gets a line at once when a stream's coordinator goes away."""

    def __init__(
        self,
        target: Target,
        *,
        notice: Callable[[str], None] = note,
        patience_s: float = STREAM_PATIENCE_S,
    ) -> None:
        super().__init__(
            target, notice=lambda line: notice(f"formctl: {line}"), patience_s=patience_s
        )

    async def apps(self) -> list[AppLine]:
        response = await self.read(lambda stub: stub.ListApps, pb.ListAppsRequest())
        found = [_app_line(view) for view in response.apps]
        return sorted(found, key=lambda line: line.app.name)

    async def hosts(self) -> tuple[list[HostLine], str]:
        """And who speaks without certificates, what holds placement up; or ""."""
        response = await self.read(lambda stub: stub.ListHosts, pb.ListHostsRequest())
        said = "\n".join(filter(None, (response.warning, response.note)))
        return [_host_line(view) for view in response.hosts], said

    async def backup(self) -> tuple[pb.BackupPart, bytes]:
        """What the file holds, in numbers, and its bytes."""

        async def ask() -> tuple[pb.BackupPart, bytes]:
            call = self.stub.Backup(pb.BackupRequest(), timeout=WHOLE_DEADLINE_S)
            parts = [part async for part in call]
            return parts[0], b"".join(part.data for part in parts)

        return await self.on_any(ask)

    async def restore(self, options: pb.RestoreOptions, data: bytes) -> pb.RestoreResponse:
        parts = [pb.RestorePart(options=options)]
        starts = range(0, len(data), _PART_BYTES)
        parts += [pb.RestorePart(data=data[start : start + _PART_BYTES]) for start in starts]

        async def ask() -> pb.RestoreResponse:
            return await self.stub.Restore(iter(parts), timeout=WHOLE_DEADLINE_S)

        return await self.on_any(ask, is_change=not options.dry_run)

    async def releases(self, app: str) -> list[Release]:
        """Newest first; without values of the environment."""
        request = pb.ListReleasesRequest(app=app)
        response = await self.read(lambda stub: stub.ListReleases, request)
        from formation import wire  # all of it: of releases alone

        with _understanding():
            return [wire.release_from_pb(message) for message in response.releases]

    async def usage(self, app: str) -> UsageReport:
        """`app` "": of all apps."""
        response = await self.read(lambda stub: stub.Usage, pb.UsageRequest(app=app))
        found = map(wire_seen.usage_from_pb, response.instances)
        return UsageReport(
            of_uid={usage.uid: usage for usage in found}, notices=tuple(response.notices)
        )

    async def instances(self, app: str) -> Update:
        """Everything as it is now."""
        request = pb.WatchInstancesRequest(app=app, once=True)

        async def ask() -> Update:
            call = self.stub.WatchInstances(request, timeout=CALL_DEADLINE_S)
            try:
                async for update in call:
                    return update_from_pb(update)
            finally:
                call.cancel()
            raise CommandError(f"coordinator {self.address} ended the answer before its beginning")

        return await self.on_any(ask)

    async def watch(self, app: str, min_revision: int = 0) -> AsyncGenerator[Update, None]:
        """Endless; the first update after each reconnect is complete again."""
        request = pb.WatchInstancesRequest(app=app, min_revision=min_revision)
        updates = self.stream(lambda: self.stub.WatchInstances(request))
        async with contextlib.aclosing(updates):
            async for update in updates:
                yield update_from_pb(update)


def update_from_pb(message: pb.WatchUpdate) -> Update:
    """CommandError for what only a newer coordinator can have meant."""
    with _understanding():
        return _update(message)


@contextlib.contextmanager
def _understanding() -> Iterator[None]:
    try:
        yield
    except WireError as error:
        raise CommandError(f"{error}; is formctl older than the coordinator?") from None


def _update(message: pb.WatchUpdate) -> Update:
    apps = tuple(wire_seen.app_from_pb(app) for app in message.apps)
    return Update(
        complete=message.complete,
        changed=tuple(instance_from_pb(view) for view in message.changed),
        gone_uids=tuple(message.gone_uids),
        # A list that did not change is not sent; the first update always tells.
        apps=apps if apps or message.complete else None,
        note=message.note,
        standstill=message.standstill,
    )


def instance_from_pb(view: pb.InstanceView) -> Instance:
    return Instance(
        status=wire_seen.instance_status_from_pb(view.status),
        host=view.host,
        surplus=view.surplus,
        host_silent=view.host_silent,
        current=view.current,
        surge=view.surge,
        run=view.run,
        because=view.placed_because,
        address=view.address,
    )


def _host_line(view: pb.HostView) -> HostLine:
    return HostLine(
        status=wire_seen.host_status_from_pb(view.status),
        state=_host_state(view.state),
        instances=view.instances,
        healthy=view.healthy,
        coordinator_id=view.coordinator_id,
        since_ms=view.since_ms,
        word=wire_seen.host_from_pb(view.host) if view.HasField("host") else None,
    )


def _host_state(number: int) -> HostState:
    try:
        return HostState(number)
    except ValueError:
        return HostState.SUSPECT  # one that this formctl does not know yet: not ready at least


def _app_line(view: pb.AppView) -> AppLine:
    return AppLine(
        app=wire_seen.app_from_pb(view.app),
        types=tuple(spec.name for spec in view.release.types),
        healthy=view.healthy,
        wanted=view.wanted,
        irregular=irregular(view.release.types),
    )


def irregular(types: Iterable[types_pb2.ProcessType]) -> frozenset[str]:
    """Those of which the quantity does not say how many run."""
    return frozenset(spec.name for spec in types if spec.per_host or spec.HasField("schedule"))
