"""One coordinator, called: finds one that answers, has a deadline on every call, and turns gRPC's
errors into one line each. Streams are opened again, elsewhere if need be, when they break.

The only room of formctl that knows grpc and the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc
from grpc import aio

from formation import runtime, wire
from formation.model import HostState
from formation.v1 import control_pb2 as pb
from formation.v1.control_pb2_grpc import ControlStub
from formctl.discovery import Target
from formctl.errors import CommandError, InputError, UnreachableError
from formctl.views import AppLine, HostLine, Instance, Update

if TYPE_CHECKING:
    from formation.v1.control_pb2_grpc import ControlAsyncStub  # exists for type checkers alone

Request_contra = TypeVar("Request_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)
Answer = TypeVar("Answer")

CONNECT_DEADLINE_S = 4.5
CALL_DEADLINE_S = 15.0
# A new coordinator or a new leader is there within seconds; then the stream goes on.
STREAM_PATIENCE_S = 30.0
_STREAM_PAUSE_S = 0.2

_BAD_INPUT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Call(Protocol[Request_contra, Response_co]):
    """A unary method of the stub."""

    def __call__(self, request: Request_contra, *, timeout: float) -> Awaitable[Response_co]: ...


class Stream(Protocol[Response_co]):
    """A call whose answers are iterated over."""

    def __aiter__(self) -> AsyncIterator[Response_co]: ...
    def cancel(self) -> bool: ...


class Client:
    """Connected to `address`; the others are where streams go on."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._channel: aio.Channel | None = None
        self.address = ""

    async def __aenter__(self) -> Client:
        await self.connect(CONNECT_DEADLINE_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self, deadline_s: float) -> None:
        """Goes through the addresses, one after the other, until one answers."""
        await self.close()
        share_s = deadline_s / len(self._target.addresses)
        for address in self._target.addresses:
            channel = aio.insecure_channel(address, options=runtime.client_channel_options())
            try:
                if await _is_answering(channel, share_s):
                    self._channel, self.address = channel, address
                    return
            finally:
                if self._channel is not channel:
                    await channel.close()
        raise UnreachableError(_nobody(self._target))

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    @property
    def stub(self) -> ControlAsyncStub:
        assert self._channel is not None, "connect first"
        return ControlStub(self._channel)

    async def read(self, call: Call[Request_contra, Answer], request: Request_contra) -> Answer:
        try:
            return await call(request, timeout=CALL_DEADLINE_S)
        except aio.AioRpcError as error:
            raise self._explained(error) from None

    async def change(self, call: Call[Request_contra, Answer], request: Request_contra) -> Answer:
        """As `read`; when the answer is lost, says that nobody knows whether it was done."""
        try:
            return await call(request, timeout=CALL_DEADLINE_S)
        except aio.AioRpcError as error:
            doubt = "; it may or may not have been done" if error.code() in _NO_ANSWER else ""
            raise self._explained(error, doubt) from None

    async def apps(self) -> list[AppLine]:
        response = await self.read(self.stub.ListApps, pb.ListAppsRequest())
        found = [_app_line(view) for view in response.apps]
        return sorted(found, key=lambda line: line.app.name)

    async def hosts(self) -> list[HostLine]:
        response = await self.read(self.stub.ListHosts, pb.ListHostsRequest())
        return [_host_line(view) for view in response.hosts]

    async def instances(self, app: str) -> Update:
        """Everything as it is now."""
        request = pb.WatchInstancesRequest(app=app, once=True)
        call = self.stub.WatchInstances(request, timeout=CALL_DEADLINE_S)
        try:
            async for update in call:
                return update_from_pb(update)
        except aio.AioRpcError as error:
            raise self._explained(error) from None
        finally:
            call.cancel()
        raise CommandError(f"coordinator {self.address} ended the answer before its beginning")

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
                lost = CommandError(f"coordinator {self.address} ended the stream")
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise self._explained(error) from None
                lost = self._explained(error)
            finally:
                call.cancel()
            deadline_s = deadline_s or loop.time() + STREAM_PATIENCE_S
            await self._again(deadline_s, lost)

    async def _again(self, deadline_s: float, lost: CommandError) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < deadline_s:
            await asyncio.sleep(_STREAM_PAUSE_S)
            with contextlib.suppress(UnreachableError):
                return await self.connect(min(CONNECT_DEADLINE_S, deadline_s - loop.time()))
        raise lost

    def _explained(self, error: aio.AioRpcError, doubt: str = "") -> CommandError:
        """One line: what the coordinator said, or that it said nothing."""
        code, said = error.code(), " ".join((error.details() or "").split())
        if code in _BAD_INPUT:
            return InputError(said)
        if code is grpc.StatusCode.UNAVAILABLE:
            return UnreachableError(f"coordinator {self.address}: {said}{doubt}")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return UnreachableError(f"coordinator {self.address} did not answer in time{doubt}")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return CommandError(f"coordinator {self.address} does not know this request: older?")
        if code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL):
            return CommandError(f"coordinator {self.address}: {said}")
        return CommandError(said or f"coordinator {self.address}: {code.name}")


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


def _nobody(target: Target) -> str:
    addresses: Sequence[str] = target.addresses
    return f"no coordinator answers at {', '.join(addresses)} (from {target.origin}); does it run?"


def update_from_pb(message: pb.WatchUpdate) -> Update:
    """CommandError for what only a newer coordinator can have meant."""
    try:
        return _update(message)
    except wire.WireError as error:
        raise CommandError(f"{error}; is formctl older than the coordinator?") from None


def _update(message: pb.WatchUpdate) -> Update:
    apps = tuple(wire.app_from_pb(app) for app in message.apps)
    return Update(
        complete=message.complete,
        changed=tuple(_instance(view) for view in message.changed),
        gone_uids=tuple(message.gone_uids),
        # A list that did not change is not sent; the first update always tells.
        apps=apps if apps or message.complete else None,
        note=message.note,
    )


def _instance(view: pb.InstanceView) -> Instance:
    return Instance(
        status=wire.instance_status_from_pb(view.status),
        host=view.host,
        surplus=view.surplus,
        host_silent=view.host_silent,
        current=view.current,
    )


def _host_line(view: pb.HostView) -> HostLine:
    return HostLine(
        status=wire.host_status_from_pb(view.status),
        state=_host_state(view.state),
        instances=view.instances,
        healthy=view.healthy,
        coordinator_id=view.coordinator_id,
        since_ms=view.since_ms,
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
    )
