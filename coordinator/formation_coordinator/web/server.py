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

from formation.model import Slot
from formation_coordinator.guard import Caller, Denied, Guard
from formation_coordinator.metrics import CONTENT_TYPE, Metrics
from formation_coordinator.web import rules
from formation_coordinator.web.calls import CallError, Calls
from formation_coordinator.web.logins import SESSION_S, Logins, WebSession
from formation_coordinator.web.mapping import Mapping

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
SCRIPTS = (
    "act", "apps", "app", "banners", "data", "detail", "dom", "draw", "events", "layout", "log",
    "map", "slider", "stream", "tables",
)  # fmt: skip
_FILES = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/api.html": ("api.html", "text/html"),
    "/openapi.json": ("openapi.json", "application/json"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in SCRIPTS},
}
_DIGITS_MAX = 15
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# Of an app and a type ("": of all), as Prometheus' http_sd reads them; or why nobody knows them.
Targets = Callable[[str, str], list[dict[str, Any]] | str]


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
        mapping: Mapping,
        detail: Callable[[str, Slot], dict[str, Any]],
        metrics: Metrics,
        metrics_token: str,
        targets: Targets,
    ) -> None:
        self._metrics, self._metrics_token, self._targets = metrics, metrics_token, targets
        self._guard, self._calls, self._logins = guard, calls, logins
        self._hosts, self._https, self._about = hosts, https, about
        self._mapping, self._detail = mapping, detail
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
        application.router.add_get("/api/{name}", self._read)
        application.router.add_get("/events/{name}", self._follow)
        application.router.add_get("/map/whole", self._whole)
        application.router.add_get("/map/past", self._past)
        application.router.add_get("/map/changes", self._changes)
        application.router.add_get("/map/instance", self._instance)
        application.router.add_get("/metrics", self._scraped)
        for path in ("/sd", "/sd/{app}", "/sd/{app}/{type}"):
            application.router.add_get(path, self._discovered)
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
            "may": rules.allowed(found),
            "csrf": session.csrf if session else "",
            **self._about(),
        }
        return web.json_response(said)

    async def _scraped(self, request: web.Request) -> web.Response:
        """For whoever may see the cluster, or shows the token that is for scraping alone."""
        if not self._scrapes(request):
            self._calls.check_may_look(self._caller(request)[0])
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _discovered(self, request: web.Request) -> web.Response:
        """What to scrape. Prometheus keeps what it had where it gets no answer, so what is not
        known is none; an app or type that is not there has no targets."""
        if not self._scrapes(request):
            self._calls.check_may_see_instances(self._caller(request)[0])
        asked = request.match_info
        found = self._targets(asked.get("app", ""), asked.get("type", ""))
        if isinstance(found, str):
            raise CallError(503, found)
        return web.json_response(found)

    def _scrapes(self, request: web.Request) -> bool:
        shown = request.headers.get("Authorization", "")
        return bool(self._metrics_token) and rules.is_bearer(shown, self._metrics_token)

    # ------------------------------------------------------------------ calls

    async def _ask(self, request: web.Request) -> web.Response:
        who = self._changer(request)
        body = await _body(request)
        return web.json_response(await self._calls.ask(request.match_info["name"], body, who))

    async def _read(self, request: web.Request) -> web.Response:
        who, _ = self._caller(request)
        return web.json_response(
            await self._calls.read(request.match_info["name"], request.query, who)
        )

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events; what goes wrong after the first one is one too."""
        who, _ = self._caller(request)
        answers = self._calls.follow(request.match_info["name"], request.query, who)
        return await self._streamed(request, _encoded(answers), _AHEAD_MAX)

    async def _streamed(
        self, request: web.Request, source: AsyncIterator[bytes], ahead: int
    ) -> web.StreamResponse:
        """`ahead`: so many parts wait for a browser that is slow, then their source does."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(ahead)
        pump = asyncio.create_task(_pump(source, queue))
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

    # ------------------------------------------------------------------ the map

    async def _whole(self, request: web.Request) -> web.Response:
        self._calls.check_may_look(self._caller(request)[0])
        return _packed(await self._mapping.whole())

    async def _past(self, request: web.Request) -> web.Response:
        self._calls.check_may_look(self._caller(request)[0])
        at = request.query.get("at_ms", "")
        if not at.isdecimal() or len(at) > _DIGITS_MAX:
            raise CallError(400, f"at_ms: {at[:20]!r} is no time in milliseconds")
        found = await self._mapping.past(int(at))
        if found is None:
            raise CallError(503, "this coordinator has seen nothing yet")
        return _packed(found)

    async def _changes(self, request: web.Request) -> web.StreamResponse:
        """The browser itself says where it was when it comes again."""
        who, _ = self._caller(request)
        after = request.headers.get("Last-Event-ID") or request.query.get("after", "")
        source = self._calls.looked(self._mapping.changes(after), who)
        return await self._streamed(request, source, 1)

    async def _instance(self, request: web.Request) -> web.Response:
        self._calls.check_may_look(self._caller(request)[0])
        query = request.query
        ordinal = query.get("ordinal", "")
        if not ordinal.isdecimal() or len(ordinal) > _DIGITS_MAX:
            raise CallError(400, f"ordinal: {ordinal[:20]!r} is no number")
        slot = Slot(query.get("app", ""), query.get("type", ""), int(ordinal))
        return web.json_response(self._detail(query.get("host", ""), slot))


async def _encoded(answers: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    async for answer in answers:
        yield _event("message", answer)


async def _pump(source: AsyncIterator[bytes], queue: asyncio.Queue[bytes | None]) -> None:
    """In one task of its own, which the guard may end. What is queued comes before the end."""
    try:
        async for part in source:
            await queue.put(part)
    except asyncio.CancelledError:
        if queue.full():  # nobody takes it any more
            queue.get_nowait()
        queue.put_nowait(None)
        raise
    except BaseException:
        await queue.put(None)
        raise
    await queue.put(None)


async def _events(
    queue: asyncio.Queue[bytes | None], pump: asyncio.Task[None]
) -> AsyncIterator[bytes]:
    """Until nothing more comes. Raises `CallError` when that is so from the beginning."""
    begun = False
    while True:
        try:
            async with asyncio.timeout(BEAT_S):
                part = await queue.get()
        except TimeoutError:
            begun = True
            yield b": still here\n\n"
            continue
        if part is None:
            break
        begun = True
        yield part
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


def _event(kind: str, data: dict[str, Any]) -> bytes:
    """JSON has no line breaks outside of its texts, so it is one line."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def _packed(body: bytes) -> web.Response:
    return web.Response(
        body=body, content_type="application/octet-stream", headers={"Content-Encoding": "gzip"}
    )


def _refused(status: int, reason: str) -> web.Response:
    response = web.json_response({"error": reason}, status=status)
    response.headers.update(rules.HEADERS)
    return response
