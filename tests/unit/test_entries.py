"""What the journal is told of a stay: what is true now, also when it was asked before."""

from __future__ import annotations

import pytest
from msgspec import structs

from formation.model import Assignment, ProcessType, Release, Slot
from formation_agent.entries import Entry, needed
from formation_agent.machine import Phase, Stay

WEB = Assignment(uid="u1", slot=Slot("shop", "web", 1), release=3)


def stay(attempt: int) -> Stay:
    spec = ProcessType(name="web", command="./web")
    return Stay(assignment=WEB, spec=spec, attempt=attempt)


def test_tries_follow_the_stay_and_its_process() -> None:
    entry = Entry(stay=stay(attempt=1))
    first = entry.tries(WEB)
    assert entry.tries(WEB) is first
    entry.stay, entry.start_ticks = structs.replace(entry.stay, attempt=2, pid=7), 70
    second = entry.tries(WEB)
    assert (second.attempt, second.pid, second.start_ticks) == (2, 7, 70)
    entry.start_ticks = 71
    assert entry.tries(WEB).start_ticks == 71


def test_a_retry_that_is_asked_for_is_told_at_once() -> None:
    entry = Entry(stay=structs.replace(stay(attempt=1), phase=Phase.FAILED, after=Phase.FAILED))
    assert entry.tries(WEB).over
    assert not entry.tries(structs.replace(WEB, retry_mark=1)).over
    assert entry.tries(WEB).over


@pytest.mark.parametrize(("kept", "names"), [((WEB,), [("shop", 3)]), ((), [])])
def test_releases_are_known_as_long_as_something_needs_them(
    kept: tuple[Assignment, ...], names: list[tuple[str, int]]
) -> None:
    releases = {("shop", n): Release(app="shop", number=n, types=()) for n in (2, 3)}
    assert [*needed(releases, kept)] == names
