"""One coordinator, called: finds one that answers, has a deadline on every call, and turns gRPC's
errors into one line each. Reads go on with the next coordinator when one cannot answer, streams
are opened again when they break; a change is sent once, unless it is sure that nothing was done.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Sequence,
)
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import grpc
from grpc import aio

from formation import runtime
from formation.dialling import Dialler, NotTrustedError, ended_unread, is_socket
from formation.discovery import Target
from formation.errors import FormationError, InputError, UnreachableError
from formation.tracecontext import in_the_middle_of
from formation.v1.control_pb2_grpc import ControlStub

if TYPE_CHECKING:
    from formation.credentials import Credential
    from formation.v1.access_pb2_grpc import AccessAsyncStub
    from formation.v1.artifacts_pb2_grpc import ArtifactsAsyncStub
    from formation.v1.control_pb2_grpc import ControlAsyncStub  # exists for type checkers alone

Request_contra = TypeVar("Request_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)
Answer = TypeVar("Answer")

CONNECT_DEADLINE_S = 4.5
CALL_DEADLINE_S = 15.0
CHANGE_DEADLINE_S = 20.0
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
    r"endpoint|transport|recvmsg|sendmsg|broken pipe|ping|keepalive|channel|dns|ipv[46]:|unix:|"
    r"internal error from core|$",
    re.IGNORECASE,
)
_NO_COORDINATOR = re.compile(r"unknown service|received http2 header", re.IGNORECASE)


class Call(Protocol[Request_contra, Response_co]):
    """A unary method of the stub."""

    def __call__(
        self, request: Request_contra, *, timeout: float, metadata: Sequence[tuple[str, str]] = ()
    ) -> Awaitable[Response_co]: ...


class Stream(Protocol[Response_co]):
    """A call whose answers are iterated over."""

    def __aiter__(self) -> AsyncIterator[Response_co]: ...
    def cancel(self) -> bool: ...


class Connection:
    """Connected to `address`; the others are where reads and streams go on.

    `notice` gets a line at once when a stream's coordinator goes away.
    """

    def __init__(
        self,
        target: Target,
        *,
        notice: Callable[[str], None] = lambda line: None,
        patience_s: float = STREAM_PATIENCE_S,
    ) -> None:
        self.target = target
        self._patience_s = patience_s
        self._notice = notice
        self._channel: aio.Channel | None = None
        self._dialler = Dialler(self._credential, insecure=target.insecure, remedy=_HOW_TO_LOG_IN)
        self.address = ""

    async def __aenter__(self) -> Self:
        await self.connect(CONNECT_DEADLINE_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self, deadline_s: float) -> None:
        """Goes through the addresses, from the one after the last, until one answers."""
        await self._connect(self._in_turn(), deadline_s)

    def _in_turn(self) -> tuple[str, ...]:
        addresses = self.target.addresses
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
            raise FormationError(str(refused[0]))
        raise UnreachableError(await self._nobody())

    def _credential(self) -> Credential | None:
        if not self.target.identity:
            return None
        from formation.credentials import load  # with all of cryptography

        return load(self.target.identity)

    async def _renew_when_due(self) -> None:
        """Best effort, once in a month of use: what is wrong with it shows when it runs out."""
        found, now_ms = self._credential(), runtime.now_ms()
        if found is None:
            return
        from formation.contexts import CredentialError
        from formation.pki import renews_at_ms

        if now_ms < renews_at_ms(found.seen):
            return
        from formation.enrolling import EnrolError, renew, saved_over

        with contextlib.suppress(EnrolError, CredentialError):
            saved_over(found, await renew(self.address, self._dialler, now_ms))

    async def _nobody(self) -> str:
        target = self.target
        listening = [address for address in target.addresses if await _is_listening(address)]
        if not listening:
            addresses = ", ".join(target.addresses)
            return f"no coordinator answers at {addresses} (from {target.origin}); does it run?"
        credential, strange = self._credential(), ""
        if credential and not is_socket(listening[0]):
            from formation.diagnosis import diagnose

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
        from formation.v1.access_pb2_grpc import AccessStub

        return AccessStub(self._channel)

    @property
    def artifacts(self) -> ArtifactsAsyncStub:
        assert self._channel is not None, "connect first"
        from formation.v1.artifacts_pb2_grpc import ArtifactsStub

        return ArtifactsStub(self._channel)

    async def read(
        self,
        method: Callable[[ControlAsyncStub], Call[Request_contra, Answer]],
        request: Request_contra,
    ) -> Answer:
        async def ask() -> Answer:
            return await method(self.stub)(request, timeout=CALL_DEADLINE_S)

        return await self.on_any(ask)

    async def change(
        self,
        method: Callable[[ControlAsyncStub], Call[Request_contra, Answer]],
        request: Request_contra,
    ) -> Answer:
        """As `read`; when the answer is lost, says that nobody knows whether it was done."""

        async def ask() -> Answer:
            trace = in_the_middle_of(os.environ)
            return await method(self.stub)(request, timeout=CHANGE_DEADLINE_S, metadata=trace)

        return await self.on_any(ask, is_change=True)

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

    async def on_any(
        self, ask: Callable[[], Awaitable[Answer]], *, is_change: bool = False
    ) -> Answer:
        """Asks each coordinator that connects, once, until one can answer."""
        untried = list(self.target.addresses)
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
                self._notice(f"{self._lost(said)}; trying again")
            await self._again(deadline_s, said)

    async def persistently(
        self, work: Callable[[], Awaitable[Answer]], progressed: Callable[[], int]
    ) -> Answer:
        """Does it again from its beginning when its coordinator goes away or is busy, for up to
        30 s at a time in which `progressed` has not grown."""
        loop = asyncio.get_running_loop()
        deadline_s, reached, noticed = loop.time() + self._patience_s, progressed(), ""
        while True:
            try:
                return await work()
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE and not ended_unread(error):
                    raise self._explained(error) from None
                said = _words(error)
            if progressed() > reached:
                deadline_s, reached = loop.time() + self._patience_s, progressed()
            if (line := f"{self._lost(said)}; trying again") != noticed:
                self._notice(noticed := line)
            await self._again(deadline_s, said)

    async def stream_once(
        self, opened: Callable[[], Stream[Answer]]
    ) -> AsyncGenerator[Answer, None]:
        """Ends with `UnreachableError` when its coordinator goes away."""
        call = opened()
        try:
            async for message in call:
                yield message
        except aio.AioRpcError as error:
            raise self._explained(error) from None
        finally:
            call.cancel()

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

    def _explained(self, error: aio.AioRpcError, *, is_change: bool = False) -> FormationError:
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
            what = "is no coordinator, or one that is older than this program"
            return FormationError(f"what answers at {self.address} {what}")
        if code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL):
            return FormationError(f"coordinator {self.address}: {said}")
        return FormationError(said or f"coordinator {self.address}: {code.name}")

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


def is_lost(said: str) -> bool:
    """gRPC's own words of a connection that ended."""
    return bool(_LOST.match(said))


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
