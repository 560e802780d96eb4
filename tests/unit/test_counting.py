"""Counts of one world after the other, against counting everything anew."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st
from worlds import app, host, release, seen, stay, world

from formation.seen import InstanceState, InstanceStatus
from formation_coordinator.counting import HealthyCounts
from formation_coordinator.world import HostEntry, World, is_healthy

APPS = ("shop", "blog")


def anew(given_world: World, name: str) -> int:
    return sum(
        is_healthy(entry, entry.observed().get(item.uid))
        for entry in given_world.hosts.values()
        for item in entry.assigned
        if item.slot.app == name and not item.run and not item.surge
    )


@st.composite
def entries(draw: st.DrawFn, name: str) -> HostEntry:
    stays, says = [], []
    for number in range(1, draw(st.integers(0, 4)) + 1):
        item = stay(
            f"web.{number}",
            stem=name,
            app_name=draw(st.sampled_from(APPS)),
            surge=draw(st.booleans()),
            run=draw(st.sampled_from(["", "r1"])),
        )
        stays.append(item)
        says.append(seen(item, draw(st.sampled_from(InstanceState))))
    return host(name, *stays, says=says, silent_since_s=draw(st.sampled_from([None, 5.0])))


def of(*hosts: HostEntry) -> World:
    apps = tuple(app({"web": 3}, name=name) for name in APPS)
    return world(*hosts, apps=apps, releases=tuple(release("web", name=name) for name in APPS))


@given(st.data())
def test_whatever_changes_it_is_as_if_counted_anew(data: st.DataObject) -> None:
    counts, hosts = HealthyCounts(), dict[str, HostEntry]()
    for _step in range(6):
        for name in "abc":
            what = data.draw(st.sampled_from(["stays", "changes", "goes"]))
            if what == "changes":
                hosts[name] = data.draw(entries(name))
            elif what == "goes":
                hosts.pop(name, None)
        now = of(*hosts.values())
        for _ in islice(counts.catch_up(now), data.draw(st.integers(0, 3))):
            pass  # not always to its end: then the question does the rest
        for name in APPS:
            assert counts.of_app(now, name) == anew(now, name)
        for name in "abc":
            entry = hosts.get(name)
            seen_there = entry.observed() if entry else {}
            assert counts.of_host(now, name) == (
                sum(is_healthy(entry, seen_there.get(i.uid)) for i in entry.assigned)
                if entry
                else 0
            )


def test_what_has_not_changed_is_not_looked_at_again() -> None:
    items = [stay(f"web.{n}", stem=name) for name in "ab" for n in (1, 2)]
    first, other = host("a", *items[:2]), host("b", *items[2:])
    counts = HealthyCounts()
    assert counts.of_app(of(first, other), "shop") == 4
    looked: list[str] = []

    class Watched(HostEntry, frozen=True):
        def observed(self, app: str = "") -> dict[str, InstanceStatus]:
            looked.append(self.name)
            return super().observed(app)

    def watched(entry: HostEntry, **fields: object) -> HostEntry:
        values = {name: getattr(entry, name) for name in HostEntry.__struct_fields__}
        return Watched(**{**values, **fields})

    first, other = watched(first), watched(other)
    assert counts.of_app(of(first, other), "shop") == 4
    assert looked == []  # the same, of another pass
    other = watched(other, session=None)
    assert counts.of_app(of(first, other), "shop") == 2
    assert counts.of_host(of(first, other), "a") == 2
    assert looked == ["b"]


def test_an_app_of_which_nothing_runs_has_none() -> None:
    empty = replace(of(), hosts={})
    assert HealthyCounts().of_app(empty, "nobody") == 0
