"""A store in etcd 3.4 or newer, on etcd3aio's generated messages and stubs alone.

Its client, lease, watch and election helpers are not used (docs/design/store.md says why). Reads
are retried within their time; writes are sent once, and only on a live connection, so that
StoreUnavailable means "not done" and OutcomeUnknown "perhaps done".
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio
from etcd3aio import _protobuf as pb
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_before_delay,
    wait_random_exponential,
)

from formation.runtime import monotonic_s
from formation_coordinator.store.base import (
    Compacted,
    Compare,
    CreateRevision,
    Event,
    Health,
    KeyValue,
    LeaseLost,
    NoSpace,
    Operation,
    Outcome,
    OutcomeUnknown,
    Put,
    Snapshot,
    Span,
    StoreError,
    StoreUnavailable,
    TooLarge,
    UnchangedSince,
    WatchBatch,
    check,
    subject,
)
from formation_coordinator.store.endpoints import Channels, TlsFiles, parse_endpoints
from formation_coordinator.store.login import Login, log_in
from formation_coordinator.store.renewing import Renewer

T = TypeVar("T")
Metadata = tuple[tuple[str, str], ...]
Words = Callable[[grpc.aio.AioRpcError], StoreError]

# A member that follows may have handed a write to a leader that died: it is lost, and nobody says
# so. Longer than etcd takes to elect another.
_WRITE_S = 1.5
_READ_TRY_S = 2.0
_LEASE_S = 1.0
# A quiet watch is asked for a sign of life this often, and broken after as long again.
_WATCH_QUIET_S = 3.0
# A member that has lost its cluster refuses at once instead of serving old data or waiting.
_METADATA: Metadata = (("hasleader", "true"),)
# etcd's words for a request of somebody whom it does not know: it was not begun.
_NOT_LOGGED_IN = (
    "invalid auth token",
    "user name is empty",
    "revision in header is old",
    "auth: revision",
)
# Refusals in these codes may come after the request was carried out.
_UNCERTAIN = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)
_ALARMS = {1: "NOSPACE", 2: "CORRUPT"}
# etcd's words for a request that it did not begin.
_NOT_BEGUN = ("etcdserver: no leader", "etcdserver: too many requests", "failed to connect to all")


class _LoggedOut(StoreUnavailable):
    """etcd knows our token no more: nothing was done. It gives another."""


@dataclass(frozen=True, slots=True)
class _Peer:
    """One endpoint with a live connection."""

    index: int
    name: str
    channel: grpc.aio.Channel


class EtcdStore:
    """`endpoints` as in `parse_endpoints`; raises ValueError, one line, for what cannot be.

    Must be made inside the event loop that uses it.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        prefix: str = "/formation/",
        tls: TlsFiles | None = None,
        login: Login | None = None,
    ) -> None:
        if not prefix.endswith("/") or not prefix.isascii():
            raise ValueError(f"etcd prefix {prefix!r}: must be ASCII and end with /")
        self._prefix = prefix
        self._channels = Channels(parse_endpoints(endpoints, tls), tls)
        self._renewer = Renewer(self._channels.blocking, timeout_s=_LEASE_S)
        self._login, self._token = login, ""
        self._closed = False

    async def ranges(self, spans: Sequence[Span], *, timeout_s: float = 30.0) -> Snapshot:
        request = pb.TxnRequest(
            success=[pb.RequestOp(request_range=self._range(span)) for span in spans]
        )
        # One reply may carry the whole cluster: a try may take all the time there is.
        response = await self._read(pb.KVStub, "Txn", request, timeout_s, try_s=timeout_s)
        items = [
            self._key_value(kv) for part in response.responses for kv in part.response_range.kvs
        ]
        return Snapshot(response.header.revision, tuple(items))

    async def get(self, key: str, *, timeout_s: float = 5.0) -> KeyValue | None:
        request = pb.RangeRequest(key=self._name(key))
        response = await self._read(pb.KVStub, "Range", request, timeout_s, try_s=_READ_TRY_S)
        return self._key_value(response.kvs[0]) if response.kvs else None

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Outcome:
        check(compares, operations)
        request = pb.TxnRequest(
            compare=[self._compare(compare) for compare in compares],
            success=[self._operation(operation) for operation in operations],
        )
        response = await self._write(pb.KVStub, "Txn", request, about=subject(operations))
        return Outcome(succeeded=response.succeeded, revision=response.header.revision)

    async def grant_lease(self, ttl_s: float) -> int:
        request = pb.LeaseGrantRequest(TTL=math.ceil(ttl_s))
        response = await self._write(pb.LeaseStub, "LeaseGrant", request, about="a lease")
        return int(response.ID)

    async def revoke_lease(self, lease: int) -> None:
        request = pb.LeaseRevokeRequest(ID=lease)
        try:
            await self._write(pb.LeaseStub, "LeaseRevoke", request, about="a lease")
        except LeaseLost:
            return

    async def keep_lease(self, lease: int) -> float:
        peer = await self._peer(_LEASE_S)
        renewal = self._renewer.renew(peer.index, lease, self._metadata())
        response = await self._call(peer, renewal, self._unavailable(peer))
        if response is None:
            raise self._broken(peer, "closed the stream of a lease")
        if response.TTL <= 0:
            raise LeaseLost(f"lease {lease:x} has run out in etcd")
        return float(response.TTL)

    async def watch(self, span: Span, from_revision: int) -> AsyncGenerator[WatchBatch, None]:
        peer = await self._peer(_READ_TRY_S)
        call = pb.WatchStub(peer.channel).Watch(metadata=self._metadata())
        try:
            create = pb.WatchCreateRequest(
                key=self._name(span.start), range_end=self._end(span), start_revision=from_revision
            )
            await self._send(peer, call, pb.WatchRequest(create_request=create))
            while True:
                response = await self._next(peer, call)
                self._require_alive(peer, response, from_revision)
                if response.events:
                    events = tuple(map(self._event, response.events))
                    # Not the header's: while a watcher catches up, that is ahead of its events.
                    yield WatchBatch(events[-1].revision, events)
        finally:
            call.cancel()

    async def health(self) -> Health:
        status = await self._maintain("Status", pb.StatusRequest())
        raised = await self._maintain("Alarm", pb.AlarmRequest(action=pb.AlarmRequest.GET))
        alarms = {_ALARMS.get(member.alarm, str(member.alarm)) for member in raised.alarms}
        return Health(
            revision=status.header.revision,
            size_bytes=status.dbSize,
            used_bytes=status.dbSizeInUse,
            alarms=tuple(sorted(alarms)),
        )

    async def _maintain(self, method: str, request: Any) -> Any:
        stub = pb.MaintenanceStub
        return await self._read(stub, method, request, _READ_TRY_S, try_s=_READ_TRY_S)

    async def forget(self, revision: int) -> None:
        request = pb.CompactionRequest(revision=revision)
        try:
            await self._write(pb.KVStub, "Compact", request, about="a compaction")
        except StoreError as error:
            if "has been compacted" not in str(error):
                raise

    async def close(self) -> None:
        """Calls under way end in StoreUnavailable."""
        self._closed = True
        self._renewer.close()
        await self._channels.close()

    # Sending.

    async def _read(
        self, stub: Any, method: str, request: Any, timeout_s: float, *, try_s: float
    ) -> Any:
        deadline_s = monotonic_s() + timeout_s
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            stop=stop_before_delay(timeout_s),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                peer = await self._peer(max(0.05, deadline_s - monotonic_s()))
                patience_s = max(0.05, min(try_s, deadline_s - monotonic_s()))
                call = getattr(stub(peer.channel), method)(
                    request, timeout=patience_s, metadata=self._metadata()
                )
                return await self._call(peer, call, self._unavailable(peer))
        raise AssertionError("tenacity ends with an answer or an exception")

    async def _write(self, stub: Any, method: str, request: Any, *, about: str) -> Any:
        try:
            return await self._write_once(stub, method, request, about)
        except _LoggedOut:
            return await self._write_once(stub, method, request, about)

    async def _write_once(self, stub: Any, method: str, request: Any, about: str) -> Any:
        peer = await self._peer(_WRITE_S)
        call = getattr(stub(peer.channel), method)(
            request, timeout=_WRITE_S, metadata=self._metadata()
        )
        return await self._call(peer, call, self._unknown(peer), about=about)

    async def _peer(self, timeout_s: float) -> _Peer:
        if self._closed:
            raise StoreUnavailable("the connection to etcd is closed")
        index = await self._channels.connected(timeout_s)
        if index is None:
            raise StoreUnavailable(f"etcd does not answer at {self._channels.names}")
        peer = _Peer(index, self._channels.name(index), self._channels.channel(index))
        if self._login and not self._token:
            self._token = await self._log_in(peer, self._login)
        return peer

    async def _log_in(self, peer: _Peer, login: Login) -> str:
        try:
            return await log_in(peer.channel, login)
        except grpc.aio.AioRpcError as error:
            self._channels.rotate(peer.index)
            raise StoreUnavailable(
                f"etcd at {peer.name} does not let user {login.user} in: {_words(error)}"
            ) from error

    def _metadata(self) -> Metadata:
        return (*_METADATA, ("token", self._token)) if self._token else _METADATA

    async def _call(
        self, peer: _Peer, call: Awaitable[T], uncertain: Words, *, about: str = "the request"
    ) -> T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            if self._login and _says(error, *_NOT_LOGGED_IN):
                self._token = ""
                raise _LoggedOut(f"etcd at {peer.name} wants us to log in again") from error
            if error.code() in _UNCERTAIN or _says(error, *_NOT_BEGUN):
                self._channels.rotate(peer.index)
            raise _translate(error, uncertain, self._unavailable(peer), about) from error
        except asyncio.CancelledError:
            # Closing a channel cancels its calls, which is no wish to cancel their callers.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise StoreUnavailable("the connection to etcd was closed") from None
            raise

    def _unavailable(self, peer: _Peer) -> Words:
        return lambda error: StoreUnavailable(
            f"etcd at {peer.name} does not serve: {_words(error)}"
        )

    def _unknown(self, peer: _Peer) -> Words:
        return lambda error: OutcomeUnknown(
            f"etcd at {peer.name} may or may not have done it: {_words(error)}"
        )

    def _broken(self, peer: _Peer, what: str) -> StoreUnavailable:
        self._channels.rotate(peer.index)
        return StoreUnavailable(f"etcd at {peer.name} {what}")

    # Watching.

    async def _send(self, peer: _Peer, call: Any, request: Any) -> None:
        try:
            async with asyncio.timeout(_WATCH_QUIET_S):
                await call.write(request)
        except TimeoutError:
            raise self._broken(peer, "does not take a watch's request") from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream is over already; reading it says why

    async def _next(self, peer: _Peer, call: Any) -> Any:
        """The next response; a peer that gives no sign of life when asked is broken."""
        reading = asyncio.ensure_future(call.read())
        try:
            if not (await asyncio.wait([reading], timeout=_WATCH_QUIET_S))[0]:
                # The answer's revision is not used: etcd before 3.4.25 and 3.5.8 may send it
                # ahead of events of earlier revisions.
                request = pb.WatchRequest(progress_request=pb.rpc_pb2.WatchProgressRequest())
                await self._send(peer, call, request)
                if not (await asyncio.wait([reading], timeout=_WATCH_QUIET_S))[0]:
                    raise self._broken(peer, f"is silent on a watch for {2 * _WATCH_QUIET_S:.0f} s")
            response = await self._call(peer, reading, self._unavailable(peer))
        finally:
            reading.cancel()
        if response is grpc.aio.EOF:
            raise self._broken(peer, "closed a watch")
        return response

    def _require_alive(self, peer: _Peer, response: Any, from_revision: int) -> None:
        if response.compact_revision:
            raise Compacted(
                f"etcd has forgotten what came before revision {response.compact_revision};"
                f" a watch asked for {from_revision}"
            )
        if response.canceled:
            raise self._broken(peer, f"ended a watch: {response.cancel_reason or 'no reason'}")
        if response.created and response.header.revision < from_revision - 1:
            # Waiting for a revision to be given out again would miss what it now means.
            at = response.header.revision
            raise self._broken(peer, f"is at revision {at}, a watch at {from_revision}")

    # Between our types and etcd's.

    def _name(self, key: str) -> bytes:
        return (self._prefix + key).encode()

    def _end(self, span: Span) -> bytes:
        return self._name(span.end) if span.end else self._prefix[:-1].encode() + b"0"

    def _range(self, span: Span) -> Any:
        return pb.RangeRequest(key=self._name(span.start), range_end=self._end(span))

    def _compare(self, compare: Compare) -> Any:
        if isinstance(compare, UnchangedSince):
            return pb.Compare(
                key=self._name(compare.span.start),
                range_end=self._end(compare.span),
                result=pb.Compare.LESS,
                target=pb.Compare.MOD,
                mod_revision=compare.revision + 1,
            )
        if isinstance(compare, CreateRevision):
            revision = {"create_revision": compare.revision, "target": pb.Compare.CREATE}
        else:
            revision = {"mod_revision": compare.revision, "target": pb.Compare.MOD}
        return pb.Compare(key=self._name(compare.key), result=pb.Compare.EQUAL, **revision)

    def _operation(self, operation: Operation) -> Any:
        key = self._name(operation.key)
        if isinstance(operation, Put):
            put = pb.PutRequest(key=key, value=operation.value, lease=operation.lease)
            return pb.RequestOp(request_put=put)
        return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))

    def _key_value(self, kv: Any) -> KeyValue:
        return KeyValue(
            key=kv.key.decode(errors="backslashreplace")[len(self._prefix) :],
            value=kv.value,
            create_revision=kv.create_revision,
            mod_revision=kv.mod_revision,
            lease=kv.lease,
        )

    def _event(self, event: Any) -> Event:
        item = self._key_value(event.kv)
        deleted = event.type == pb.kv_pb2.Event.DELETE
        return Event(key=item.key, value=None if deleted else item, revision=item.mod_revision)


def _says(error: grpc.aio.AioRpcError, *words: str) -> bool:
    details = error.details() or ""
    return any(word in details for word in words)


def _words(error: grpc.aio.AioRpcError) -> str:
    details = " ".join((error.details() or "").split())
    return f"{details or 'no words'} ({error.code().name})"


def _translate(
    error: grpc.aio.AioRpcError, uncertain: Words, unavailable: Words, about: str
) -> StoreError:
    """etcd gives its reasons as text; the codes alone do not tell them apart."""
    if _says(error, "requested lease not found"):
        return LeaseLost("the lease has run out in etcd")
    if _says(error, "database space exceeded"):
        return NoSpace(
            "etcd's database is full: compact and defragment it, then `etcdctl alarm disarm`"
        )
    if _says(error, "request is too large", "received message larger than max"):
        return TooLarge(0, about)
    if _says(error, *_NOT_BEGUN):
        return unavailable(error)
    if error.code() in _UNCERTAIN:
        return uncertain(error)
    return StoreError(f"etcd refuses: {_words(error)}")
