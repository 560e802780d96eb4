"""placement: counts over hosts, and the reasons when there is no room."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from formation_coordinator.placement import (
    Candidate,
    Glass,
    Offer,
    Worth,
    choose_surplus,
    fill,
    place,
)


def offers(**totals: int) -> list[Offer]:
    return [Offer(host=name, total=total) for name, total in totals.items()]


def test_equal_hosts_share_evenly_and_the_rest_goes_by_name() -> None:
    assert place(4, offers(a=0, b=0, c=0)).counts == {"a": 2, "b": 1, "c": 1}


def test_a_lone_instance_goes_where_most_room_is() -> None:
    assert place(1, offers(a=2, b=0, c=1)).counts == {"b": 1}


def test_fewest_of_this_type_beats_fewest_in_total() -> None:
    hosts = [Offer(host="a", of_type=1, total=1), Offer(host="b", of_type=0, total=50)]
    assert place(1, hosts).counts == {"b": 1}


def test_zones_are_levelled_before_hosts() -> None:
    hosts = [
        Offer(host="a", zone="east"),
        Offer(host="b", zone="east"),
        Offer(host="c", zone="west"),
    ]
    assert place(4, hosts).counts == {"a": 1, "b": 1, "c": 2}


def test_a_full_host_takes_nothing_and_says_so_with_numbers() -> None:
    hosts = [
        Offer(host="a", total=2, instances_max=2),
        Offer(host="b", total=1, instances_max=2),
        Offer(host="c", refusal="lost"),
    ]
    result = place(3, hosts)
    assert result.counts == {"b": 1}
    assert result.unplaced == 2
    assert result.refusals["a"] == "full (2 of 2 instances)"
    assert result.refusals["b"] == "full (2 of 2 instances)"  # filled by this very round
    assert result.reason().startswith("no host: a: full (2 of 2 instances); ")
    assert "c: lost" in result.reason()


def test_without_hosts_the_reason_is_that_none_has_joined() -> None:
    assert place(1, []).reason() == "no host has joined"


def test_scale_down_takes_unhealthy_then_crowded_then_newest() -> None:
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
    finished = candidate(7, "b", Worth.FINISHED)
    assert choose_surplus([finished, *stays], 3) == (2, 7, 6)


def test_a_fixed_port_is_one_instance_a_host() -> None:
    hosts = [
        Offer(host="a", port=8080),
        Offer(host="b", port=8080),
        Offer(host="c", port=8080, refusal="port 8080 is taken by shop/api.1"),
    ]
    result = place(4, hosts)
    assert result.counts == {"a": 1, "b": 1}
    assert result.refusals == {
        "a": "port 8080 is taken by another of this type",
        "b": "port 8080 is taken by another of this type",
        "c": "port 8080 is taken by shop/api.1",
    }


def brute_force(levels: list[tuple[int, int]], count: int) -> Counter[int]:
    """One unit at a time into the lowest glass with room; ties: the roomiest, then the first."""
    added: Counter[int] = Counter()
    for _ in range(count):
        open_ = [i for i, (_, room) in enumerate(levels) if added[i] < room]
        if not open_:
            break
        added[min(open_, key=lambda i: (levels[i][0] + added[i], added[i] - levels[i][1], i))] += 1
    return added


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=7), st.integers(0, 60))
def test_filling_in_one_go_equals_pouring_one_unit_at_a_time(
    levels: list[tuple[int, int]], count: int
) -> None:
    glasses = [
        Glass(key=str(i), level=level, room=room, rank=(i, ""))
        for i, (level, room) in enumerate(levels)
    ]
    poured = fill(glasses, count)
    expected = {str(i): n for i, n in brute_force(levels, count).items() if n}
    assert poured == expected
