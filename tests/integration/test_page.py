"""The page's server: who is answered, over real HTTP and TLS. What a browser makes of it is in
test_browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from certified import Authority
from eventually import eventually
from hollow_agent import HollowAgent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from page_site import Site, apply, context_of, page_site, secure_site
from running import coordinator

from formation.dialling import Dialler
from formation.identity import Role
from formation.v1 import access_pb2, access_pb2_grpc, control_pb2, types_pb2
from formation_coordinator.store.memory import MemoryStore
from formation_coordinator.web.calls import CHANGING, FOLLOWING, READING

HTTP_S = aiohttp.ClientTimeout(total=10)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with page_site(tmp_path) as made:
        yield made


# -- who is answered -------------------------------------------------------------------------------


async def test_without_a_login_there_are_files_and_nothing_else(site: Site) -> None:
    site.http.cookie_jar.clear()
    for name in ("", "app.js", "style.css", "icon.svg"):
        async with site.http.get(site.url + name) as response:
            assert response.status == 200
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert (await site.get("/api/session"))[0] == 401
    for name in READING | CHANGING:
        status, answer = await site.post(f"/api/{name}", {})
        assert (status, answer["error"]) == (401, "log in: formctl login --web")
    for name in FOLLOWING:
        assert (await site.get(f"/events/{name}"))[0] == 401


async def test_the_cookie_is_for_browsers_alone_and_for_our_own_pages(site: Site) -> None:
    cookies = {cookie.key: cookie for cookie in site.http.cookie_jar}
    found = cookies["formation"]
    assert found["httponly"]
    assert found["samesite"] == "Strict"
    assert found["path"] == "/"


async def test_every_change_needs_our_origin_and_the_token_of_the_login(site: Site) -> None:
    await apply(site.running)
    body = {"app": "shop", "changes": [{"type": "web", "kind": "KIND_SET", "quantity": 2}]}
    bad: tuple[dict[str, Any], ...] = (
        {"csrf": ""},
        {"csrf": "guess"},
        {"Origin": "http://evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Host": "evil.example"},
        {"Content_Type": "text/plain"},
    )
    for headers in bad:
        status, answer = await site.post("/api/Scale", body, **headers)
        assert status == 403, (headers, answer)
    assert (await site.post("/api/Scale", body))[0] == 200
    names = {*CHANGING, "Scale"}
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        for name in names:
            async with site.http.request(
                method, f"{site.url}api/{name}", headers={"Origin": "http://evil.example"}
            ) as response:
                assert response.status in (403, 405), (method, name)


@pytest.mark.parametrize(
    "name",
    ["Apply", "SetConfig", "SetSecrets", "GetConfig", "StartRun", "DeleteApp", "Backup", "Restore",
     "_ready", "__class__", "Logs", "WatchInstances", "ask", "..%2Flogin", "%00"],
)  # fmt: skip
async def test_what_runs_commands_or_tells_values_cannot_be_asked_for(
    site: Site, name: str
) -> None:
    status, answer = await site.post(f"/api/{name}", {})
    assert status == 404
    assert "error" in answer
    if name not in FOLLOWING:
        assert (await site.get(f"/events/{name}"))[0] == 404


async def test_what_is_asked_is_answered_as_over_grpc(site: Site) -> None:
    await apply(site.running)
    status, answer = await site.post("/api/ListApps", {})
    assert status == 200
    assert answer["apps"][0]["app"]["name"] == "shop"
    status, answer = await site.post("/api/Scale", {"app": "blog"})
    assert (status, answer["error"]) == (404, "no app 'blog'; there is shop")
    status, answer = await site.post("/api/Scale", {"app": "shop", "nonsense": 1})
    assert status == 400
    assert "nonsense" in answer["error"]
    assert (await site.get("/nowhere"))[0] == 404


async def test_after_logging_out_the_cookie_is_worth_nothing(site: Site) -> None:
    kept = {cookie.key: cookie.value for cookie in site.http.cookie_jar}
    assert (await site.post("/logout", {}))[0] == 200
    site.http.cookie_jar.update_cookies(kept)
    assert (await site.post("/api/ListApps", {}))[0] == 401


async def test_a_login_is_good_once_and_needs_an_origin(site: Site, tmp_path: Path) -> None:
    channel = grpc.aio.insecure_channel(
        site.running.address, [("grpc.default_authority", "localhost")]
    )
    async with channel:
        stub: access_pb2_grpc.AccessAsyncStub = access_pb2_grpc.AccessStub(channel)
        ticket = (await stub.CreateWebLogin(access_pb2.CreateWebLoginRequest())).ticket
    async with site.http.post(f"{site.url}login", json={"ticket": ticket}) as response:
        assert response.status == 403
    assert (await site.post("/login", {"ticket": ticket}))[0] == 200
    assert (await site.post("/login", {"ticket": ticket}))[0] == 401
    assert (await site.post("/login", {"ticket": 7}))[0] == 401
    assert (await site.post("/login", [ticket]))[0] == 400


# -- events ----------------------------------------------------------------------------------------


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in response.content:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


async def test_what_runs_is_followed(site: Site) -> None:
    async with site.http.get(f"{site.url}events/WatchInstances") as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        found = events(response)
        assert (await anext(found))["complete"]
        await apply(site.running)
        async with asyncio.timeout(10):
            while "shop" not in str(await anext(found)):
                pass


async def test_a_hostile_line_is_one_event(site: Site) -> None:
    await apply(site.running)
    async with HollowAgent(site.running.address, "a") as agent:
        await eventually(lambda: agent.running)
        for uid in agent.running:
            agent.tell(uid, reason="x\n\ndata: {}\n\nevent: refused")
        async with site.http.get(f"{site.url}events/WatchInstances") as response:
            async with asyncio.timeout(10):
                async for event in events(response):
                    said = [item["status"].get("reason", "") for item in event.get("changed", [])]
                    if any("event: refused" in reason for reason in said):
                        return


# -- TLS, certificates, roles ----------------------------------------------------------------------


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[tuple[Site, Authority]]:
    async with secure_site(tmp_path) as made:
        yield made


async def test_over_tls_the_cookie_goes_over_tls_only_and_nothing_older_is_spoken(
    secure: tuple[Site, Authority], tmp_path: Path
) -> None:
    site, authority = secure
    ann = authority.issue(tmp_path / "person", Role.OPERATOR, "ann")
    async with Dialler(lambda: ann).channel(site.running.address) as channel:
        await site.log_in(channel)
    cookies = {cookie.key: cookie for cookie in site.http.cookie_jar}
    assert cookies["__Host-formation"]["secure"]
    session = (await site.get("/api/session"))[1]
    assert (session["role"], session["name"]) == ("operator", "ann")
    with pytest.raises(aiohttp.ClientConnectorError):
        await site.http.get(site.url, ssl=context_of(tmp_path, newest="TLSv1_2"))


@pytest.mark.parametrize(
    ("role", "apps", "allowed"),
    [
        (Role.OPERATOR, (), ("ListApps", "Scale", "SetHost")),
        (Role.DEPLOYER, ("shop",), ("ListApps", "Scale")),
        (Role.DEPLOYER, ("blog",), ("ListApps",)),
        (Role.VIEWER, (), ("ListApps",)),
        (Role.AGENT, (), ()),
        (Role.COORDINATOR, (), ()),
    ],
)
async def test_a_client_certificate_may_what_the_table_says(
    secure: tuple[Site, Authority],
    tmp_path: Path,
    role: Role,
    apps: tuple[str, ...],
    allowed: tuple[str, ...],
) -> None:
    site, authority = secure
    await apply(site.running)
    authority.issue(tmp_path / "caller", role, "x", apps)
    bodies: dict[str, dict[str, Any]] = {
        "ListApps": {},
        "Scale": {"app": "shop", "changes": [{"type": "web", "kind": "KIND_SET", "quantity": 2}]},
        "SetHost": {"host": "a", "who": "somebody else"},
    }
    for name, body in bodies.items():
        async with site.http.post(
            f"{site.url}api/{name}", json=body, ssl=context_of(tmp_path, "caller")
        ) as response:
            assert (response.status != 403) == (name in allowed), (name, await response.text())
    if "Scale" in allowed:
        history = await site.running.control.ListAudit(control_pb2.ListAuditRequest())
        assert history.records[0].who == "x"


async def test_who_is_revoked_is_out_with_cookie_and_certificate_and_streams_end(
    secure: tuple[Site, Authority], tmp_path: Path
) -> None:
    site, authority = secure
    bob = authority.issue(tmp_path / "bob", Role.VIEWER, "bob")
    async with Dialler(lambda: bob).channel(site.running.address) as channel:
        await site.log_in(channel)
    async with site.http.get(f"{site.url}events/WatchInstances") as response:
        found = events(response)
        await anext(found)
        revoke = access_pb2.RevokeIdentityRequest(role=types_pb2.ROLE_VIEWER, name="bob")
        ann = authority.issue(tmp_path / "person", Role.OPERATOR, "ann")
        async with Dialler(lambda: ann).channel(site.running.address) as channel:
            stub: access_pb2_grpc.AccessAsyncStub = access_pb2_grpc.AccessStub(channel)
            await stub.RevokeIdentity(revoke)
        async with asyncio.timeout(10):
            last = [event async for event in found][-1]
        assert "were revoked" in last["error"]
    status, answer = await site.post("/api/ListApps", {})
    assert status == 401
    assert "were revoked" in answer["error"]
    async with site.http.post(
        f"{site.url}api/ListApps", json={}, ssl=context_of(tmp_path, "bob")
    ) as response:
        assert response.status == 401


async def test_a_strangers_certificate_is_no_handshake(
    secure: tuple[Site, Authority], tmp_path: Path
) -> None:
    site, _ = secure
    Authority().issue(tmp_path / "stranger", Role.OPERATOR, "ann")
    with pytest.raises(aiohttp.ClientError):
        await site.http.post(
            f"{site.url}api/ListApps", json={}, ssl=context_of(tmp_path, "stranger")
        )


# -- rubbish and patience --------------------------------------------------------------------------


async def raw(site: Site, data: bytes) -> bytes:
    """What comes back until the connection ends, or nothing more comes."""
    host, _, port = site.origin.rpartition("/")[2].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(max_size=300), st.sampled_from([b"GET ", b"POST /api/Scale HTTP/1.1\r\nHost: ", b""])
)
async def test_whatever_bytes_come_there_is_no_traceback_and_it_serves_on(
    site: Site, caplog: pytest.LogCaptureFixture, data: bytes, start: bytes
) -> None:
    answer = await raw(site, start + data + b"\r\n\r\n")
    assert answer[:5] in (b"", b"HTTP/")
    assert b"Traceback" not in answer
    assert not [record for record in caplog.records if record.exc_info]
    assert (await site.get("/api/session"))[0] == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(["app", "type", "ordinal", "changes", "host", "labels", "who", "why"])


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(sorted(READING | CHANGING)), JSON | st.dictionaries(FIELDS, JSON, max_size=3)
)
async def test_whatever_is_asked_is_answered_in_words(
    site: Site, caplog: pytest.LogCaptureFixture, name: str, body: object
) -> None:
    status, answer = await site.post(f"/api/{name}", body)
    assert status in (200, 400, 404, 409, 412, 429)
    assert status == 200 or answer["error"]
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_body_that_is_too_long_or_nested_is_refused(site: Site) -> None:
    assert (await site.post("/api/Scale", {"app": "x" * 70_000}))[0] == 413
    deep = "[" * 20_000
    headers = {
        "Origin": site.origin,
        "X-Formation-Csrf": site.csrf,
        "Content-Type": "application/json",
    }
    async with site.http.post(f"{site.url}api/Scale", data=deep, headers=headers) as response:
        assert response.status == 400


async def test_who_says_nothing_is_closed_and_others_are_served(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formation_coordinator.web.server.IDLE_S", 0.5)
    monkeypatch.setattr("formation_coordinator.web.server.LOOKS_EVERY_S", 0.2)
    host, _, port = site.origin.rpartition("/")[2].rpartition(":")
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
    for number, (_, writer) in enumerate(silent):
        writer.write(b"GET / HTTP/1.1\r\nHost: "[: number % 20])
    # The loop that closes them has just begun to wait by its usual time.
    async with asyncio.timeout(12):
        for reader, writer in silent:
            assert not (await reader.read(65536)).startswith(b"HTTP/1.1 200")
            writer.close()
    assert (await site.get("/api/session"))[0] == 200


async def test_a_cluster_without_certificates_says_so_wherever_one_looks(tmp_path: Path) -> None:
    async with coordinator(MemoryStore(), tmp_path, insecure=True) as running:
        answer = await running.control.ListHosts(control_pb2.ListHostsRequest())
    assert answer.warning.startswith(f"INSECURE: whoever reaches {running.address} can run")
    async with coordinator(MemoryStore(), tmp_path, "c2") as running:
        assert not (await running.control.ListHosts(control_pb2.ListHostsRequest())).warning
