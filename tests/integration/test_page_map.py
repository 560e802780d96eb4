"""The map that the page shows: who gets it, what of it, and until when."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from certified import Authority
from eventually import eventually
from hollow_agent import HollowAgent
from page_site import Site, apply, context_of, page_site, secure_site
from running import coordinator, free_port

from formation.dialling import Dialler
from formation.identity import Role
from formation.model import InstanceState
from formation.v1 import access_pb2, access_pb2_grpc, types_pb2
from formation_coordinator.store.memory import MemoryStore
from formation_coordinator.web.detail import warnings
from formation_coordinator.web.server import SCRIPTS

HTTP_S = aiohttp.ClientTimeout(total=10)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with page_site(tmp_path) as made:
        yield made


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[tuple[Site, Authority]]:
    async with secure_site(tmp_path) as made:
        yield made


MAP = ("/map/whole", "/map/past?at_ms=1", "/map/changes", "/map/instance?app=shop&ordinal=1")


def head_of(body: bytes) -> dict[str, Any]:
    """What comes before the columns of a picture."""
    length = int.from_bytes(body[:4], "little")
    head: dict[str, Any] = json.loads(body[4 : 4 + length])
    assert len(body) >= 4 + length + 4 * head["count"] * len(head["columns"])
    return head


async def whole(site: Site) -> dict[str, Any]:
    async with site.http.get(f"{site.url}map/whole") as response:
        assert response.status == 200
        assert response.headers["Content-Security-Policy"]
        return head_of(await response.read())


async def told(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str, Any]]:
    """Name, id and data of each event."""
    name = number = ""
    async for line in response.content:
        field, _, value = line.decode().rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "id":
            number = value
        elif field == "data":
            yield name, number, json.loads(value)


async def test_every_file_that_the_page_asks_for_is_there(site: Site) -> None:
    for name in SCRIPTS:
        async with site.http.get(f"{site.url}{name}.js") as response:
            assert response.status == 200
            text = await response.text()
        asked = set(re.findall(r'from "/(\w+)\.js"', text))
        assert asked <= set(SCRIPTS), name
        assert len(text.splitlines()) < 500
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ):
            assert forbidden not in text, name


async def test_without_a_login_there_is_no_map(site: Site) -> None:
    site.http.cookie_jar.clear()
    for path in MAP:
        status, answer = await site.get(path)
        assert (status, answer["error"]) == (401, "log in: formctl login --web"), path


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        (Role.OPERATOR, True),
        (Role.DEPLOYER, True),
        (Role.VIEWER, True),
        (Role.AGENT, False),
        (Role.COORDINATOR, False),
    ],
)
async def test_who_may_see_what_runs_may_see_the_map_and_nobody_else(
    secure: tuple[Site, Authority], tmp_path: Path, role: Role, allowed: bool
) -> None:
    site, authority = secure
    authority.issue(tmp_path / "caller", role, "x", ("blog",) if role is Role.DEPLOYER else ())
    context = context_of(tmp_path, "caller")
    for path in MAP:
        async with site.http.get(site.origin + path, ssl=context) as response:
            assert (response.status == 403) != allowed, path


async def test_a_stream_of_the_map_ends_with_who_follows_it(
    secure: tuple[Site, Authority], tmp_path: Path
) -> None:
    site, authority = secure
    authority.issue(tmp_path / "bob", Role.VIEWER, "bob")
    context = context_of(tmp_path, "bob")
    async with site.http.get(f"{site.url}map/whole", ssl=context) as response:
        head = head_of(await response.read())
    after = f"{head['id']}-{head['n']}"
    async with site.http.get(f"{site.url}map/changes?after={after}", ssl=context) as response:
        found = told(response)
        assert (await anext(found))[0] == "beat"
        revoke = access_pb2.RevokeIdentityRequest(role=types_pb2.ROLE_VIEWER, name="bob")
        ann = authority.issue(tmp_path / "person", Role.OPERATOR, "ann")
        async with Dialler(lambda: ann).channel(site.running.address) as channel:
            stub: access_pb2_grpc.AccessAsyncStub = access_pb2_grpc.AccessStub(channel)
            await stub.RevokeIdentity(revoke)
        async with asyncio.timeout(10):
            last = [event async for event in found][-1]
    assert last[0] == "refused"
    assert "were revoked" in last[2]["error"]


@pytest.mark.parametrize(
    "after", ["", "x", "-", "other-1", "-1", "1", "ü-\u0663", "x" * 900, "%ID-99999", "%ID--1"]
)
async def test_from_a_place_that_is_not_known_one_is_sent_to_look_anew(
    site: Site, after: str
) -> None:
    after = after.replace("%ID", (await whole(site))["id"])
    async with site.http.get(f"{site.url}map/changes", params={"after": after}) as response:
        names = [name async for name, _, _ in told(response)]
    assert names == ["beat", "anew"]


async def test_a_picture_and_the_changes_after_it_meet(site: Site) -> None:
    head = await whole(site)
    async with (
        HollowAgent(site.running.address, "a") as agent,
        site.http.get(f"{site.url}map/changes?after={head['id']}-{head['n']}") as response,
    ):
        await apply(site.running)
        await eventually(lambda: agent.running)
        seen: list[int] = []
        hosts: list[str] = []
        async with asyncio.timeout(10):
            async for name, number, data in told(response):
                if name != "change":
                    continue
                seen.append(data["n"])
                assert number == f"{head['id']}-{data['n']}"
                hosts += [record[1] for record in data.get("h", [])]
                if data.get("c"):
                    break
        assert hosts[0] == "a"
        assert seen == list(range(head["n"] + 1, head["n"] + 1 + len(seen)))
    # Whoever comes again says where it was.
    headers = {"Last-Event-ID": f"{head['id']}-{head['n']}"}
    async with site.http.get(f"{site.url}map/changes", headers=headers) as response:
        async for name, _, data in told(response):
            if name == "change":
                assert data["n"] == head["n"] + 1
                break


async def test_the_past_is_there_as_far_as_it_was_seen(site: Site) -> None:
    await whole(site)

    async def past() -> dict[str, Any]:
        async with site.http.get(f"{site.url}map/past?at_ms=0") as response:
            assert response.status == 200
            body = await response.read()
        head = head_of(body)
        length = 4 + int.from_bytes(body[:4], "little")
        rest: dict[str, Any] = json.loads(body[length + 20 * head["count"] :])
        return {**rest, "head": head}

    before = await past()
    assert before["until_ms"] == 0
    assert 0 < before["since_ms"] <= before["head"]["t"]
    await apply(site.running)

    async def has_the_app() -> bool:
        changes = (await past())["changes"]
        return any(app["name"] == "shop" for change in changes for app in change.get("a", []))

    await eventually(has_the_app)


@pytest.mark.parametrize("query", ["", "at_ms=", "at_ms=x", "at_ms=-1", "at_ms=" + "9" * 40])
async def test_a_time_that_is_none_is_refused(site: Site, query: str) -> None:
    status, answer = await site.get(f"/map/past?{query}")
    assert status == 400
    assert "no time in milliseconds" in answer["error"]


async def test_one_instance_is_told_with_how_it_ended(site: Site) -> None:
    await apply(site.running)
    async with HollowAgent(site.running.address, "a") as agent:
        await eventually(lambda: agent.running)
        [uid] = agent.running
        agent.tell(uid, state=InstanceState.BACKOFF, reason="exit 7", last_exit="exit 7")
        path = "/map/instance?host=a&app=shop&type=web&ordinal=1"

        async def ended() -> dict[str, Any] | None:
            status, answer = await site.get(path)
            assert status == 200
            return answer if answer["ends"] else None

        answer = await eventually(ended)
        assert answer["views"][0]["status"]["reason"] == "exit 7"
        assert answer["ends"][0]["how"] == "backoff, exit 7"
        assert answer["ends"][0]["ran_ms"] >= 0
        status, answer = await site.get(path.replace("ordinal=1", "ordinal=x"))
        assert status == 400
        assert (await site.get(path.replace("host=a", "host=zz")))[1]["views"] == []


async def test_what_is_wrong_as_a_whole_is_part_of_the_map(tmp_path: Path) -> None:
    port = free_port()
    async with coordinator(
        MemoryStore(), tmp_path, http=f"127.0.0.1:{port}", insecure=True
    ) as running:
        said = warnings(running.service)
        assert said["insecure"].startswith("INSECURE: whoever reaches")
        await eventually(lambda: warnings(running.service)["leader"] == "c1")
        running.service.lease.remaining_s = lambda: 0.0  # type: ignore[method-assign]
        assert "cannot reach etcd" in warnings(running.service)["outdated"]
        del running.service.lease.remaining_s
