"""placement: counts over hosts."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from formation_coordinator.placement import (
    Candidate,
    Columns,
    Worth,
    choose_surplus,
    deal,
    fill,
    place,
)

HUGE = 5_000


def columns(
    room: list[int],
    level: list[int] | None = None,
    tier: list[int] | None = None,
    *groups: list[int],
) -> Columns:
    zeros = [0] * len(room)
    return Columns(
        room=np.array(room),
        level=np.array(level or zeros),
        tier=np.array(tier or zeros),
        groups=tuple(np.array(group) for group in groups),
        rank=np.arange(len(room)),
    )


def placed(count: int, over: Columns) -> list[int]:
    return [int(number) for number in place(count, over)]


def test_equal_hosts_share_evenly_and_the_rest_goes_by_name() -> None:
    assert placed(4, columns([HUGE, HUGE, HUGE])) == [2, 1, 1]


def test_a_lone_instance_goes_where_most_room_is() -> None:
    assert placed(1, columns([8, 10, 9])) == [0, 1, 0]


def test_fewest_of_this_type_beats_most_room() -> None:
    assert placed(1, columns([HUGE, 5], level=[1, 0])) == [0, 1]


def test_zones_are_levelled_before_hosts() -> None:
    assert placed(4, columns([9, 9, 9], None, None, [1, 1, 2])) == [1, 1, 2]


def test_what_a_zone_has_on_hosts_that_take_none_counts_too() -> None:
    over = columns([0, 9, 9], [4, 0, 0], None, [1, 1, 2])
    assert placed(2, over) == [0, 0, 2]


def test_racks_are_levelled_inside_their_zones() -> None:
    zones, racks = [1, 1, 1, 2], [1, 1, 2, 3]
    assert placed(4, columns([9, 9, 9, 9], None, None, zones, racks)) == [1, 0, 1, 2]


def test_a_higher_tier_is_filled_before_the_next_one_gets_any() -> None:
    assert placed(5, columns([2, 9, 2], None, [1, 0, 1])) == [2, 1, 2]


def test_what_finds_no_room_stays_unplaced() -> None:
    assert placed(9, columns([2, 1, 0])) == [2, 1, 0]
    assert placed(1, columns([])) == []


def test_neighbouring_ordinals_are_dealt_to_different_hosts() -> None:
    rows = deal(np.array([2, 1, 1]), np.array([0, 1, 0]), np.arange(3))
    assert rows.tolist() == [0, 2, 0, 1]


def test_scale_down_takes_unhealthy_then_surge_then_crowded_then_newest() -> None:
    def candidate(ordinal: int, host: str, worth: Worth = Worth.HEALTHY) -> Candidate:
        return Candidate(host=host, zone="", worth=worth, ordinal=ordinal)

    stays = [
        candidate(1, "a"),
        candidate(2, "b", Worth.UNHEALTHY),
        candidate(3, "c"),
        candidate(4, "a"),
        candidate(5, "c"),
        candidate(6, "c"),
    ]
    assert choose_surplus(stays, 3) == (2, 6, 5)
    assert set(choose_surplus(stays, 4)) == {2, 6, 5, 4}
    finished, surge = candidate(7, "b", Worth.FINISHED), candidate(8, "d", Worth.SURGE)
    assert choose_surplus([finished, surge, *stays], 4) == (2, 7, 8, 6)


def brute_force(levels: list[tuple[int, int]], count: int) -> list[int]:
    """One unit at a time into the lowest glass with room; ties: the roomiest, then the first."""
    added: Counter[int] = Counter()
    for _ in range(count):
        open_ = [i for i, (_, room) in enumerate(levels) if added[i] < room]
        if not open_:
            break
        added[min(open_, key=lambda i: (levels[i][0] + added[i], added[i] - levels[i][1], i))] += 1
    return [added[i] for i in range(len(levels))]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=7),
    st.integers(0, 60),
)
def test_filling_in_one_go_equals_pouring_one_unit_at_a_time(
    levels: list[tuple[int, int]], count: int
) -> None:
    heights, rooms = (np.array(column, dtype=np.int64) for column in zip(*levels, strict=True))
    poured = fill(count, heights, rooms, np.arange(len(levels)))
    assert poured.tolist() == brute_force(levels, count)


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 2), st.integers(0, 1)),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 40),
)
def test_as_many_are_placed_as_there_is_room_whatever_the_zones_and_tiers(
    hosts: list[tuple[int, int, int, int]], count: int
) -> None:
    room, level, zone, tier = (list(column) for column in zip(*hosts, strict=True))
    found = placed(count, columns(room, level, tier, zone))
    assert sum(found) == min(count, sum(room))
    assert all(0 <= number <= most for number, most in zip(found, room, strict=True))
