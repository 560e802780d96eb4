"""The page for browsers: files of ours, a login, JSON in and out, events. Thin.

Every request passes `_checked`, which holds `rules`; every call passes the guard. Connections are
counted, and those that say nothing are closed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

from aiohttp import web

from formation_coordinator.guard import Caller, Denied, Guard
from formation_coordinator.metrics import CONTENT_TYPE, Metrics
from formation_coordinator.web import rules
from formation_coordinator.web.calls import CallError, Calls
from formation_coordinator.web.logins import SESSION_S, Logins, WebSession

log = logging.getLogger(__name__)
# It tells all rubbish that strangers send, with tracebacks; our own mistakes we tell ourselves.
logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)

BODY_MAX = 64 * 1024
BODY_WITHIN_S = 10.0
CONNECTIONS_MAX = 500
IDLE_S, LOOKS_EVERY_S = 15.0, 5.0
HANDSHAKE_S = 5.0
# So often a stream without news says something, so that a dead browser is found out.
BEAT_S = 15.0
_AHEAD_MAX = 16
_FILES = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/map.js": ("map.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_NUMBERS = frozenset({"ordinal", "tail_lines", "tail"})
_SWITCHES = frozenset({"follow"})
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Page:
    """`hosts`: what browsers may call us. `https`: this is served over TLS."""

    def __init__(
        self,
        *,
        guard: Guard,
        calls: Calls,
        logins: Logins,
        hosts: frozenset[str],
        https: bool,
        about: Callable[[], dict[str, object]],
        metrics: Metrics,
        metrics_token: str,
    ) -> None:
        self._metrics, self._metrics_token = metrics, metrics_token
        self._guard, self._calls, self._logins = guard, calls, logins
        self._hosts, self._https, self._about = hosts, https, about
        self._cookie = rules.cookie_name(https=https)
        self._busy: dict[object, int] = {}
        self._quiet_since_s: dict[object, float] = {}
        self._runner = web.AppRunner(
            self._application(), access_log=None, handle_signals=False, shutdown_timeout=0.5
        )

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._checked], client_max_size=BODY_MAX)
        for path in _FILES:
            application.router.add_get(path, self._file)
        application.router.add_post("/login", self._login)
        application.router.add_post("/logout", self._logout)
        application.router.add_get("/api/session", self._session)
        application.router.add_post("/api/{name}", self._ask)
        application.router.add_get("/events/{name}", self._follow)
        application.router.add_get("/metrics", self._scraped)
        return application

    async def serve(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        """Begins. Raises OSError."""
        await self._runner.setup()
        assert self._runner.server is not None
        self._listening = await asyncio.get_running_loop().create_server(
            self._runner.server, host, port, ssl=context, backlog=128,
            ssl_handshake_timeout=HANDSHAKE_S if context else None,
        )  # fmt: skip

    async def close(self) -> None:
        self._listening.close()
        await self._runner.cleanup()

    async def watch(self) -> None:
        """For ever: closes connections on which nothing is asked, and those over the limit."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOKS_EVERY_S)
            server = self._runner.server
            open_ones = list(server.connections) if server else []
            now_s = loop.time()
            since = self._quiet_since_s
            self._quiet_since_s = {
                item: since.get(item, now_s) for item in open_ones if item not in self._busy
            }
            idle = sorted(self._quiet_since_s, key=lambda item: self._quiet_since_s[item])
            over = max(0, len(open_ones) - CONNECTIONS_MAX)
            for number, item in enumerate(idle):
                if number < over or now_s - self._quiet_since_s[item] > IDLE_S:
                    item.force_close()  # type: ignore[attr-defined]

    # ------------------------------------------------------------------ every request

    @web.middleware
    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection: object = request.protocol
        self._busy[connection] = self._busy.get(connection, 0) + 1
        try:
            return await self._answered(request, handler)
        finally:
            self._busy[connection] -= 1
            if not self._busy[connection]:
                del self._busy[connection]

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        wrong = rules.problem_with_request(
            request.method, request.headers, self._hosts, https=self._https
        )
        if wrong:
            return _refused(403, wrong)
        try:
            response = await handler(request)
        except CallError as error:
            return _refused(error.status, str(error))
        except web.HTTPException as error:
            return _refused(error.status, error.reason)
        except TimeoutError:
            return _refused(408, "the request came too slowly")
        except ConnectionError:
            raise
        except Exception:
            log.exception("a bug: %s %s", request.method, request.path)
            return _refused(500, "this coordinator has made a mistake; its log says which")
        if not response.prepared:
            response.headers.update(rules.HEADERS)
        return response

    def _caller(self, request: web.Request) -> tuple[Caller, WebSession | None]:
        """By client certificate or by cookie. Raises `CallError`."""
        connection = request.transport and request.transport.get_extra_info("ssl_object")
        certificate = connection.getpeercert(binary_form=True) if connection else None
        if certificate:
            try:
                return self._guard.caller_with(ssl.DER_cert_to_PEM_cert(certificate).encode()), None
            except Denied as denied:
                raise CallError(401, str(denied)) from denied
        session = self._logins.session(request.cookies.get(self._cookie, ""))
        if session is None:
            raise CallError(401, "log in: formctl login --web")
        return session.caller, session

    def _changer(self, request: web.Request) -> Caller:
        who, session = self._caller(request)
        wrong = rules.problem_with_change(request.headers, session.csrf) if session else ""
        if wrong:
            raise CallError(403, wrong)
        return who

    # ------------------------------------------------------------------ files and logins

    async def _file(self, request: web.Request) -> web.Response:
        name, kind = _FILES[request.path]
        content = (files("formation_coordinator.web") / "static" / name).read_bytes()
        return web.Response(body=content, content_type=kind, charset="utf-8")

    async def _login(self, request: web.Request) -> web.Response:
        """With a ticket that formctl has asked for; nothing else opens a session."""
        if "Origin" not in request.headers:
            raise CallError(403, "a login must say its Origin")
        body = await _body(request)
        ticket = body.get("ticket")
        made = self._logins.redeem(ticket) if isinstance(ticket, str) else None
        if made is None:
            raise CallError(401, "this login was used or is too old: formctl login --web")
        response = web.json_response({})
        response.set_cookie(
            self._cookie, made[0], max_age=int(SESSION_S), path="/", httponly=True,
            samesite="Strict", secure=self._https,
        )  # fmt: skip
        return response

    async def _logout(self, request: web.Request) -> web.Response:
        self._changer(request)
        self._logins.leave(request.cookies.get(self._cookie, ""))
        response = web.json_response({})
        response.del_cookie(self._cookie, path="/")
        return response

    async def _session(self, request: web.Request) -> web.Response:
        who, session = self._caller(request)
        found = who.identity
        said = {
            "role": found.role.value if found else "operator",
            "name": found.name if found else "",
            "apps": list(found.apps) if found else [],
            "csrf": session.csrf if session else "",
            **self._about(),
        }
        return web.json_response(said)

    async def _scraped(self, request: web.Request) -> web.Response:
        """For whoever may see the cluster, or shows the token that is for this alone."""
        shown = request.headers.get("Authorization", "")
        if not self._metrics_token or not rules.is_bearer(shown, self._metrics_token):
            self._calls.check_may_look(self._caller(request)[0])
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    # ------------------------------------------------------------------ calls

    async def _ask(self, request: web.Request) -> web.Response:
        who = self._changer(request)
        body = await _body(request)
        return web.json_response(await self._calls.ask(request.match_info["name"], body, who))

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events; what goes wrong after the first one is one too."""
        who, _ = self._caller(request)
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_AHEAD_MAX)
        pump = asyncio.create_task(
            self._pump(request.match_info["name"], _query(request), who, queue)
        )
        response = web.StreamResponse(headers=rules.HEADERS)
        response.content_type = "text/event-stream"
        try:
            async for event in _events(queue, pump):
                if not response.prepared:
                    await response.prepare(request)
                await response.write(event)
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
        return response

    async def _pump(
        self,
        name: str,
        query: dict[str, object],
        who: Caller,
        queue: asyncio.Queue[dict[str, Any] | None],
    ) -> None:
        """In one task of its own, which the guard may end."""
        try:
            async for answer in self._calls.follow(name, query, who):
                await queue.put(answer)
        finally:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)


async def _events(
    queue: asyncio.Queue[dict[str, Any] | None], pump: asyncio.Task[None]
) -> AsyncIterator[bytes]:
    """Until nothing more comes. Raises `CallError` when that is so from the beginning."""
    begun = False
    while True:
        try:
            async with asyncio.timeout(BEAT_S):
                answer = await queue.get()
        except TimeoutError:
            begun = True
            yield b": still here\n\n"
            continue
        if answer is None:
            break
        begun = True
        yield _event("message", answer)
    try:
        await pump
    except CallError as error:
        if not begun:
            raise
        yield _event("refused", {"error": str(error)})


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            found = json.loads(await request.read() or b"{}")
    except (ValueError, RecursionError):
        raise CallError(400, "the body is no JSON") from None
    if not isinstance(found, dict):
        raise CallError(400, "the body must be a JSON object")
    return found


def _query(request: web.Request) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in request.query.items():
        if name in _SWITCHES:
            found[name] = value == "true"
        elif name in _NUMBERS:
            if not value.lstrip("-").isdecimal() or len(value) > len("-1000000"):
                raise CallError(400, f"{name}: {value[:20]!r} is no number")
            found[name] = int(value)
        else:
            found[name] = value
    return found


def _event(kind: str, data: dict[str, Any]) -> bytes:
    """JSON has no line breaks outside of its texts, so it is one line."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def _refused(status: int, reason: str) -> web.Response:
    response = web.json_response({"error": reason}, status=status)
    response.headers.update(rules.HEADERS)
    return response
