"""What Prometheus is told to scrape."""

from __future__ import annotations

from typing import Any

from msgspec import structs
from worlds import app, host, process_type, release, seen, stay, world

from formation.model import InstanceState
from formation_coordinator.targets import target_groups
from formation_coordinator.world import HostEntry, World

RELEASES = (release(process_type("web")),)


def reached(entry: HostEntry, address: str) -> HostEntry:
    assert entry.status is not None
    return structs.replace(entry, status=structs.replace(entry.status, address=address))


def runs(item: Any, port: int, state: InstanceState = InstanceState.HEALTHY) -> Any:
    return seen(item, state, pid=port, port=port)


def shown(found: World, *asked: str) -> list[tuple[str, str, str]]:
    name, kind = (*asked, "", "")[:2]
    return [
        (
            group["labels"]["formation_instance"],
            group["targets"][0],
            group["labels"]["__meta_formation_state"],
        )
        for group in target_groups(found, name, kind)
    ]


def two_hosts() -> World:
    first, second, third = stay("web.1"), stay("web.2"), stay("web.3")
    says = [runs(first, 20001), seen(second, InstanceState.BACKOFF)]
    return world(
        reached(host("a", first, second, says=says), "10.0.0.1"),
        reached(host("b", third, says=[runs(third, 1, InstanceState.UNREADY)]), "2001:db8::2"),
        apps=app({"web": 3}),
        releases=RELEASES,
    )


def test_what_runs_is_told_with_its_state_and_what_does_not_is_left_out() -> None:
    found = two_hosts()
    assert shown(found) == [
        ("web.1", "10.0.0.1:20001", "healthy"),
        ("web.3", "[2001:db8::2]:1", "unready"),
    ]
    assert shown(found, "shop", "web") == shown(found)
    assert shown(found, "shop", "worker") == shown(found, "blog") == []


def test_of_two_stays_in_one_place_the_one_that_stays_is_told() -> None:
    new, old = stay("web.1"), structs.replace(stay("web.1"), uid="old")
    says = [runs(new, 20001), runs(old, 20001, InstanceState.DRAINING)]
    found = world(
        reached(host("a", new, says=says), "10.0.0.1"), apps=app({"web": 1}), releases=RELEASES
    )
    assert shown(found) == [("web.1", "10.0.0.1:20001", "healthy")]


def test_a_host_that_says_no_address_has_no_targets() -> None:
    item = stay("web.1")
    found = world(
        reached(host("a", item, says=[runs(item, 1)]), ""), apps=app({"web": 1}), releases=RELEASES
    )
    assert shown(found) == []
