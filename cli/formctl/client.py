"""One coordinator, called: finds one that answers, has a deadline on every call, and turns gRPC's
errors into one line each. Reads go on with the next coordinator when one cannot answer, streams
are opened again when they break; a change is sent once, unless it is sure that nothing was done.

The only room of formctl that knows grpc and the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc
from grpc import aio

from formation import pki, runtime, wire
from formation.credentials import Credential, CredentialError, load
from formation.diagnosis import diagnose
from formation.dialling import Dialler, NotTrustedError, is_socket
from formation.enrolling import EnrolError, renew, saved_over
from formation.model import HostState, Release
from formation.v1 import control_pb2 as pb
from formation.v1 import types_pb2
from formation.v1.access_pb2_grpc import AccessStub
from formation.v1.control_pb2_grpc import ControlStub
from formctl.discovery import Target
from formctl.errors import CommandError, InputError, UnreachableError
from formctl.settings import note
from formctl.views import AppLine, HostLine, Instance, Update, UsageReport

if TYPE_CHECKING:
    from formation.v1.access_pb2_grpc import AccessAsyncStub
    from formation.v1.control_pb2_grpc import ControlAsyncStub  # exists for type checkers alone

Request_contra = TypeVar("Request_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)
Answer = TypeVar("Answer")

CONNECT_DEADLINE_S = 4.5
CALL_DEADLINE_S = 15.0
CHANGE_DEADLINE_S = 20.0
# For what grows with the whole cluster.
WHOLE_DEADLINE_S = 300.0
_PART_BYTES = 1 << 20
# A new coordinator or a new leader is there within seconds; then the stream goes on.
STREAM_PATIENCE_S = 30.0
_STREAM_PAUSE_S = 0.2
_LISTENS_DEADLINE_S = 0.5

_HOW_TO_LOG_IN = (
    "log in with formctl login ADDRESS TOKEN, or set FORMATION_INSECURE=1 where nobody else listens"
)
_BAD_INPUT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# A coordinator's own words for: nothing was read, and nothing was written.
_NOT_READY = "is not ready"
_LAGS = "lags behind"
# What gRPC itself says of a connection that ended; everything else was said by a coordinator.
_LOST = re.compile(
    r"cancelling all calls|failed to connect|socket closed|connection|goaway|stream removed|"
    r"endpoint|transport|recvmsg|sendmsg|broken pipe|ping|keepalive|channel|dns|ipv[46]:|unix:|$",
    re.IGNORECASE,
)
_NO_COORDINATOR = re.compile(r"unknown service|received http2 header", re.IGNORECASE)


class Call(Protocol[Request_contra, Response_co]):
    """A unary method of the stub."""

    def __call__(self, request: Request_contra, *, timeout: float) -> Awaitable[Response_co]: ...


class Stream(Protocol[Response_co]):
    """A call whose answers are iterated over."""

    def __aiter__(self) -> AsyncIterator[Response_co]: ...
    def cancel(self) -> bool: ...


class Client:
    """Connected to `address`; the others are where reads and streams go on.

    `notice` gets a line at once when a stream's coordinator goes away.
    """

    def __init__(
        self,
        target: Target,
        *,
        notice: Callable[[str], None] = note,
        patience_s: float = STREAM_PATIENCE_S,
    ) -> None:
        self._target = target
        self._patience_s = patience_s
        self._notice = notice
        self._channel: aio.Channel | None = None
        self._dialler = Dialler(self._credential, insecure=target.insecure, remedy=_HOW_TO_LOG_IN)
        self.address = ""

    async def __aenter__(self) -> Client:
        await self.connect(CONNECT_DEADLINE_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self, deadline_s: float) -> None:
        """Goes through the addresses, from the one after the last, until one answers."""
        await self._connect(self._in_turn(), deadline_s)

    def _in_turn(self) -> tuple[str, ...]:
        addresses = self._target.addresses
        first = addresses.index(self.address) + 1 if self.address in addresses else 0
        return (*addresses[first:], *addresses[:first])

    async def _connect(self, addresses: Sequence[str], deadline_s: float) -> None:
        await self.close()
        share_s = deadline_s / len(addresses)
        refused: list[NotTrustedError] = []
        for address in addresses:
            try:
                channel = self._dialler.channel(address)
            except NotTrustedError as error:
                refused.append(error)
                continue
            try:
                if await _is_answering(channel, share_s):
                    self._channel, self.address = channel, address
                    await self._renew_when_due()
                    return
            finally:
                if self._channel is not channel:
                    await channel.close()
        if refused:
            raise CommandError(str(refused[0]))
        raise UnreachableError(await self._nobody())

    def _credential(self) -> Credential | None:
        return load(self._target.identity) if self._target.identity else None

    async def _renew_when_due(self) -> None:
        """Best effort, once in a month of use: what is wrong with it shows when it runs out."""
        found, now_ms = self._credential(), runtime.now_ms()
        if found is None or now_ms < pki.renews_at_ms(found.seen):
            return
        with contextlib.suppress(EnrolError, CredentialError):
            saved_over(found, await renew(self.address, self._dialler, now_ms))

    async def _nobody(self) -> str:
        target = self._target
        listening = [address for address in target.addresses if await _is_listening(address)]
        if not listening:
            addresses = ", ".join(target.addresses)
            return f"no coordinator answers at {addresses} (from {target.origin}); does it run?"
        credential, strange = self._credential(), ""
        if credential and not is_socket(listening[0]):
            strange = await diagnose(listening[0], credential, runtime.now_ms())
        other = strange or "what listens there answers as no coordinator does"
        return f"no coordinator at {', '.join(listening)} (from {target.origin}): {other}"

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    @property
    def stub(self) -> ControlAsyncStub:
        assert self._channel is not None, "connect first"
        return ControlStub(self._channel)

    @property
    def access(self) -> AccessAsyncStub:
        assert self._channel is not None, "connect first"
        return AccessStub(self._channel)

    async def read(
        self,
        method: Callable[[ControlAsyncStub], Call[Request_contra, Answer]],
        request: Request_contra,
    ) -> Answer:
        async def ask() -> Answer:
            return await method(self.stub)(request, timeout=CALL_DEADLINE_S)

        return await self._on_any(ask)

    async def change(
        self,
        method: Callable[[ControlAsyncStub], Call[Request_contra, Answer]],
        request: Request_contra,
    ) -> Answer:
        """As `read`; when the answer is lost, says that nobody knows whether it was done."""

        async def ask() -> Answer:
            return await method(self.stub)(request, timeout=CHANGE_DEADLINE_S)

        return await self._on_any(ask, is_change=True)

    async def read_access(
        self,
        method: Callable[[AccessAsyncStub], Call[Request_contra, Answer]],
        request: Request_contra,
    ) -> Answer:
        return await self.read(lambda _: method(self.access), request)

    async def change_access(
        self,
        method: Callable[[AccessAsyncStub], Call[Request_contra, Answer]],
        request: Request_contra,
    ) -> Answer:
        return await self.change(lambda _: method(self.access), request)

    async def _on_any(
        self, ask: Callable[[], Awaitable[Answer]], *, is_change: bool = False
    ) -> Answer:
        """Asks each coordinator that connects, once, until one can answer."""
        untried = list(self._target.addresses)
        while True:
            try:
                return await ask()
            except aio.AioRpcError as error:
                refused = self._explained(error, is_change=is_change)
                if not _may_go_on(error, is_change=is_change):
                    raise refused from None
            untried = [address for address in untried if address != self.address]
            try:
                await self._connect(untried, CONNECT_DEADLINE_S) if untried else None
            except UnreachableError:
                untried = []
            if not untried:
                raise refused

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

        return await self._on_any(ask)

    async def restore(self, options: pb.RestoreOptions, data: bytes) -> pb.RestoreResponse:
        parts = [pb.RestorePart(options=options)]
        starts = range(0, len(data), _PART_BYTES)
        parts += [pb.RestorePart(data=data[start : start + _PART_BYTES]) for start in starts]

        async def ask() -> pb.RestoreResponse:
            return await self.stub.Restore(iter(parts), timeout=WHOLE_DEADLINE_S)

        return await self._on_any(ask, is_change=not options.dry_run)

    async def releases(self, app: str) -> list[Release]:
        """Newest first; without values of the environment."""
        request = pb.ListReleasesRequest(app=app)
        response = await self.read(lambda stub: stub.ListReleases, request)
        with _understanding():
            return [wire.release_from_pb(message) for message in response.releases]

    async def usage(self, app: str) -> UsageReport:
        """`app` "": of all apps."""
        response = await self.read(lambda stub: stub.Usage, pb.UsageRequest(app=app))
        found = map(wire.usage_from_pb, response.instances)
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

        return await self._on_any(ask)

    async def watch(self, app: str, min_revision: int = 0) -> AsyncGenerator[Update, None]:
        """Endless; the first update after each reconnect is complete again."""
        request = pb.WatchInstancesRequest(app=app, min_revision=min_revision)
        updates = self.stream(lambda: self.stub.WatchInstances(request))
        async with contextlib.aclosing(updates):
            async for update in updates:
                yield update_from_pb(update)

    async def stream(
        self, opened: Callable[[], Stream[Answer]], *, endless: bool = True
    ) -> AsyncGenerator[Answer, None]:
        """Opens the stream again when its coordinator goes away, for up to 30 s at a time."""
        loop = asyncio.get_running_loop()
        deadline_s: float | None = None
        while True:
            call = opened()
            try:
                async for message in call:
                    deadline_s = None
                    yield message
                if not endless:
                    return
                said = ""
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise self._explained(error) from None
                said = _words(error)
            finally:
                call.cancel()
            if deadline_s is None:
                deadline_s = loop.time() + self._patience_s
                self._notice(f"formctl: {self._lost(said)}; trying again")
            await self._again(deadline_s, said)

    async def _again(self, deadline_s: float, said: str) -> None:
        loop, address = asyncio.get_running_loop(), self.address
        while loop.time() < deadline_s:
            await asyncio.sleep(_STREAM_PAUSE_S)
            with contextlib.suppress(UnreachableError):
                return await self.connect(min(CONNECT_DEADLINE_S, deadline_s - loop.time()))
        lost = self._lost(said) if _is_waiting(said) else f"coordinator {address} has gone"
        raise UnreachableError(f"{lost} (tried for {self._patience_s:g} s)")

    def _lost(self, said: str) -> str:
        if _is_waiting(said):
            return f"coordinator {self.address}: {said}"
        return f"connection to coordinator {self.address} lost"

    def _explained(self, error: aio.AioRpcError, *, is_change: bool = False) -> CommandError:
        """One line: what the coordinator said, or that it said nothing."""
        code, said = error.code(), _words(error)
        if code in _BAD_INPUT:
            return InputError(said)
        if _NO_COORDINATOR.search(said):
            return UnreachableError(f"what answers at {self.address} is no coordinator")
        if code in _NO_ANSWER:
            doubt = is_change and _NOT_READY not in said
            unsure = "; it may or may not have been done" if doubt else ""
            return UnreachableError(self._unanswered(code, said) + unsure)
        if code is grpc.StatusCode.UNIMPLEMENTED:
            what = "is no coordinator, or one that is older than this formctl"
            return CommandError(f"what answers at {self.address} {what}")
        if code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL):
            return CommandError(f"coordinator {self.address}: {said}")
        return CommandError(said or f"coordinator {self.address}: {code.name}")

    def _unanswered(self, code: grpc.StatusCode, said: str) -> str:
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"coordinator {self.address} did not answer in time"
        if _LOST.match(said):
            return f"connection to coordinator {self.address} lost"
        return f"coordinator {self.address}: {said}"


def _words(error: aio.AioRpcError) -> str:
    return " ".join((error.details() or "").split())


def _is_waiting(said: str) -> bool:
    """The coordinator is there, and waits for something itself."""
    return _NOT_READY in said or _LAGS in said


def _may_go_on(error: aio.AioRpcError, *, is_change: bool) -> bool:
    """A change goes to another coordinator only when this one has surely done nothing."""
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return False
    return _NOT_READY in _words(error) if is_change else True


async def _is_answering(channel: aio.Channel, deadline_s: float) -> bool:
    """False at once when the address refuses, instead of after the whole deadline."""
    try:
        async with asyncio.timeout(deadline_s):
            state = channel.get_state(try_to_connect=True)
            while state is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    return False
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        return False
    return True


async def _is_listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_LISTENS_DEADLINE_S):
            if address.startswith("unix:"):
                _, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
            else:
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def update_from_pb(message: pb.WatchUpdate) -> Update:
    """CommandError for what only a newer coordinator can have meant."""
    with _understanding():
        return _update(message)


@contextlib.contextmanager
def _understanding() -> Iterator[None]:
    try:
        yield
    except wire.WireError as error:
        raise CommandError(f"{error}; is formctl older than the coordinator?") from None


def _update(message: pb.WatchUpdate) -> Update:
    apps = tuple(wire.app_from_pb(app) for app in message.apps)
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
        status=wire.instance_status_from_pb(view.status),
        host=view.host,
        surplus=view.surplus,
        host_silent=view.host_silent,
        current=view.current,
        surge=view.surge,
        run=view.run,
        because=view.placed_because,
    )


def _host_line(view: pb.HostView) -> HostLine:
    return HostLine(
        status=wire.host_status_from_pb(view.status),
        state=_host_state(view.state),
        instances=view.instances,
        healthy=view.healthy,
        coordinator_id=view.coordinator_id,
        since_ms=view.since_ms,
        word=wire.host_from_pb(view.host) if view.HasField("host") else None,
    )


def _host_state(number: int) -> HostState:
    try:
        return HostState(number)
    except ValueError:
        return HostState.SUSPECT  # one that this formctl does not know yet: not ready at least


def _app_line(view: pb.AppView) -> AppLine:
    return AppLine(
        app=wire.app_from_pb(view.app),
        types=tuple(spec.name for spec in view.release.types),
        healthy=view.healthy,
        wanted=view.wanted,
        irregular=irregular(view.release.types),
    )


def irregular(types: Iterable[types_pb2.ProcessType]) -> frozenset[str]:
    """Those of which the quantity does not say how many run."""
    return frozenset(spec.name for spec in types if spec.per_host or spec.HasField("schedule"))
