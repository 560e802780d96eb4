"""Asks before every call who the caller is and whether it may: the one interceptor.

The identity comes from the certificate that TLS has checked, never from a message. A call that
goes on for long is ended when its caller's certificate is revoked or runs out.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from cryptography import x509
from google.protobuf.message import Message

from formation import pki
from formation.identity import PEOPLE, Identity, Role
from formation_coordinator import access
from formation_coordinator.allowance import Allowance
from formation_coordinator.world import World

log = logging.getLogger(__name__)

_LOOKS_EVERY_S, _LOOKS_SPARED = 5.0, 20.0
# More than any person, pipeline or host of ours needs.
CALLS_PER_S, CALLS_BURST = 50.0, 500.0
_REMEMBERED_MAX = 20_000
_TLS = "TLSv1.3"
_LOCAL_PEERS = ("unix:",)
_CODES: dict[object, str] = {
    said: code.name for code in grpc.StatusCode for said in (code, code.value[0])
}

Context = grpc.aio.ServicerContext[Any, Any]
Traced = Callable[[str, Any, Any], AbstractContextManager[None]]
if TYPE_CHECKING:  # the stubs' class is generic, the real one is not
    Handler = grpc.RpcMethodHandler[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """`seen` None: whoever may open our socket, or anybody where we serve insecurely."""

    seen: pki.Seen | None = None

    @property
    def identity(self) -> Identity | None:
        return self.seen.identity if self.seen else None

    def speaks_for(self, host: str) -> bool:
        who = self.identity
        return who is None or (who.role is Role.AGENT and who.name == host)


_CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)


def caller() -> Caller:
    """Of the call that is being answered."""
    return _CALLER.get() or Caller()


class Denied(Exception):
    """The call does not take place; `code` says whether it is for who or for what."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(slots=True, eq=False)
class _Open:
    """A call that goes on. `reason`: why it was ended from here. `sending`: gRPC has an answer of
    it in hand; a cancel there would leave the caller without any end."""

    seen: pki.Seen | None
    task: asyncio.Task[Any] | None = field(default_factory=asyncio.current_task)
    reason: str = ""
    sending: bool = False

    def end(self, reason: str) -> None:
        self.reason = reason
        if self.task is not None and not self.sending:
            self.task.cancel()

    def signed(self, request: Any) -> Any:
        """What a person asks for bears its name by the certificate, whatever the message says."""
        if self.seen is None or self.seen.identity.role not in PEOPLE:
            return request
        name = self.seen.identity.name
        if not isinstance(request, Message):
            return _signed_stream(request, name)
        _sign(request, name)
        return request

    def check(self) -> None:
        """Raises `Denied` when it was ended."""
        if self.reason:
            raise Denied(grpc.StatusCode.UNAUTHENTICATED, self.reason)


class Guard(grpc.aio.ServerInterceptor):
    """`authorities`: whose signatures count now. `insecure`: plain TCP may do everything too."""

    def __init__(
        self,
        *,
        world: Callable[[], World],
        authorities: Callable[[], tuple[x509.Certificate, ...]],
        now_ms: Callable[[], int],
        clock: Callable[[], float],
        insecure: bool,
    ) -> None:
        self._clock = clock
        self._world, self._authorities, self._now_ms = world, authorities, now_ms
        self._insecure = insecure
        self._remembered: dict[bytes, pki.Seen] = {}
        self._trusted: tuple[x509.Certificate, ...] = ()
        self._counted: tuple[object, frozenset[str]] = (None, frozenset())
        self._open: set[_Open] = set()
        # Holders whom the store does not know: of `init`, or from after it was put back.
        self.strangers: dict[tuple[str, str], pki.Seen] = {}
        self._allowances: dict[Identity, Allowance] = {}
        # Told of every call by its method and how it ended.
        self.told: Callable[[str, str], None] = lambda _method, _code: None
        # Around every call that has one answer: its method, request and metadata.
        self.traced: Traced = lambda _method, _request, _metadata: nullcontext()

    # ------------------------------------------------------------------ before a call

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """An unknown method has no handler: gRPC says so, to everybody alike."""
        handler = await continuation(handler_call_details)
        return self._guarded(handler, handler_call_details.method) if handler else None

    def _guarded(self, handler: Handler, method: str) -> Handler:
        kind = (
            ("stream" if handler.request_streaming else "unary")
            + "_"
            + ("stream" if handler.response_streaming else "unary")
        )
        behaviour = getattr(handler, kind)
        yields = inspect.isasyncgenfunction(behaviour)
        wrapped = self._yielding(behaviour, method) if yields else self._calling(behaviour, method)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        counted = self._yields_counted if yields else self._calls_counted
        made: Handler = make(
            counted(wrapped, method), handler.request_deserializer, handler.response_serializer
        )
        return made

    def _calling(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> Any:
            try:
                with (
                    self.admitted(method, request, self._who(context)) as held,
                    self.traced(method, request, context.invocation_metadata() or ()),
                ):
                    return await behaviour(held.signed(request), context)
            except Denied as denied:
                refused = denied
            return await context.abort(refused.code, str(refused))

        return call

    def _yielding(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                with self.admitted(method, request, self._who(context)) as held:
                    async for answer in behaviour(held.signed(request), context):
                        held.sending = True
                        yield answer
                        held.sending = False
                        held.check()
                return
            except Denied as denied:
                refused = denied
            await context.abort(refused.code, str(refused))

        return call

    def _calls_counted(self, call: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def counted(request: Any, context: Context) -> Any:
            with self._counting_call(method, context):
                return await call(request, context)

        return counted

    def _yields_counted(self, call: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def counted(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._counting_call(method, context):
                async for answer in call(request, context):
                    yield answer

        return counted

    @contextmanager
    def _counting_call(self, method: str, context: Context) -> Iterator[None]:
        """By the name of its gRPC status; one that its caller has given up is CANCELLED."""
        code = grpc.StatusCode.UNKNOWN
        try:
            yield
            code = grpc.StatusCode.OK
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED
            raise
        finally:
            said = context.code()  # None: nobody has said one, a number or a status
            self.told(method, _CODES.get(said, code.name))

    @contextmanager
    def admitted(self, method: str, request: Any, who: Caller) -> Iterator[_Open]:
        """Raises `Denied`, also when the call is ended later."""
        if who.seen is not None:
            self._check(method, who.seen, request)
        held = _Open(who.seen)
        self._open.add(held)
        _CALLER.set(who)
        try:
            yield held
        except asyncio.CancelledError:
            held.check()
            raise
        finally:
            self._open.discard(held)

    def _check(self, method: str, seen: pki.Seen, request: Any) -> None:
        if ended := self._ended(seen):
            raise Denied(grpc.StatusCode.UNAUTHENTICATED, ended)
        app = getattr(request, "app", "")
        values = bool(getattr(request, "values", False))
        self._note(seen)
        if refused := access.refusal(method, seen.identity, app=app, values=values):
            log.warning("refused: %s", refused)
            raise Denied(grpc.StatusCode.PERMISSION_DENIED, refused)
        self._count(seen.identity)

    def _count(self, who: Identity) -> None:
        now_s = self._clock()
        if len(self._allowances) > _REMEMBERED_MAX:
            self._allowances.clear()
        allowance = self._allowances.get(who) or Allowance.full(
            per_s=CALLS_PER_S, burst=CALLS_BURST, at_s=now_s
        )
        after, wait_s = allowance.spent(now_s)
        if wait_s:
            raise Denied(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{who} calls more than {CALLS_PER_S:g} times a second; slow down",
            )
        self._allowances[who] = after

    def _note(self, seen: pki.Seen) -> None:
        key = (seen.identity.role, seen.identity.name)
        is_somebody = seen.identity.role is not Role.TOKEN
        if is_somebody and key not in self._world().identities:
            self.strangers.setdefault(key, seen)

    # ------------------------------------------------------------------ who it is

    def _who(self, context: Context) -> Caller:
        said = context.auth_context()
        pem = next(iter(said.get("x509_pem_cert", ())), b"")
        if not pem:
            return self._without_certificate(context)
        version = next(iter(said.get("ssl_tls_version", ())), b"").decode()
        if version != _TLS:
            raise Denied(grpc.StatusCode.UNAUTHENTICATED, f"{version} is too old: {_TLS} it is")
        return self.caller_with(pem)

    def caller_with(self, pem: bytes) -> Caller:
        """Whose certificate that is. Raises `Denied` when none of our authorities signed it."""
        try:
            return Caller(seen=self._seen(pem))
        except pki.CertificateError as error:
            raise Denied(grpc.StatusCode.UNAUTHENTICATED, str(error)) from error

    def _without_certificate(self, context: Context) -> Caller:
        if self._insecure or context.peer().startswith(_LOCAL_PEERS):
            return Caller()
        raise Denied(grpc.StatusCode.UNAUTHENTICATED, "who are you? No certificate came")

    def _seen(self, pem: bytes) -> pki.Seen:
        """Checked once for each certificate and each set of authorities."""
        trusted = self._authorities()
        if trusted != self._trusted or len(self._remembered) > _REMEMBERED_MAX:
            self._remembered.clear()
            self._trusted = trusted
        found = self._remembered.get(pem)
        if found is None:
            certificate = pki.read_certificate(pem)
            found = _of_token(certificate, self._world()) or pki.look_at(certificate, trusted)
            self._remembered[pem] = found
        return found

    def _ended(self, seen: pki.Seen) -> str:
        who, now_ms = seen.identity, self._now_ms()
        if who.role is Role.TOKEN:
            return ""  # what is left of the token is looked at when it is used
        if now_ms >= seen.expires_at_ms:
            return f"the certificate of {who} has run out"
        if seen.authority not in self._counting():
            return f"the authority that signed the certificate of {who} counts no more; join again"
        if access.is_void(seen.issued_at_ms, self._world().identities.get((who.role, who.name))):
            return f"the certificates of {who} were revoked; it has to join again"
        return ""

    def _counting(self) -> frozenset[str]:
        """Fingerprints of the authorities that count."""
        trusted = self._authorities()
        if self._counted[0] is not trusted:
            self._counted = trusted, frozenset(map(pki.authority_fingerprint, trusted))
        return self._counted[1]

    # ------------------------------------------------------------------ while calls go on

    async def watch(self, hint: asyncio.Event) -> None:
        """For ever: ends calls of those who may no more. `hint` is set when the world changes."""
        known: object = None
        while True:
            try:
                async with asyncio.timeout(_LOOKS_EVERY_S):
                    while (self._world().identities, self._world().trust) == known:
                        await hint.wait()
                        hint.clear()
            except TimeoutError:
                pass  # certificates run out without a word
            known, began_s = (self._world().identities, self._world().trust), self._clock()
            self._end_those_ended()
            # At once when one is revoked; a small part of the time while thousands join.
            await asyncio.sleep((self._clock() - began_s) * _LOOKS_SPARED)

    def _end_those_ended(self) -> None:
        for held in tuple(self._open):
            ended = self._ended(held.seen) if held.seen else ""
            if ended and not held.reason:
                log.warning("ended: %s", ended)
                held.end(ended)


def _of_token(certificate: x509.Certificate, world: World) -> pki.Seen | None:
    """Whoever shows what a token's key has signed holds that token, whatever else it claims."""
    token = world.tokens.get(pki.token_named(certificate))
    if token is None or not pki.is_signed_by_key(certificate, token.public_key):
        return None
    issued_ms, expires_ms = pki.validity_ms(certificate)
    return pki.Seen(
        identity=Identity(cluster="any", role=Role.TOKEN, name=token.id),
        issued_at_ms=issued_ms,
        expires_at_ms=expires_ms,
        key=token.id,
        authority=token.id,
    )


async def _signed_stream(requests: AsyncIterator[Any], name: str) -> AsyncIterator[Any]:
    async for request in requests:
        _sign(request, name)
        yield request


def _sign(message: Message, name: str) -> None:
    for described in message.DESCRIPTOR.fields:
        if described.name == "who":
            message.who = name  # type: ignore[attr-defined]
        elif described.name == "options" and message.HasField("options"):
            _sign(message.options, name)  # type: ignore[attr-defined]
