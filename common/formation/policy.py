"""Verdicts as pure functions: when a failed process is tried again, and when elsewhere; what the
results of probes mean.

Knows no clock and no dice: durations and jitter are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from formation.model import Probe

# The first failure restarts at once: most crashes are single, and a fast come-back hides them.
FIRST_DELAY_S = 1.0
DELAY_MAX_S = 60.0
# Spread around the nominal delay, so that a thousand instances that failed together do not
# return together.
SPREAD = 0.1
# Up this long means that the earlier failures are over.
RESET_AFTER_S = 300.0
# So many failures on one host within so short a time: another host may do better.
LOOP_FAILURES = 5
LOOP_WITHIN_S = 300.0

# An agent that has heard no coordinator for so long stops its exclusive instances. Whoever places
# them again waits this out, and the stop, and a margin for clocks that run a little differently.
AGENT_LEASE_S = 15.0
LEASE_MARGIN_S = 2.0

# An agent with exclusive instances beats so often, three times in a lease. For the others it says
# only that the agent is not stuck: dead hosts and cut cables the connection itself finds out.
HEARTBEAT_PERIOD_S = 5.0
_RELAXED_MAX_S = 60.0
_RELAXED_PER_S = 20.0


def relaxed_heartbeat_s(hosts: int) -> float:
    """How often an agent without exclusive instances beats: all `hosts` of one coordinator together
    some 20 times a second, as long as that is not too seldom."""
    return min(_RELAXED_MAX_S, max(HEARTBEAT_PERIOD_S, hosts / _RELAXED_PER_S))


def surely_stopped_s(grace_s: float) -> float:
    """How long after a host's session went an exclusive instance may still run there."""
    return AGENT_LEASE_S + grace_s + LEASE_MARGIN_S


def restart_delay_s(failures: int, jitter: float) -> float:
    """How long to wait after the `failures`-th failure in a row: 0, then 1 s × 2 up to 60 s.

    `jitter` in [0, 1) moves it by at most ± 10 %.
    """
    assert 0.0 <= jitter < 1.0, jitter
    if failures <= 1:
        return 0.0
    # 2 ** 6 is over the maximum already; a large power would overflow.
    nominal_s = min(FIRST_DELAY_S * 2.0 ** min(failures - 2, 6), DELAY_MAX_S)
    return nominal_s * (1.0 - SPREAD + 2.0 * SPREAD * jitter)


def failures_after_exit(failures: int, up_s: float | None) -> int:
    """Failures in a row, this exit included. Every exit counts, also exit 0.

    `up_s` None: how long it was up is not known, which ends no row.
    """
    return 1 if up_s is not None and up_s >= RESET_AFTER_S else failures + 1


def last_failures(failed_at_s: tuple[float, ...], now_s: float) -> tuple[float, ...]:
    """The times of the last failures with one more at `now_s`: as many as `is_crash_looping`
    looks at."""
    return (*failed_at_s, now_s)[-LOOP_FAILURES:]


def is_crash_looping(failed_at_s: tuple[float, ...], now_s: float) -> bool:
    """At least five failures on this host within five minutes; times in order."""
    if len(failed_at_s) < LOOP_FAILURES:
        return False
    return now_s - failed_at_s[-LOOP_FAILURES] <= LOOP_WITHIN_S


# -- probes ----------------------------------------------------------------------------------------

# A start is noticed within an eighth of the time that it took, or within this.
PAUSE_MIN_S = 0.1
_PAUSE_PART = 1 / 8


class Verdict(Enum):
    UNDECIDED = auto()
    PASSES = auto()
    FAILS = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRecord:
    """What the runs of one probe on one process have said. `passes` and `fails`: in a row, one of
    them is 0."""

    passes: int = 0
    fails: int = 0
    verdict: Verdict = Verdict.UNDECIDED


def judge_probe(
    record: ProbeRecord, passed: bool, probe: Probe, now_s: float, grace_until_s: float
) -> tuple[ProbeRecord, Verdict]:
    """One more run; the verdict is what the probe says by now, not only when it changes.

    It changes after `failures` or `successes` in a row. Until `grace_until_s` a failed run ends a
    row of passes, and is not counted otherwise.
    """
    if passed:
        passes, fails = min(record.passes + 1, probe.successes), 0
    else:
        counted = 1 if now_s >= grace_until_s else 0
        passes, fails = 0, min(record.fails + counted, probe.failures)
    verdict = record.verdict
    if passes >= probe.successes:
        verdict = Verdict.PASSES
    elif fails >= probe.failures:
        verdict = Verdict.FAILS
    return ProbeRecord(passes=passes, fails=fails, verdict=verdict), verdict


def probe_pause_s(probe: Probe, record: ProbeRecord, up_s: float) -> float:
    """From the begin of one run to the next: `period_s`, and less until it passes for the first
    time, so that a start is seen soon."""
    if record.verdict is not Verdict.UNDECIDED:
        return probe.period_s
    return min(probe.period_s, PAUSE_MIN_S + up_s * _PAUSE_PART)
