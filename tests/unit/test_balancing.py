"""How many agents ought to go on at which coordinator."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from formation_coordinator.balancing import TOLERATED, TOLERATED_SHARE, moves

NAMES = ("c1", "c2", "c3", "c4", "c5")
COUNTS = st.lists(st.integers(0, 5_000), min_size=2, max_size=5).map(
    lambda found: dict(zip(NAMES, found, strict=False))
)


def test_half_of_them_go_to_one_that_is_new() -> None:
    assert moves({"c1": 2_000, "c2": 0}, "c1") == {"c2": 1_000}
    assert moves({"c1": 2_000, "c2": 0}, "c2") == {}


def test_a_few_too_many_stay_where_they_are() -> None:
    assert moves({"c1": 16, "c2": 0}, "c1") == {}
    assert moves({"c1": 18, "c2": 0}, "c1") == {"c2": 9}
    assert moves({"c1": 1_100, "c2": 900}, "c1") == {}
    assert moves({"c1": 1_102, "c2": 898}, "c1") == {"c2": 102}


def test_several_with_too_many_fill_the_room_together() -> None:
    counts = {"c1": 1_500, "c2": 1_200, "c3": 0}
    assert moves(counts, "c1") == {"c3": 600}
    assert moves(counts, "c2") == {"c3": 300}


def test_alone_there_is_nowhere_to_go() -> None:
    assert moves({"c1": 5_000}, "c1") == {}
    assert moves({"c1": 0, "c2": 0}, "c1") == {}


@given(COUNTS)
def test_all_at_once_end_even_and_nobody_gets_more_than_is_fair(counts: dict[str, int]) -> None:
    after = dict(counts)
    for name in counts:
        for to, count in moves(counts, name).items():
            assert to != name
            after[name] -= count
            after[to] += count
    mean = sum(counts.values()) / len(counts)
    for name, count in after.items():
        assert count <= max(counts[name], mean + 1)
        assert count >= min(counts[name], int(mean))
        # One within what is tolerated moves nobody, and rounding leaves one for each.
        assert count <= mean + max(TOLERATED, mean * TOLERATED_SHARE) + len(counts)
