"""When a change of endpoints is passed on: soon, a burst as one, what flaps not over and over."""

from __future__ import annotations

from formctl import damping


def test_a_single_change_is_told_when_nothing_came_for_the_settle_time() -> None:
    assert damping.settle_until_s(10.0, 10.0, 0.1) == 10.1


def test_a_burst_is_one_change_and_never_waits_for_more_than_five_settle_times() -> None:
    assert damping.settle_until_s(10.0, 10.25, 0.1) == 10.35
    assert damping.settle_until_s(10.0, 11.0, 0.1) == 10.5


def test_what_a_deploy_changes_is_told_at_once_and_what_flaps_waits_two_seconds_each_time() -> None:
    deploy = [10.0 + number for number in range(9)]
    assert damping.not_before_s([], goes=False) == 0.0
    assert damping.not_before_s(deploy, goes=False) == 0.0
    flapping = [*deploy, 19.0]
    assert damping.not_before_s(flapping[-damping.KEPT :], goes=False) == 21.0
    # Who is about to stop is taken away sooner than one that comes is added.
    assert damping.not_before_s(flapping, goes=True) == 19.5
    slow = [100.0 * number for number in range(20)]
    assert damping.not_before_s(slow, goes=False) == 0.0
