"""How an instance's lives ended, as its events told them."""

from __future__ import annotations

import pytest

from formation_coordinator.chronicle import Event
from formation_coordinator.happened import Happening
from formation_coordinator.web.lives import KEPT_MAX, ends


def told(*words: tuple[int, str], host: str = "a") -> list[Event]:
    return [
        Event(n, at_ms, Happening(what=f"instance.{what}", subject="x", host=host, text=what))
        for n, (at_ms, what) in enumerate(words)
    ]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], []),
        ([(10, "starting"), (20, "healthy")], []),
        ([(10, "starting"), (20, "healthy"), (50, "backoff")], [(50, "backoff", 40)]),
        ([(20, "healthy"), (50, "failed")], [(50, "failed", 30)]),
        ([(50, "finished")], [(50, "finished", -1)]),
        # Being stopped, and then stopped, is one end.
        ([(10, "starting"), (50, "restarting"), (60, "backoff")], [(50, "restarting", 40)]),
        ([(10, "starting"), (50, "failed"), (90, "stopped")], [(50, "failed", 40)]),
        ([(10, "starting"), (30, "stopping"), (50, "stopped")], [(50, "stopped", 40)]),
        # A start so short that nobody saw it.
        (
            [(10, "starting"), (20, "backoff"), (30, "backoff")],
            [(30, "backoff", -1), (20, "backoff", 10)],
        ),
    ],
)
def test_each_end_is_told_once_newest_first(
    events: list[tuple[int, str]], expected: list[tuple[int, str, int]]
) -> None:
    assert [(end.at_ms, end.how, end.ran_ms) for end in ends(told(*events))] == expected


def test_a_stay_elsewhere_is_a_life_of_its_own() -> None:
    here, there = told((10, "starting"), (90, "stopped")), told((20, "starting"), host="b")
    [end] = ends(sorted([*here, *there], key=lambda event: event.at_ms))
    assert (end.host, end.ran_ms) == ("a", 80)


def test_only_the_last_ones_are_told() -> None:
    events = told(*((n, what) for n in range(100) for what in ("starting", "backoff")))
    found = ends(events)
    assert len(found) == KEPT_MAX
    assert found[0].at_ms == 99
