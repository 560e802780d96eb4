"""So much at once, and so much a second: over any span of time, whatever the caller does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from formation_coordinator.allowance import Allowance

PER_S, BURST = 10.0, 20.0


def full() -> Allowance:
    return Allowance.full(per_s=PER_S, burst=BURST, at_s=0.0)


def test_a_burst_is_allowed_and_then_as_much_as_comes_back() -> None:
    allowance, waits = full(), []
    for _ in range(22):
        allowance, wait_s = allowance.spent(0.0)
        waits.append(round(wait_s, 6))
    assert waits == [0.0] * 20 + [0.1, 0.2]
    assert allowance.spent(100.0)[1] == 0.0


@given(st.lists(st.floats(0.0, 2.0), max_size=200))
def test_who_is_refused_gets_no_more_than_its_allowance(pauses: list[float]) -> None:
    allowance, now_s, granted = full(), 0.0, 0
    for pause in pauses:
        now_s += pause
        after, wait_s = allowance.spent(now_s)
        if wait_s == 0.0:
            allowance, granted = after, granted + 1
    assert granted <= BURST + PER_S * now_s + 1e-6


@given(st.lists(st.floats(0.0, 2.0), max_size=200))
def test_who_waits_is_slowed_down_to_its_allowance(pauses: list[float]) -> None:
    allowance, now_s = full(), 0.0
    for number, pause in enumerate(pauses, 1):
        allowance, wait_s = allowance.spent(now_s)
        now_s += wait_s + pause
        assert number <= BURST + PER_S * now_s + 1.0 + 1e-6


def test_what_costs_more_waits_longer() -> None:
    allowance, wait_s = full().spent(0.0, 25.0)
    assert wait_s == 0.5
    assert allowance.spent(0.0)[1] == 0.6


def test_a_clock_that_goes_back_gives_nothing() -> None:
    allowance, _ = full().spent(100.0)
    back, _ = allowance.spent(50.0)
    assert back.left == allowance.left - 1.0
    assert back.spent(100.0)[0].left == back.left - 1.0
