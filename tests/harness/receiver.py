"""A receiver of webhooks, and a teller of metrics: answers as it is told, remembers all."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Received:
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_signed_with(self, secret: str) -> bool:
        """As docs/webhooks.md tells receivers to look."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode()
        mac = hmac.new(key, signed + self.body, hashlib.sha256).digest()
        wanted = "v1," + base64.b64encode(mac).decode()
        return any(
            hmac.compare_digest(wanted, given)
            for given in self.headers["webhook-signature"].split(" ")
        )


@dataclass(slots=True)
class Receiver:
    """`answer(number)`: to the request of that number, from 0; raising `Hang` says nothing."""

    url: str = ""
    answer: Callable[[int], web.Response] = lambda _: web.Response(status=204)
    received: list[Received] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        got = Received(headers, await request.read())
        async with self.news:
            number = len(self.received)
            self.received.append(got)
            self.news.notify_all()
        try:
            return self.answer(number)
        except Hang:
            await asyncio.Event().wait()
            raise AssertionError from None

    async def until(
        self, wanted: Callable[[list[Received]], bool], deadline_s: float = 20.0
    ) -> list[Received]:
        async with asyncio.timeout(deadline_s), self.news:
            await self.news.wait_for(lambda: wanted(self.received))
        return self.received

    def types(self) -> list[str]:
        return [item.json["type"] for item in self.received]


class Hang(Exception):
    """Take the request, and never answer."""


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", receiver.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    receiver.url = f"http://{host}:{port}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()
