"""Beside which instance a command runs, or why beside none."""

from __future__ import annotations

import pytest
from worlds import app, host, release, seen, stay, world

from formation.model import InstanceState as State
from formation.model import Slot
from formation_coordinator.execchoice import Chosen, NoPlace, choose
from formation_coordinator.world import World

WEB_1, WEB_2, WEB_3 = stay("web.1"), stay("web.2"), stay("web.3")


def shop(*hosts: object, web: int = 3) -> World:
    return world(
        *hosts,  # type: ignore[arg-type]
        apps=app({"web": web, "idle": 0}),
        releases=(release("web", "idle"),),
    )


def why(found: Chosen | NoPlace) -> tuple[str, bool]:
    assert isinstance(found, NoPlace)
    return found.reason, found.unknown


def test_the_one_that_is_named_on_its_host() -> None:
    given = shop(host("a", WEB_1), host("b", WEB_2))
    found = choose(given, "shop", "web", 2)
    assert found == Chosen(slot=Slot("shop", "web", 2), uid="web.2-old", host="b")


def test_a_type_alone_is_the_first_healthy_one_that_can_be_heard() -> None:
    given = shop(
        host("a", WEB_1, silent_since_s=1.0),
        host("b", WEB_2, says=[seen(WEB_2, State.UNREADY, pid=7)]),
        host("c", WEB_3),
    )
    found = choose(given, "shop", "web", 0)
    assert isinstance(found, Chosen)
    assert found.uid == "web.3-old"


def test_one_that_stays_goes_before_one_on_its_way_out() -> None:
    new = stay("web.1", stem="new")
    given = shop(host("a", says=[seen(WEB_1, State.HEALTHY)]), host("b", new))
    for ordinal in (0, 1):
        found = choose(given, "shop", "web", ordinal)
        assert isinstance(found, Chosen)
        assert found.uid == "web.1-new"


@pytest.mark.parametrize(
    ("state", "pid", "runs"),
    [
        (State.HEALTHY, 0, True),
        (State.UNREADY, 7, True),
        (State.STARTING, 7, True),
        (State.STARTING, 0, False),
        (State.BACKOFF, 0, False),
        (State.RESTARTING, 7, False),
        (State.STOPPING, 7, False),
        (State.FINISHED, 0, False),
        (State.FAILED, 0, False),
        (State.WAITING, 0, False),
    ],
)
def test_a_process_must_be_there_and_stay(state: State, pid: int, runs: bool) -> None:
    given = shop(host("a", WEB_1, says=[seen(WEB_1, state, pid=pid, last_exit="exit 3")]))
    found = choose(given, "shop", "web", 1)
    assert isinstance(found, Chosen) == runs
    if not runs:
        assert why(found) == (f"web.1 does not run now, it is {state.name.lower()}: exit 3", False)


def test_every_no_says_what_is_wrong_and_whether_there_is_such_a_thing() -> None:
    given = shop(host("a", WEB_1, silent_since_s=1.0))
    asked = {
        ("blog", "web", 1): ("no app 'blog'; known apps: shop", True),
        ("shop", "mail", 1): ("app shop has no type 'mail'; it has web, idle", True),
        ("shop", "web", 9): ("there is no web.9: see formctl ps", True),
        ("shop", "web", 1): ("web.1 was last seen on host a, which is silent", False),
        ("shop", "web", 0): ("no instance of web is healthy: see formctl ps", False),
        ("shop", "idle", 0): ("no instance of idle is healthy: see formctl ps", False),
    }
    for (name, type_name, ordinal), answer in asked.items():
        assert why(choose(given, name, type_name, ordinal)) == answer
