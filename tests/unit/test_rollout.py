"""rollout: which stale stays may be replaced in this step, and when a change is over."""

from __future__ import annotations

import pytest

from formation.rules import RolloutRules, Share
from formation.seen import Rollout
from formation_coordinator.rollout import (
    Stay,
    arrived,
    failure,
    progress,
    step,
    unavailable_max,
)

FREE = Rollout()
IN_PLACE = RolloutRules(surge=Share(), unavailable=Share(count=1))


def stays(pattern: str) -> list[Stay]:
    """A letter per slot: s stale, S stale and away, c current, C current and away, d demanded, x
    stale and cannot be replaced, + a current surge."""
    return [
        Stay(
            ordinal=ordinal,
            stale=letter in "sSdx",
            works=letter in "scdx+",
            demanded=letter == "d",
            fixed=letter == "x",
            surge=letter == "+",
        )
        for ordinal, letter in enumerate(pattern, start=1)
    ]


def test_one_more_comes_before_anything_goes() -> None:
    first = step(stays("sss"), 3, RolloutRules(), FREE)
    assert (first.surge, first.replace) == (1, ())
    waiting = step(stays("sssC"), 3, RolloutRules(), FREE)
    assert waiting.replace == ()


def test_when_the_new_one_works_an_old_one_is_replaced_and_so_on() -> None:
    assert step(stays("sss+"), 3, RolloutRules(), FREE).replace == (1,)
    assert step(stays("Css+"), 3, RolloutRules(), FREE).replace == ()
    assert step(stays("css+"), 3, RolloutRules(), FREE).replace == (2,)
    last = step(stays("ccc+"), 3, RolloutRules(), FREE)
    assert (last.surge, last.replace) == (0, ())


@pytest.mark.parametrize(("quantity", "surge"), [(1, 1), (3, 1), (4, 1), (8, 2), (100, 25)])
def test_a_quarter_may_surge_and_at_least_one(quantity: int, surge: int) -> None:
    assert step(stays("s" * quantity), quantity, RolloutRules(), FREE).surge == surge


def test_no_more_surge_than_there_are_stale_ones() -> None:
    rules = RolloutRules(surge=Share(count=5))
    assert step(stays("ccs"), 3, rules, FREE).surge == 1


def test_a_type_of_quantity_nought_does_nothing() -> None:
    assert step([], 0, RolloutRules(), FREE).surge == 0


def test_without_surge_at_least_one_may_be_away() -> None:
    assert unavailable_max(RolloutRules(surge=Share()), 3) == 1
    assert unavailable_max(RolloutRules(), 3) == 0
    assert step(stays("sss"), 3, IN_PLACE, FREE).replace == (1,)
    assert step(stays("Css"), 3, IN_PLACE, FREE).replace == ()


def test_stale_ones_that_are_away_anyway_cost_nothing() -> None:
    assert step(stays("SSs"), 3, IN_PLACE, FREE).replace == (1, 2)


def test_when_hosts_fail_meanwhile_the_change_waits() -> None:
    assert step(stays("sssS+"), 4, RolloutRules(), FREE).replace == (4,)
    assert step(stays("sssC+"), 4, RolloutRules(), FREE).replace == ()


def test_a_slot_an_operator_named_goes_even_while_another_is_away() -> None:
    assert step(stays("Cd"), 2, IN_PLACE, FREE).replace == (2,)


def test_what_cannot_be_replaced_now_is_left() -> None:
    assert step(stays("xs+"), 2, RolloutRules(), FREE).replace == (2,)


def test_paused_nothing_more_is_replaced_and_what_surges_stays() -> None:
    held = step(stays("sS+"), 2, RolloutRules(), Rollout(paused=True))
    assert (held.replace, held.surge, held.held) == ((), 1, "paused")


def test_a_canary_stops_at_its_number_until_it_is_promoted() -> None:
    word = Rollout(canary=2)
    assert step(stays("ssss"), 4, RolloutRules(), word).surge == 1
    assert step(stays("ssss+"), 4, RolloutRules(), word).replace == (1,)
    held = step(stays("csss+"), 4, RolloutRules(), word)
    assert (held.replace, held.surge) == ((), 1)
    assert held.held.startswith("canary: 2")
    assert step(stays("csss+"), 4, RolloutRules(), FREE).replace == (2,)


def test_progress_begins_anew_when_it_comes_further_or_the_aim_changes() -> None:
    first = progress(None, "v2", 0, 10.0)
    assert progress(first, "v2", 0, 20.0) == first
    assert progress(first, "v2", 1, 20.0).since_s == 20.0
    assert progress(first, "v3", 0, 20.0).since_s == 20.0
    fewer = progress(progress(None, "v2", 3, 10.0), "v2", 2, 20.0)
    assert (fewer.done, fewer.since_s) == (3, 10.0)


def test_it_has_failed_when_a_new_one_is_broken_and_no_new_one_works() -> None:
    broken = Stay(ordinal=1, stale=False, works=False, broken="web.1 failed on a: exit 1")
    assert failure([broken, *stays("s")]) == "web.1 failed on a: exit 1"
    assert failure([broken, *stays("c")]) == ""
    assert failure(stays("Cs")) == ""


def test_it_has_arrived_when_nothing_is_stale_and_all_work() -> None:
    assert arrived(stays("cc+"))
    assert not arrived(stays("cC"))
    assert not arrived(stays("cs"))
    assert arrived([])


def test_a_named_one_goes_whatever_the_numbers_say_but_is_away_then() -> None:
    both = step(stays("ds+"), 2, RolloutRules(), FREE)
    assert both.replace == (1,)


def test_one_more_of_an_earlier_change_serves_until_all_others_work_and_then_goes() -> None:
    extra = Stay(ordinal=4, stale=True, works=True, surge=True)
    assert step([*stays("ccC"), extra], 3, RolloutRules(), FREE).surge == 1
    assert step([*stays("cc"), extra], 3, RolloutRules(), FREE).surge == 1
    assert step([*stays("ccc"), extra], 3, RolloutRules(), FREE).surge == 0
