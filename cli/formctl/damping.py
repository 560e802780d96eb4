"""When a change is passed on to a load balancer: soon, and not over and over. Pure."""

from __future__ import annotations

from collections.abc import Sequence

# A burst of changes is one: it has ended when nothing came for the settle time, or after five of
# them.
SETTLE_S = 0.1
_SETTLES_MAX = 5
# So many in so long are what a deploy makes; what comes faster flaps, and waits between two.
_FREE, _WITHIN_S = 10, 60.0
# What goes is told sooner: it is about to stop.
_PAUSE_S, _PAUSE_GONE_S = 2.0, 0.5


def settle_until_s(first_s: float, last_s: float, settle_s: float) -> float:
    """When it is passed on, from when the burst began and when its last change came."""
    return min(last_s + settle_s, first_s + _SETTLES_MAX * settle_s)


def not_before_s(told_s: Sequence[float], *, goes: bool) -> float:
    """`told_s`: when something was passed on, in order; at least the last `KEPT`. `goes`: of what
    was told something is to be no more."""
    if len(told_s) < _FREE or told_s[-1] - told_s[-_FREE] > _WITHIN_S:
        return 0.0
    return told_s[-1] + (_PAUSE_GONE_S if goes else _PAUSE_S)


KEPT = _FREE
