"""What the results of probes mean, and how often they are asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation.model import Probe, ProbeKind
from formation.policy import PAUSE_MIN_S, ProbeRecord, Verdict, judge_probe, probe_pause_s

GRACE_S = 30.0
probes = st.builds(
    Probe,
    kind=st.just(ProbeKind.TCP),
    failures=st.integers(1, 10),
    successes=st.integers(1, 10),
)
runs = st.lists(st.booleans(), max_size=60)


def probe(failures: int = 3, successes: int = 1, period_s: float = 5.0) -> Probe:
    return Probe(kind=ProbeKind.TCP, failures=failures, successes=successes, period_s=period_s)


def verdicts(what: Probe, results: str, *, now_s: float = GRACE_S) -> str:
    """`results` and what comes of them: + passes, - fails, ? undecided; one letter for each."""
    record, said = ProbeRecord(), ""
    for result in results:
        record, verdict = judge_probe(record, result == "+", what, now_s, GRACE_S)
        said += {Verdict.PASSES: "+", Verdict.FAILS: "-", Verdict.UNDECIDED: "?"}[verdict]
    return said


@pytest.mark.parametrize(
    ("what", "results", "said"),
    [
        (probe(), "+", "+"),
        (probe(), "--", "??"),
        (probe(), "---", "??-"),
        (probe(), "+--+--+---+", "+++++++++-+"),
        (probe(failures=1), "+-+-", "+-+-"),
        (probe(successes=2), "-++-+---++", "??+++++--+"),
        (probe(), "-----", "??---"),
    ],
)
def test_a_verdict_changes_after_enough_results_in_a_row(
    what: Probe, results: str, said: str
) -> None:
    assert verdicts(what, results) == said


def test_within_the_grace_failures_are_not_counted_and_passes_are() -> None:
    assert verdicts(probe(), "-------", now_s=GRACE_S - 0.1) == "???????"
    assert verdicts(probe(), "-+---", now_s=GRACE_S - 0.1) == "?++++"


def test_failures_of_the_grace_are_forgotten_when_it_is_over() -> None:
    record = ProbeRecord()
    for _ in range(10):
        record, _ = judge_probe(record, False, probe(), 0.0, GRACE_S)
    said = []
    for _ in range(3):
        record, verdict = judge_probe(record, False, probe(), GRACE_S, GRACE_S)
        said.append(verdict)
    assert said == [Verdict.UNDECIDED, Verdict.UNDECIDED, Verdict.FAILS]


@given(probes, runs)
def test_a_verdict_is_that_of_the_last_row_that_was_long_enough(
    what: Probe, results: list[bool]
) -> None:
    expected = Verdict.UNDECIDED
    record, row, before = ProbeRecord(), 0, None
    for passed in results:
        row = row + 1 if passed == before else 1
        before = passed
        if passed and row >= what.successes:
            expected = Verdict.PASSES
        if not passed and row >= what.failures:
            expected = Verdict.FAILS
        record, verdict = judge_probe(record, passed, what, GRACE_S, GRACE_S)
        assert verdict is expected is record.verdict


@given(probes, runs, st.floats(0, 60))
def test_a_record_stays_small_and_counts_one_row_alone(
    what: Probe, results: list[bool], now_s: float
) -> None:
    record = ProbeRecord()
    for passed in results:
        record, _ = judge_probe(record, passed, what, now_s, GRACE_S)
        assert 0 in (record.passes, record.fails)
        assert record.passes <= what.successes
        assert record.fails <= what.failures


@given(probes, runs)
def test_nothing_fails_within_the_grace(what: Probe, results: list[bool]) -> None:
    record = ProbeRecord()
    for passed in results:
        record, verdict = judge_probe(record, passed, what, 0.0, GRACE_S)
        assert verdict is not Verdict.FAILS


@given(st.floats(0.1, 3600), st.floats(0, 1e6))
def test_a_start_is_looked_at_often_and_never_less_than_every_period(
    period_s: float, up_s: float
) -> None:
    what = probe(period_s=period_s)
    pause_s = probe_pause_s(what, ProbeRecord(), up_s)
    assert min(PAUSE_MIN_S, period_s) <= pause_s <= period_s
    assert pause_s <= PAUSE_MIN_S + up_s / 8
    decided = ProbeRecord(verdict=Verdict.FAILS)
    assert probe_pause_s(what, decided, up_s) == period_s


def test_a_start_of_ten_seconds_is_noticed_within_an_eighth_of_it() -> None:
    up_s, asked = 0.0, 0
    while up_s < 10.0:
        up_s += probe_pause_s(probe(), ProbeRecord(), up_s)
        asked += 1
    assert up_s < 10.0 * 9 / 8 + PAUSE_MIN_S
    assert asked < 25
