"""rollout: which stale stays may be replaced in this step."""

from formation_coordinator.rollout import Stay, replaceable, unavailable_max


def stays(pattern: str) -> list[Stay]:
    """One letter per slot: s stale, S stale and away, c current, C current and away, d demanded."""
    return [
        Stay(
            ordinal=ordinal,
            stale=letter in "sSd",
            available=letter in "scd",
            demanded=letter == "d",
        )
        for ordinal, letter in enumerate(pattern, start=1)
    ]


def test_a_quarter_may_be_away_and_at_least_one() -> None:
    assert [unavailable_max(n) for n in (1, 3, 4, 7, 8, 100)] == [1, 1, 1, 1, 2, 25]


def test_a_healthy_type_is_replaced_in_steps_of_its_budget() -> None:
    assert replaceable(stays("ssssssss"), 8) == (1, 2)


def test_nothing_more_goes_while_the_new_ones_are_not_healthy() -> None:
    assert replaceable(stays("Css"), 3) == ()


def test_stale_ones_that_are_away_anyway_cost_nothing() -> None:
    assert replaceable(stays("SSs"), 3) == (1, 2)


def test_a_slot_an_operator_named_goes_even_while_another_is_away() -> None:
    assert replaceable(stays("Cd"), 2) == (2,)


def test_current_ones_stay() -> None:
    assert replaceable(stays("ccc"), 3) == ()
