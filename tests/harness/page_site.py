"""A coordinator with a page on loopback, and somebody who has logged in to it."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from certified import Authority
from running import RunningCoordinator, coordinator, free_port

from formation.v1 import access_pb2, access_pb2_grpc, control_pb2, types_pb2
from formation_coordinator.store.memory import MemoryStore

HTTP_S = aiohttp.ClientTimeout(total=10)


class Site:
    """A coordinator with a page, and whoever asks it."""

    def __init__(self, running: RunningCoordinator, url: str, http: aiohttp.ClientSession) -> None:
        self.running, self.url, self.http = running, url, http
        self.csrf = ""

    @property
    def origin(self) -> str:
        return self.url.rstrip("/")

    async def log_in(self, channel: grpc.aio.Channel) -> None:
        stub: access_pb2_grpc.AccessAsyncStub = access_pb2_grpc.AccessStub(channel)
        made = await stub.CreateWebLogin(access_pb2.CreateWebLoginRequest())
        assert made.url == self.url
        status, _ = await self.post("/login", {"ticket": made.ticket}, csrf="")
        assert status == 200
        self.csrf = str((await self.get("/api/session"))[1]["csrf"])

    async def get(self, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
        async with self.http.get(self.origin + path, headers=headers) as response:
            return response.status, await response.json()

    async def post(
        self, path: str, body: object, *, csrf: str | None = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        given = {
            "Origin": self.origin,
            "X-Formation-Csrf": self.csrf if csrf is None else csrf,
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        async with self.http.post(
            self.origin + path, data=json.dumps(body), headers=given
        ) as response:
            return response.status, await response.json()


@asynccontextmanager
async def page_site(tmp_path: Path) -> AsyncIterator[Site]:
    """On loopback; whoever may open its socket is an operator."""
    port = free_port()
    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        coordinator(MemoryStore(), tmp_path, http=f"127.0.0.1:{port}") as running,
        aiohttp.ClientSession(timeout=HTTP_S, cookie_jar=jar) as http,
    ):
        made = Site(running, f"http://127.0.0.1:{port}/", http)
        async with grpc.aio.insecure_channel(
            running.address, [("grpc.default_authority", "localhost")]
        ) as channel:
            await made.log_in(channel)
        yield made


async def apply(running: RunningCoordinator) -> None:
    spec = types_pb2.ProcessType(name="web", command="true", initial_quantity=1)
    await running.control.Apply(control_pb2.ApplyRequest(app="shop", types=[spec]))


@asynccontextmanager
async def secure_site(tmp_path: Path) -> AsyncIterator[tuple[Site, Authority]]:
    port, authority = free_port(), Authority()
    async with AsyncExitStack() as stack:
        identity = tmp_path / "identity-c1" / "identity.pem"
        running = await stack.enter_async_context(
            coordinator(
                MemoryStore(), tmp_path, authority=authority, http=f"127.0.0.1:{port}",
                http_cert=str(identity), http_key=str(identity),
            )
        )  # fmt: skip
        jar = aiohttp.CookieJar(unsafe=True)
        connector = aiohttp.TCPConnector(ssl=context_of(tmp_path))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=HTTP_S, cookie_jar=jar, connector=connector)
        )
        yield Site(running, f"https://127.0.0.1:{port}/", http), authority


def context_of(tmp_path: Path, who: str = "", *, newest: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tmp_path / "identity-c1" / "authorities.pem")
    context.check_hostname = False
    if who:
        context.load_cert_chain(tmp_path / who / "identity.pem")
    if newest:
        context.maximum_version = ssl.TLSVersion[newest]
    return context
