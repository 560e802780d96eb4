"""What a change of the world is told as."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs
from worlds import app, host, process_type, release, seen, stay, world

from formation.model import Cluster, Coordinator, Host, InstanceState, Release
from formation.releasecommand import Candidate
from formation.requests import Run, RunState
from formation.seen import Rollout
from formation_coordinator.chronicle import KEPT_MAX, Chronicle
from formation_coordinator.happened import Happening, happened
from formation_coordinator.world import Change, HostEntry, World

WEB = stay("web.1")
V1: Release = release(process_type("web"))


def entry(**fields: Any) -> HostEntry:
    return structs.replace(host("a", WEB), **fields)


def told(before: HostEntry | None, after: HostEntry | None) -> list[tuple[str, str]]:
    def of(one: HostEntry | None) -> World:
        return World(hosts={"a": one} if one else {})

    change = Change(kind="status", names=("a",), record=None)
    return [(h.what, h.text) for h in happened(of(before), of(after), [change])]


def with_status(base: HostEntry, **fields: Any) -> HostEntry:
    assert base.status is not None
    return structs.replace(base, status=structs.replace(base.status, **fields))


def instance(state: InstanceState, **fields: Any) -> HostEntry:
    return with_status(entry(), instances=(seen(WEB, state, **fields),))


EMPTY = with_status(entry(), instances=())


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (EMPTY, instance(InstanceState.STARTING, attempt=1), [("instance.starting", "starting")]),
        (
            instance(InstanceState.STARTING, attempt=1),
            instance(InstanceState.HEALTHY, attempt=1, port=20001),
            [("instance.healthy", "healthy, port 20001")],
        ),
        (
            instance(InstanceState.HEALTHY, attempt=1),
            instance(InstanceState.BACKOFF, attempt=1, reason="exit 3"),
            [("instance.backoff", "backoff, exit 3")],
        ),
        (
            instance(InstanceState.BACKOFF, attempt=4, reason="exit 3"),
            instance(InstanceState.BACKOFF, attempt=4, reason="exit 3", crash_looping=True),
            [("instance.backoff", "crash loop, exit 3")],
        ),
        (
            instance(InstanceState.BACKOFF, attempt=4),
            instance(InstanceState.STARTING, attempt=5, last_exit="signal KILL"),
            [("instance.starting", "starting, try 5 after signal KILL")],
        ),
        # Only a little later, or its own words: nobody has to hear of it.
        (
            instance(InstanceState.HEALTHY, attempt=1, told="x"),
            instance(InstanceState.HEALTHY, attempt=1, told="y"),
            [],
        ),
        (instance(InstanceState.HEALTHY), EMPTY, [("instance.stopped", "stopped")]),
        (instance(InstanceState.STOPPED), EMPTY, []),
    ],
)
def test_an_instance(before: HostEntry, after: HostEntry, what: list[tuple[str, str]]) -> None:
    assert told(before, after) == what


SILENT = structs.replace(EMPTY, session=None)


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (None, EMPTY, ["host.joined", "host.connected"]),
        (EMPTY, SILENT, ["host.silent"]),
        (SILENT, EMPTY, ["host.connected"]),
        (
            EMPTY,
            structs.replace(with_status(EMPTY, departed=True), session=None),
            ["host.departed"],
        ),
        (EMPTY, structs.replace(EMPTY, host=Host(name="a", cordoned=True)), ["host.cordoned"]),
        (structs.replace(EMPTY, host=Host(name="a", cordoned=True)), EMPTY, ["host.uncordoned"]),
        (EMPTY, structs.replace(EMPTY, host=Host(name="a", draining=True)), ["host.draining"]),
        (structs.replace(EMPTY, host=Host(name="a", draining=True)), EMPTY, ["host.undrained"]),
        (EMPTY, with_status(EMPTY, complaint="disk full"), ["host.complains"]),
        (with_status(EMPTY, complaint="disk full"), EMPTY, []),
        (EMPTY, None, ["host.forgotten"]),
    ],
)
def test_a_host(before: HostEntry | None, after: HostEntry | None, what: list[str]) -> None:
    assert [word for word, _ in told(before, after)] == what


SHOP = app({"web": 1})


@pytest.mark.parametrize(
    ("before", "after", "what", "text"),
    [
        ([], [SHOP], "app.created", "v1"),
        ([SHOP], [], "app.deleted", "deleted"),
        ([SHOP], [replace(SHOP, formation={"web": 5})], "app.scaled", "web: 1 -> 5"),
        ([SHOP], [replace(SHOP, release=2)], "app.released", "v1 -> v2"),
        (
            [replace(SHOP, release=2)],
            [replace(SHOP, release=2, stable_release=2)],
            "app.arrived",
            "v2 runs everywhere",
        ),
        (
            [replace(SHOP, release=2)],
            [replace(SHOP, rollout=Rollout(undone_release=2, reason="web.1 keeps crashing"))],
            "app.undone",
            "v2 was taken back: web.1 keeps crashing",
        ),
        ([SHOP], [replace(SHOP, rollout=Rollout(paused=True))], "app.paused", "its change waits"),
        ([replace(SHOP, rollout=Rollout(paused=True))], [SHOP], "app.resumed", "it goes on"),
    ],
)
def test_an_app(before: list[Any], after: list[Any], what: str, text: str) -> None:
    old, new = (World(apps={item.name: item for item in apps}) for apps in (before, after))
    found = list(happened(old, new, ()))
    assert found == [Happening(what=what, subject="shop", app="shop", text=text)]


def test_the_cluster_and_runs() -> None:
    leads = Coordinator(id="c1", address="x")
    before = World(cluster=Cluster(id="c", schema_version=1))
    after = World(
        cluster=Cluster(id="c", schema_version=1, held="etcd went back"),
        leader=leads,
        coordinators={"c1": leads},
    )
    assert [h.what for h in happened(before, after, ())] == [
        "cluster.leader", "cluster.coordinator_came", "cluster.held",
    ]  # fmt: skip
    assert [h.what for h in happened(after, before, ())] == [
        "cluster.coordinator_went", "cluster.resumed",
    ]  # fmt: skip
    run = Run(id="r1", slot=WEB.slot, release=1, state=RunState.FAILED, last_exit="exit 2")
    found = list(happened(World(), World(runs={("shop", "r1"): run}), ()))
    assert [(h.what, h.text) for h in found] == [("run.failed", "r1: exit 2")]


# -- kept, and followed ----------------------------------------------------------------------------


class Live:
    """What of `LiveWorld` a chronicle needs."""

    def __init__(self) -> None:
        self.listeners: list[Callable[..., None]] = []
        self.world = World(cluster=Cluster(id="c", schema_version=1))

    def scale(self, quantity: int) -> None:
        self.become(replace(self.world, apps={"shop": app({"web": quantity})}))

    def become(self, after: World) -> None:
        before, self.world = self.world, after
        for listener in self.listeners:
            listener(before, after, ())


async def read(chronicle: Chronicle, *, tail: int) -> list[str]:
    async for events, _ in chronicle.read(lambda _: True, tail=tail, follow=False):
        return [event.happening.text for event in events]
    return []


async def test_the_last_are_kept_and_what_was_there_at_the_start_is_no_news() -> None:
    live = Live()
    live.world = World()
    chronicle = Chronicle(live, lambda: 7)  # type: ignore[arg-type]
    live.become(World(cluster=Cluster(id="c", schema_version=1), apps={"shop": SHOP}))
    assert await read(chronicle, tail=10) == []
    for quantity in range(2, 6):
        live.scale(quantity)
    assert await read(chronicle, tail=2) == ["web: 3 -> 4", "web: 4 -> 5"]
    assert await read(chronicle, tail=0) == []


async def test_who_follows_misses_nothing_and_who_is_slow_is_told_what_it_missed() -> None:
    live = Live()
    chronicle = Chronicle(live, lambda: 7)  # type: ignore[arg-type]
    live.scale(1)
    reading = chronicle.read(lambda _: True, tail=0, follow=True)
    assert await anext(aiter(reading)) == ([], 0)
    live.scale(2)
    events, missed = await anext(aiter(reading))
    assert ([event.happening.text for event in events], missed) == (["web: 1 -> 2"], 0)
    for quantity in range(3, KEPT_MAX + 13):
        live.scale(quantity)
    numbers: list[int] = []
    gone = 0
    async with asyncio.timeout(10):
        while not numbers or numbers[-1] < KEPT_MAX + 12:
            events, missed = await anext(aiter(reading))
            gone += missed
            numbers += [event.number for event in events]
    assert gone == 10
    assert numbers == list(range(13, KEPT_MAX + 13))
    await reading.aclose()  # type: ignore[attr-defined]


def test_an_unchanged_world_is_silent() -> None:
    same = world(entry(), apps=SHOP, releases=(V1,))
    changes = [Change(kind="status", names=("a",), record=None)]
    assert list(happened(same, replace(same), changes)) == []


async def test_a_change_that_cannot_be_told_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    live = Live()
    chronicle = Chronicle(live, lambda: 7)  # type: ignore[arg-type]
    monkeypatch.setattr("formation_coordinator.chronicle.happened", broken)
    live.scale(2)
    assert "a bug: a change cannot be told" in caplog.text
    monkeypatch.undo()
    live.scale(3)
    assert await read(chronicle, tail=5) == ["web: 2 -> 3"]


def of_apps(before: Any, after: Any) -> list[tuple[str, str]]:
    given = [World(apps={"shop": one} if one else {}) for one in (before, after)]
    return [(h.what, h.text) for h in happened(given[0], given[1], [])]


def test_a_candidate_is_told_when_it_comes_and_when_it_goes() -> None:
    plain = app({})
    waits = replace(plain, candidate=Candidate(release=2), latest_release=2)
    undone = Rollout(undone_release=2, reason="release.2 failed on a: exit 1")
    came = ("app.candidate", "v2 waits for its release command, release.2")
    assert of_apps(plain, waits) == [came]
    assert of_apps(waits, replace(plain, rollout=undone)) == [
        ("app.undone", "v2 was taken back: release.2 failed on a: exit 1")
    ]
    assert of_apps(waits, replace(plain, release=2)) == [("app.released", "v1 -> v2")]
    newer = replace(waits, candidate=Candidate(release=3))
    assert [what for what, _ in of_apps(waits, newer)] == ["app.candidate"]


def test_a_first_release_is_told_from_its_candidate_on() -> None:
    waits = replace(app({}, release=0), candidate=Candidate(release=1), latest_release=1)
    assert [what for what, _ in of_apps(None, waits)] == ["app.created", "app.candidate"]
    assert of_apps(waits, app({}, stable=0)) == [("app.released", "v1")]
