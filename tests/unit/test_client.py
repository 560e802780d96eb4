"""`formation.client` against a coordinator that obeys at once, hesitates, refuses, or goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fake_control import FakeControl

from formation.client import Cluster, FormationError, InputError, UnreachableError, connect
from formation.v1 import agent_pb2, control_pb2, types_pb2

NOWHERE: dict[str, str] = {"XDG_CONFIG_HOME": "/nonexistent", "XDG_RUNTIME_DIR": "/nonexistent"}


@pytest.fixture
async def fake() -> FakeControl:
    return FakeControl()


@pytest.fixture
async def cluster(fake: FakeControl) -> AsyncIterator[Cluster]:
    async with (
        fake.serving() as address,
        connect(address, insecure=True, environ=NOWHERE) as connected,
    ):
        types = [types_pb2.ProcessType(name=name, command="true") for name in ("web", "worker")]
        await connected._connection.stub.Apply(
            control_pb2.ApplyRequest(app="shop", types=types, formation={"web": 2, "worker": 1})
        )
        yield connected


async def test_what_there_is(cluster: Cluster) -> None:
    (app,) = await cluster.apps()
    assert (app.name, app.release, app.formation) == ("shop", 1, {"web": 2, "worker": 1})
    assert (app.wanted, app.healthy) == (3, 3)
    assert [host.name for host in await cluster.hosts()] == ["a", "b"]
    instances = sorted(await cluster.instances("shop"), key=lambda item: item.name)
    assert [item.name for item in instances] == ["web.1", "web.2", "worker.1"]
    assert all(item.is_good and item.state == "healthy" for item in instances)
    (release,) = await cluster.releases("shop")
    assert (release.number, release.types) == (1, ("web", "worker"))


async def test_an_app_that_there_is_not_is_told_with_those_there_are(cluster: Cluster) -> None:
    with pytest.raises(InputError, match="no app blog: there is shop"):
        await cluster.app("blog")


async def test_scaling_sets_adds_and_takes_away(cluster: Cluster) -> None:
    assert await cluster.scale("shop", {"web": 5, "worker": "+2"}) == {"web": 5, "worker": 3}
    assert await cluster.scale("shop", {"web": "-1", "worker": "0"}) == {"web": 4, "worker": 0}
    await cluster.until_settled("shop", timeout_s=5)
    names = {item.name for item in await cluster.instances("shop")}
    assert names == {"web.1", "web.2", "web.3", "web.4"}


@pytest.mark.parametrize("wrong", [{"web": -1}, {"web": "many"}, {"we b": 1}, {"web": 1.5}])
async def test_what_is_no_quantity_changes_nothing(
    cluster: Cluster, fake: FakeControl, wrong: dict[str, int | str]
) -> None:
    asked = len(fake.requests)
    with pytest.raises(InputError):
        await cluster.scale("shop", wrong)
    assert len(fake.requests) == asked


async def test_a_restart_says_what_it_replaces(cluster: Cluster) -> None:
    assert await cluster.restart("shop", "web") == ("web.1", "web.2")
    assert await cluster.restart("shop", "web.2") == ("web.2",)
    assert await cluster.restart("shop") == ("web.1", "web.2", "worker.1")


async def test_settling_waits_for_what_is_held_back(cluster: Cluster, fake: FakeControl) -> None:
    fake.hold = True
    await cluster.scale("shop", {"web": 4})
    with pytest.raises(TimeoutError, match=r"shop: web\.\d is \w+, web\.\d is \w+ \(after 0.2 s\)"):
        await cluster.until_settled("shop", timeout_s=0.2)
    waiting = asyncio.create_task(cluster.until_settled("shop", timeout_s=10))
    fake.release_held()
    await waiting


async def test_watching_tells_everything_and_then_what_changes(
    cluster: Cluster, fake: FakeControl
) -> None:
    changes = cluster.watch("shop")
    first = await anext(changes)
    assert len(first.instances) == len(first.changed) == 3
    scaled = asyncio.create_task(cluster.scale("shop", {"worker": 0}))
    async for change in changes:
        if change.gone:
            break
    assert [item.name for item in change.gone] == ["worker.1"]
    assert {item.type for item in change.instances.values()} == {"web"}
    await scaled
    await changes.aclose()


async def test_lines_are_bytes_as_they_were_written(cluster: Cluster, fake: FakeControl) -> None:
    fake.history = [
        agent_pb2.LogLine(
            app="shop", type="web", ordinal=1, host="a", at_us=2_500_000, text=b"\xff"
        )
    ]
    (line,) = [line async for line in cluster.logs("shop", "web.1")]
    assert (line.text, line.at, line.host) == (b"\xff", 2.5, "a")
    for text in ("web.x", "web.0", "web."):  # the last two are not all of web
        with pytest.raises(InputError, match="neither a type"):
            await anext(cluster.logs("shop", text))


async def test_a_coordinator_that_is_not_ready_says_so(cluster: Cluster, fake: FakeControl) -> None:
    fake.refusals = ["coordinator one is not ready: no etcd"]
    with pytest.raises(UnreachableError, match="is not ready: no etcd"):
        await cluster.scale("shop", {"web": 1})


async def test_nobody_there_is_one_line() -> None:
    with pytest.raises(UnreachableError, match=r"no coordinator answers at 127\.0\.0\.1:9"):
        async with connect("127.0.0.1:9", insecure=True, environ=NOWHERE):
            pass


async def test_without_a_certificate_tcp_is_refused() -> None:
    with pytest.raises(FormationError, match="nothing here proves who is who"):
        async with connect("127.0.0.1:9", environ=NOWHERE):
            pass


def test_not_knowing_any_coordinator_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # no `formctl dev` of who runs this
    with pytest.raises(InputError, match="no coordinator is known; do one of"):
        connect(environ=NOWHERE)
