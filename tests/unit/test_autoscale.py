"""What one look at an autoscaled type comes to, and what may never come of any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import process_type

from formation.automation import Autoscale, Measure, MeasureKind, problems_with_rule
from formation.model import Limits
from formation.rules import Resources, Schedule
from formation_coordinator import autoscale as a
from formation_coordinator.autoscale import CpuSample, Memory, Reading, Situation

CPU = Measure(kind=MeasureKind.CPU, target=60)
QUEUE = Measure(kind=MeasureKind.METRIC, target=100, url="http://q/")
RULE = Autoscale(app="shop", type="web", minimum=2, maximum=20, measures=(CPU,))
DAY_S = 100_000.0
FORGOTTEN = Memory()


def cpu(*values: float, missing: int = 0) -> Reading:
    return Reading(measure=CPU, values=values, missing=missing)


def queue(value: float, measure: Measure = QUEUE) -> Reading:
    return Reading(measure=measure, values=(value,))


NOTHING = Reading(measure=QUEUE, problem="http://q: status 500")


def decided(
    *readings: Reading,
    at: int,
    rule: Autoscale = RULE,
    memory: Memory = FORGOTTEN,
    now_s: float = DAY_S,
    **situation: Any,
) -> a.Decision:
    now = Situation(quantity=at, **situation)
    return a.decide(rule, readings, now, memory, now_s)[0]


@pytest.mark.parametrize(
    ("readings", "at", "then", "said"),
    [
        ([cpu(90, 90, 90)], 3, 5, "3 -> 5: cpu 90 % of 60 %, 3 measured"),
        ([cpu(120, 60)], 2, 3, "2 -> 3: cpu 90 % of 60 %, 2 measured"),
        # Within a tenth it is right.
        ([cpu(65, 65, 65)], 3, 3, "stays at 3: cpu 65 % of 60 %, 3 measured"),
        ([cpu(55, 55, 55)], 3, 3, "stays at 3: cpu 55 % of 60 %, 3 measured"),
        ([cpu(10, 10, 10)], 3, 2, "3 -> 2: cpu 10 % of 60 %, 3 measured (1, but min is 2)"),
        # Who told nothing is idle on the way up…
        ([cpu(90, 90, missing=1)], 3, 3, "stays at 3: cpu 90 % of 60 %, 2 measured, 1 not"),
        ([cpu(180, 180, missing=1)], 3, 6, "3 -> 6: cpu 180 % of 60 %, 2 measured, 1 not"),
        # …and just right on the way down.
        ([cpu(6, 6, 6, 6, missing=2)], 6, 3, "6 -> 3: cpu 6 % of 60 %, 4 measured, 2 not"),
        ([cpu(30, missing=9)], 10, 10, "stays at 10: cpu 30 % of 60 %, 1 measured, 9 not"),
        # Of several the one that asks for most counts, and what is not known takes nothing away.
        ([cpu(10, 10, 10), queue(450)], 3, 5, "3 -> 5: metric 450, 100 for each"),
        ([cpu(120, 120, 120), NOTHING], 3, 6, "3 -> 6: cpu 120 % of 60 %, 3 measured"),
        (
            [cpu(10, 10, 10), NOTHING],
            3,
            3,
            "stays at 3: cpu 10 % of 60 %, 3 measured asks for 1, but metric: http://q: status 500",
        ),
        ([NOTHING], 3, 3, "stays at 3: metric: http://q: status 500"),
        ([cpu(missing=3)], 3, 3, "stays at 3: cpu: nobody was measured"),
        ([queue(1e14)], 15, 20, "15 -> 20: metric 1e+14, 100 for each (1000000000, but max is 20)"),
        ([queue(0)], 3, 2, "3 -> 2: metric 0, 100 for each (0, but min is 2)"),
    ],
)
def test_a_look_comes_to(readings: Sequence[Reading], at: int, then: int, said: str) -> None:
    found = decided(*readings, at=at)
    assert (found.quantity, found.sentence) == (then, said)


def test_an_average_is_multiplied_by_how_many_there_are() -> None:
    average = replace(QUEUE, averaged=True)
    found = decided(queue(200, average), at=4)
    assert (found.quantity, found.sentence) == (8, "4 -> 8: metric 200 on average, of 100")


def test_from_none_a_metric_of_all_together_brings_the_first() -> None:
    rule = replace(RULE, minimum=0, measures=(QUEUE,))
    assert decided(queue(0), at=0, rule=rule).quantity == 0
    assert decided(queue(1), at=0, rule=rule).quantity == 1
    assert decided(queue(350), at=0, rule=rule).quantity == 4
    assert decided(queue(0), at=1, rule=rule).quantity == 0


@pytest.mark.parametrize(
    ("situation", "said"),
    [
        ({"obstacle": "the brake is on"}, "stays at 4: the brake is on"),
        ({"unplaced": 2}, "2 of 4 fit nowhere: formctl ps says why"),
    ],
)
def test_what_is_in_the_way_is_said_and_nothing_is_added(
    situation: dict[str, Any], said: str
) -> None:
    found = decided(cpu(*[90.0] * 4), at=4, **situation)
    assert found.quantity == 4
    assert found.sentence.endswith(said)


def test_while_a_change_is_on_its_way_it_grows_but_does_not_shrink() -> None:
    up = decided(cpu(*[90.0] * 4), at=4, rolling="v7 is on its way")
    down = decided(cpu(*[10.0] * 4), at=4, rolling="v7 is on its way")
    assert up.quantity == 6
    assert down.quantity == 4
    assert down.sentence.endswith(" asks for 2, but v7 is on its way")


@pytest.mark.parametrize(("at", "then"), [(0, 2), (1, 2), (25, 20)])
def test_what_is_out_of_bounds_comes_into_them_at_once(at: int, then: int) -> None:
    found = decided(NOTHING, at=at)
    assert found.quantity == then
    assert found.sentence in {f"{at} is less than min 2", f"{at} is more than max 20"}


def run(
    looks: Sequence[tuple[float, Reading]], at: int, rule: Autoscale = RULE, begun_s: float = 0.0
) -> list[int]:
    """The quantity after each look, of one that begins to look on at `begun_s`."""
    memory, found = a.begin(at, begun_s), []
    for now_s, reading in looks:
        decision, memory = a.decide(rule, [reading], Situation(quantity=at), memory, now_s)
        at = decision.quantity
        found.append(at)
    return found


def test_it_goes_down_only_to_what_was_never_too_few_in_the_window() -> None:
    looks = [(15.0 * n, queue(300 if n == 5 else 200)) for n in range(1, 30)]
    found = run(looks, at=6)
    # Begun at 6: nothing for 300 s. At 75 s 3 were right, which counts until 375 s.
    assert found == [6] * 19 + [3] * 5 + [2] * 5


def test_who_takes_over_takes_nothing_away_before_a_whole_window() -> None:
    looks = [(1000.0 + 15.0 * n, queue(100)) for n in range(1, 21)]
    assert run(looks, at=9, begun_s=1000.0) == [9] * 19 + [2]


def test_up_it_goes_only_after_the_up_window() -> None:
    rule = replace(RULE, up_window_s=60.0)
    looks = [(15.0 * n, queue(500)) for n in range(1, 6)]
    assert run(looks, at=3, rule=rule) == [3, 3, 3, 5, 5]


def test_it_at_most_doubles_or_adds_four_within_fifteen_seconds() -> None:
    rule = replace(RULE, maximum=500)
    looks = [(5.0 * n, queue(30_000)) for n in range(1, 12)]
    assert run(looks, at=2, rule=rule) == [6, 6, 6, 12, 12, 12, 24, 24, 24, 48, 48]


# -- properties ------------------------------------------------------------------------------------

percent = st.floats(0, 2_000, allow_nan=False)
readings = st.one_of(
    st.builds(
        lambda values, missing: Reading(measure=CPU, values=tuple(values), missing=missing),
        st.lists(percent, max_size=8),
        st.integers(0, 8),
    ),
    st.builds(lambda v: Reading(measure=QUEUE, values=(v,)), st.floats(0, 1e15)),
    st.just(NOTHING),
)
rules = st.builds(
    lambda low, more, up, down: replace(
        RULE, minimum=low, maximum=low + more, up_window_s=up, down_window_s=down
    ),
    st.integers(1, 10),
    st.integers(0, 100),
    st.sampled_from([0.0, 30.0, 300.0]),
    st.sampled_from([0.0, 60.0, 300.0]),
)
looks_on = st.lists(st.tuples(st.floats(1, 60), st.lists(readings, min_size=1, max_size=3)))


@given(rules, looks_on, st.integers(0, 150), st.integers(0, 3))
def test_it_is_never_out_of_bounds_and_always_says_why(
    rule: Autoscale,
    looks: list[tuple[float, list[Reading]]],
    at: int,
    unplaced: int,
) -> None:
    now_s, memory = 0.0, a.begin(at, 0.0)
    for wait_s, found in looks:
        now_s += wait_s
        now = Situation(quantity=at, unplaced=unplaced)
        decision, memory = a.decide(rule, found, now, memory, now_s)
        inside = rule.minimum <= at <= rule.maximum
        at = decision.quantity
        assert rule.minimum <= at <= rule.maximum
        assert decision.sentence
        assert "\n" not in decision.sentence
        assert not (inside and unplaced and at > now.quantity)
        windows_s = max(rule.up_window_s, rule.down_window_s)
        assert len(memory.recommended) <= windows_s + 2


@given(rules, st.lists(readings, min_size=1, max_size=3), st.integers(1, 100))
def test_while_a_measure_is_missing_nothing_is_taken_away(
    rule: Autoscale, found: list[Reading], at: int
) -> None:
    at = max(rule.minimum, min(rule.maximum, at))
    decision = decided(*found, NOTHING, at=at, rule=rule)
    assert decision.quantity >= at


@given(st.lists(percent, min_size=1, max_size=10), st.integers(0, 10))
def test_who_was_not_measured_is_never_the_reason(values: list[float], missing: int) -> None:
    """With them it goes no further in either direction than those that were measured ask for."""
    at = len(values) + missing
    rule = replace(RULE, minimum=1, maximum=1_000)
    found = decided(cpu(*values, missing=missing), at=at, rule=rule).quantity
    mean = sum(values) / len(values)
    if mean > CPU.target:
        assert found >= at
        assert found <= max(at, -(-sum(values) // CPU.target))
    else:
        assert found <= at
        assert found >= min(at, missing)


@given(
    st.integers(2, 20),
    st.lists(st.floats(-0.099, 0.099), min_size=1, max_size=60),
    st.sampled_from([0.0, 60.0, 300.0]),
)
def test_noise_within_the_tolerance_changes_nothing_also_without_a_window(
    at: int, noise: list[float], window_s: float
) -> None:
    rule = replace(RULE, down_window_s=window_s)
    looks = [(15.0 * n, cpu(*[60 * (1 + x)] * at)) for n, x in enumerate(noise, 1)]
    assert set(run(looks, at=at, rule=rule)) == {at}


@given(st.floats(1, 3_000), st.integers(2, 20))
def test_under_constant_load_it_settles_and_stays(load: float, at: int) -> None:
    """`load`: percent of cpu in all, which the instances share."""
    rule, found = replace(RULE, down_window_s=30.0), [at]
    memory = a.begin(at, 0.0)
    for n in range(1, 40):
        reading = cpu(*[load / found[-1]] * found[-1])
        now = Situation(quantity=found[-1])
        decision, memory = a.decide(rule, [reading], now, memory, 15.0 * n)
        found.append(decision.quantity)
    assert len(set(found[20:])) == 1
    turns = [y - x for x, y in pairwise(found) if x != y]
    assert all(step > 0 for step in turns) or all(step < 0 for step in turns)


# -- measures --------------------------------------------------------------------------------------


def test_percent_of_cpu_is_of_what_is_reserved_else_of_the_limit_else_of_a_core() -> None:
    assert a.cores_of(process_type("web", resources=Resources(cpus=2))) == 2
    assert a.cores_of(process_type("web", limits=Limits(cpus=0.5))) == 0.5
    assert a.cores_of(process_type("web")) == 1


def test_cpu_is_measured_between_two_looks_at_the_same_instance() -> None:
    before = {"a": CpuSample(10.0, 5.0), "b": CpuSample(10.0, 5.0), "gone": CpuSample(10.0, 1.0)}
    after = {"a": CpuSample(20.0, 10.0), "b": CpuSample(20.0, 4.0), "new": CpuSample(20.0, 9.0)}
    assert a.cpu_values(before, after, cores=2.0) == {"a": 25.0}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"schedule": Schedule(cron="* * * * *")}, "runs at times"),
        ({"per_host": True}, "runs on every host"),
        ({"exclusive": True}, "is exclusive"),
    ],
)
def test_types_whose_quantity_means_something_else_are_refused(
    fields: dict[str, Any], why: str
) -> None:
    assert why in a.problem_with_type(process_type("web", **fields), "web")
    assert not a.problem_with_type(process_type("web"), "web")
    assert "no type web" in a.problem_with_type(None, "web")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"minimum": 21}, "min 21 is more than max 20"),
        ({"maximum": 0, "minimum": 0}, "max: must be from 1"),
        ({"minimum": 0}, "min 0 needs a metric"),
        ({"measures": ()}, "say what it follows"),
        ({"measures": (CPU, CPU)}, "each once"),
        ({"measures": (replace(CPU, target=0.0),)}, "must be more than 0"),
        ({"measures": (replace(CPU, target=float("nan")),)}, "must be more than 0"),
        ({"measures": (replace(QUEUE, url="ftp://x"),)}, "must begin with https://"),
        ({"measures": (replace(QUEUE, url="http://u:p@x/"),)}, "holds a user or a password"),
        ({"every_s": 0.1}, "every: must be from 5 s"),
        ({"down_window_s": float("nan")}, "down-window: must be"),
        ({"up_window_s": 1e9}, "up-window: must be"),
    ],
)
def test_a_rule_that_makes_no_sense_is_told_why(change: dict[str, object], why: str) -> None:
    problems = problems_with_rule(replace(RULE, **change))  # type: ignore[arg-type]
    assert why in "; ".join(problems)
    assert not list(problems_with_rule(RULE))
