"""Lets the idle threads of a library be woken late, and so together and less often.

gRPC's pool of threads looks for work 15 ms after it had some, then 20, 25 and so on. With a ping
every 2 s these are 30 wake-ups a second of an agent that does nothing, most of what it costs then.
Work wakes them at once all the same; only timers are late, such as keepalive's.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

SLACK_S = 0.5
_PR_SET_TIMERSLACK = 29

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def slack_for_new_threads(slack_s: float = SLACK_S) -> Iterator[None]:
    """Threads that are made in this block, and by these in turn, have so much of timer slack.

    See prctl(2), PR_SET_TIMERSLACK; the calling thread has its own back afterwards.
    """
    _set(int(slack_s * 1e9))
    try:
        yield
    finally:
        _set(0)  # what it was made with


def _set(slack_ns: int) -> None:
    # It only saves power: where it is not to be had, everything works without.
    _libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns), 0, 0, 0)
