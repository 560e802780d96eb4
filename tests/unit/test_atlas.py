"""The page's map in numbers: it is what `formctl ps` says, and changes add up to it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs
from worlds import app, host, looping, process_type, release, seen, stay, world

from formation.model import Assignment, Cluster, Host, InstanceState, Slot
from formation.requests import Run, RunState
from formation_coordinator import views
from formation_coordinator.plan import Plan
from formation_coordinator.web import looks
from formation_coordinator.web.atlas import Atlas, Step, unplaced_record
from formation_coordinator.world import World

V1, V2 = (release("web", process_type("worker"), number=number) for number in (1, 2))
Shown = set[tuple[str, str, str, int, int, int]]


class Tab:
    """What a browser does with what it is told."""

    def __init__(self) -> None:
        self.cells: dict[int, list[int]] = {}
        self.kinds: list[list[str]] = []
        self.hosts: dict[int, str] = {looks.NOWHERE: ""}

    def take(self, step: Step) -> None:
        told = step.record()
        self.kinds += told.get("k", [])
        self.hosts.update({number: rest[0] for number, *rest in told.get("h", []) if rest})
        for number in told.get("g", []):
            del self.cells[number]
        full = told.get("c", [])
        for at in range(0, len(full), 6):
            self.cells[full[at]] = full[at + 1 : at + 6]
        changed = told.get("l", [])
        for number, look in zip(changed[::2], changed[1::2], strict=True):
            self.cells[number][3] = look

    def shown(self) -> Shown:
        return {
            (self.hosts[on], *self.kinds[kind], ordinal, look, number)  # type: ignore[misc]
            for on, kind, ordinal, look, number in self.cells.values()
        }


def stepped(atlas: Atlas, given: World, plan: Plan | None = None, **said: Any) -> Step:
    return atlas.step(
        given, plan or Plan(), said=said, now_s=100.0, wall_ms=1_000_000, replace_after_s=5.0
    )


def as_listed(given: World) -> Shown:
    """By the same rooms that `formctl ps` asks."""
    found: Shown = set()
    for entry in given.hosts.values():
        for view in views.host_instances(entry, given):
            status = view.status
            if status.state is InstanceState.STOPPED:
                continue
            look = status.state | (looks.SURPLUS if view.surplus else 0)
            look |= 0 if view.current else looks.STALE
            look |= (looks.SURGE if view.surge else 0) | (looks.RUN if view.run else 0)
            look |= looks.LOOPING if status.crash_looping else 0
            slot = status.slot
            found.add((entry.name, slot.app, slot.type, slot.ordinal, look, status.release))
    return found


def as_pictured(atlas: Atlas) -> Shown:
    """What somebody sees who comes now."""
    head, columns = atlas.head(), atlas.columns()
    names = {number: rest[0] for number, *rest in head["h"]} | {looks.NOWHERE: ""}
    rows = zip(*(memoryview(column).cast("I") for column in columns), strict=True)
    return {
        (names[on], *head["k"][kind], ordinal, look, number)
        for on, kind, ordinal, look, number in rows
        if kind != looks.NO_KIND
    }


def random_world(dice: random.Random) -> World:
    hosts = []
    numbers = iter(dice.sample(range(1, 60), 40))
    for name in dice.sample(["a", "b", "c", "d"], dice.randint(0, 4)):
        stays: list[Assignment] = [
            stay(
                f"{dice.choice(['web', 'worker', 'old'])}.{next(numbers)}",
                stem=dice.choice(["one", "two"]),
                release_number=dice.choice([1, 2]),
                mark=dice.choice([0, 0, 1]),
                surge=dice.random() < 0.2,
                ending=dice.random() < 0.2,
                run=dice.choice(["", "", "r1", "r2"]),
            )
            for _ in range(dice.randint(0, 8))
        ]
        states = list(InstanceState)[1:]
        words = [seen(item, dice.choice(states)) for item in stays if dice.random() < 0.5]
        words += [looping(item) for item in stays if dice.random() < 0.1]
        unasked = stay(f"web.{60 + dice.randint(0, 5)}", stem=name)
        words += [seen(unasked, dice.choice(states))] if dice.random() < 0.5 else []
        entry = host(name, *stays, says=words, silent_since_s=dice.choice([None, None, 90.0]))
        if dice.random() < 0.3 and entry.status:
            heard = [item for item in entry.status.instances if dice.random() < 0.5]
            entry = structs.replace(
                entry, status=structs.replace(entry.status, instances=tuple(heard))
            )
        hosts.append(entry)
    marks: dict[str, Any] = {"web": dice.choice([0, 1]), "web_7": dice.choice([0, 1])}
    given = world(
        *hosts,
        apps=app({"web": dice.choice([0, 3]), "worker": 2}, release=dice.choice([1, 2]), **marks),
        releases=(V1, V2),
    )
    run = Run(id="r1", slot=Slot("shop", "web", 1), release=1, state=dice.choice(list(RunState)))
    held = dice.choice(["", "", "the store went back"])
    return replace(
        given, runs={("shop", "r1"): run}, cluster=Cluster(id="c", schema_version=1, held=held)
    )


@pytest.mark.parametrize("seed", range(60))
def test_however_the_world_turns_the_map_shows_what_ps_does(seed: int) -> None:
    dice, atlas, tab = random.Random(seed), Atlas(), Tab()
    for _ in range(8):
        given = random_world(dice)
        tab.take(stepped(atlas, given))
        assert tab.shown() == as_listed(given) == as_pictured(atlas)
    assert not stepped(atlas, given)


def test_another_state_costs_two_numbers() -> None:
    web = stay("web.1")
    given = world(host("a", web), apps=app({"web": 1}), releases=(V1,))
    atlas = Atlas()
    first = stepped(atlas, given).record()
    assert first["c"] == [0, 0, 0, 1, InstanceState.HEALTHY, 1]
    unwell = world(host("a", web, healthy=False), apps=given.apps["shop"], releases=(V1,))
    assert stepped(atlas, unwell).record() == {"l": [0, InstanceState.BACKOFF]}


def test_an_app_that_changes_is_looked_at_where_it_runs() -> None:
    web = stay("web.1")
    given = world(host("a", web), apps=app({"web": 1}), releases=(V1, V2))
    atlas = Atlas()
    stepped(atlas, given)
    changed = replace(given, apps={"shop": app({"web": 1}, release=2, stable=1)})
    told = stepped(atlas, changed).record()
    assert told["l"] == [0, InstanceState.HEALTHY | looks.STALE]
    assert (told["a"][0]["release"], told["a"][0]["stable"]) == (2, 1)


def test_a_silent_host_is_told_of_with_since_when_and_becomes_lost_without_a_word() -> None:
    given = world(host("a", silent_since_s=98.0), apps=app({"web": 0}), releases=(V1,))
    atlas = Atlas()
    [record] = stepped(atlas, given).hosts
    assert record[1:5] == ["a", 2, 0, 998_000]
    later: dict[str, Any] = {"said": {}, "wall_ms": 1_010_001, "replace_after_s": 5.0}
    [record] = atlas.step(given, Plan(), now_s=110.0, **later).hosts
    assert record[1:5] == ["a", 3, 0, 998_000]


def test_a_host_that_is_forgotten_takes_its_cells_along() -> None:
    web = stay("web.1")
    given = world(host("a", web), apps=app({"web": 1}), releases=(V1,))
    atlas, tab = Atlas(), Tab()
    tab.take(stepped(atlas, given))
    step = stepped(atlas, replace(given, hosts={}))
    tab.take(step)
    assert (step.hosts, tab.cells) == ([[0]], {})
    assert not as_pictured(atlas)


def test_what_has_no_host_is_shown_with_its_reason_and_how_many() -> None:
    given = world(apps=app({"web": 3}), releases=(V1,))
    slots = {Slot("shop", "web", n): "no host has 2 GiB left" for n in (1, 2)}
    plan = Plan(pending=slots, unnamed={("shop", "web"): 5})
    atlas, tab = Atlas(), Tab()
    tab.take(step := stepped(atlas, given, plan))
    assert {item[3] for item in tab.shown()} == {1, 2}
    assert step.said["u"] == [
        ["shop", "web", 5, "like those that are named"],
        ["shop", "web", 2, "no host has 2 GiB left"],
    ]
    tab.take(stepped(atlas, given))
    assert not tab.shown()


def test_of_very_many_reasons_the_rest_is_counted() -> None:
    slots = {Slot("shop", "web", n): f"reason {n} {'x' * 1_000}" for n in range(200)}
    listed = unplaced_record(Plan(pending=slots))
    assert len(listed) == 51
    assert sum(item[2] for item in listed) == 200
    assert max(len(item[3]) for item in listed) <= 400


def test_what_is_said_beside_the_map_is_said_when_it_changes() -> None:
    given = world(apps=app({"web": 0}), releases=(V1,))
    atlas = Atlas()
    assert stepped(atlas, given, w={"held": "x"}).said["w"] == {"held": "x"}
    assert "w" not in stepped(atlas, given, w={"held": "x"}).record()
    assert stepped(atlas, given, w={}).record() == {"w": {}}


def test_a_drain_shows_on_its_host() -> None:
    entry = host("a", word=Host(name="a", draining=True, labels={"zone": "east"}))
    atlas = Atlas()
    [record] = stepped(atlas, world(entry, apps=app({}), releases=(V1,))).hosts
    assert record[3] == looks.CORDONED | looks.DRAINING
    assert record[5] == {"zone": "east"}


def test_names_that_come_and_go_for_ever_wear_it_out() -> None:
    atlas = Atlas()
    for turn in range(12):
        hosts = [host(f"h{turn}-{number}") for number in range(1_000)]
        stepped(atlas, world(*hosts, apps=app({}), releases=(V1,)))
        assert atlas.worn_out == (turn >= 11)


@pytest.mark.parametrize("seed", range(40))
def test_a_few_words_of_an_agent_are_as_good_as_all_of_them(seed: int) -> None:
    """The short way, for what happens most, leads where the long one does."""
    dice, atlas, tab = random.Random(seed), Atlas(), Tab()
    given = random_world(dice)
    tab.take(stepped(atlas, given))
    for _ in range(12):
        hosts = dict(given.hosts)
        for name, entry in given.hosts.items():
            if entry.status is None or not entry.status.instances or dice.random() < 0.3:
                continue
            table = list(entry.status.instances)
            at = dice.randrange(len(table))
            state = dice.choice(list(InstanceState)[1:])
            table[at] = structs.replace(table[at], state=state, crash_looping=dice.random() < 0.2)
            if dice.random() < 0.1:
                table.reverse()
            status = structs.replace(
                entry.status, instances=tuple(table), ahead=dice.random() < 0.1
            )
            hosts[name] = structs.replace(entry, status=status)
        given = replace(given, hosts=hosts)
        tab.take(stepped(atlas, given))
        assert tab.shown() == as_listed(given) == as_pictured(atlas)
