"""When a failed process is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation.policy import (
    DELAY_MAX_S,
    LOOP_FAILURES,
    LOOP_WITHIN_S,
    RESET_AFTER_S,
    SPREAD,
    failures_after_exit,
    is_crash_looping,
    last_failures,
    relaxed_heartbeat_s,
    restart_delay_s,
)

MIDDLE = 0.5


@pytest.mark.parametrize(
    ("failures", "delay_s"),
    [(1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 32), (8, 60), (9, 60), (100_000, 60)],
)
def test_the_delay_is_nothing_then_one_second_doubled_up_to_a_minute(
    failures: int, delay_s: float
) -> None:
    assert restart_delay_s(failures, MIDDLE) == pytest.approx(delay_s)


@given(st.integers(2, 10_000), st.floats(0, 1, exclude_max=True))
def test_jitter_moves_a_delay_by_at_most_a_tenth(failures: int, jitter: float) -> None:
    nominal_s = restart_delay_s(failures, MIDDLE)
    assert abs(restart_delay_s(failures, jitter) - nominal_s) <= nominal_s * SPREAD + 1e-9
    assert restart_delay_s(failures, jitter) <= DELAY_MAX_S * (1 + SPREAD)


def test_every_exit_counts_until_one_process_was_up_for_five_minutes() -> None:
    assert failures_after_exit(0, up_s=0.1) == 1
    assert failures_after_exit(4, up_s=RESET_AFTER_S - 0.1) == 5
    assert failures_after_exit(4, up_s=RESET_AFTER_S) == 1


def test_an_unknown_time_ends_no_row_of_failures() -> None:
    assert failures_after_exit(4, up_s=None) == 5


@pytest.mark.parametrize(
    ("failed_at_s", "now_s", "loops"),
    [
        ((), 0, False),
        ((0, 0, 1, 3), 3, False),
        ((0, 0, 1, 3, 7), 7, True),
        ((0, 0, 1, 3, 7), 300, True),
        ((0, 0, 1, 3, 7), 301, False),
        ((0, 100, 200, 290, 301), 301, False),
    ],
)
def test_five_failures_within_five_minutes_are_a_crash_loop(
    failed_at_s: tuple[float, ...], now_s: float, *, loops: bool
) -> None:
    assert is_crash_looping(failed_at_s, now_s) == loops


@given(st.lists(st.floats(0, 1000), max_size=30), st.floats(0, 400))
def test_the_last_failures_are_enough_to_tell_a_crash_loop(
    times: list[float], later_s: float
) -> None:
    times.sort()
    kept: tuple[float, ...] = ()
    for at_s in times:
        kept = last_failures(kept, at_s)
    now_s = max(times, default=0.0) + later_s
    within = [at_s for at_s in times if now_s - at_s <= LOOP_WITHIN_S]
    assert is_crash_looping(kept, now_s) == (len(within) >= LOOP_FAILURES)


@pytest.mark.parametrize(
    ("hosts", "period_s"), [(0, 5.0), (100, 5.0), (500, 25.0), (1000, 50.0), (10_000, 60.0)]
)
def test_the_more_hosts_the_more_seldom_each_of_them_beats(hosts: int, period_s: float) -> None:
    assert relaxed_heartbeat_s(hosts) == period_s
