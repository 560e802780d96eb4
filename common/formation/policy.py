"""Verdicts as pure functions: when a failed process is tried again.

Knows no clock and no dice: durations and jitter are arguments.
"""

from __future__ import annotations

# The first failure restarts at once: most crashes are single, and a fast come-back hides them.
FIRST_DELAY_S = 1.0
DELAY_MAX_S = 60.0
# Spread around the nominal delay, so that a thousand instances that failed together do not
# return together.
SPREAD = 0.1
# Up this long means that the earlier failures are over.
RESET_AFTER_S = 300.0


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
