"""Lets gRPC's idle threads be woken late, and so together and less often, while a session holds.

Its pool of threads looks for work 15 ms after it had some, then 20, 25 and so on. With a ping every
2 s these are 30 wake-ups a second of an agent that does nothing, most of what it costs then. Work
wakes them at once all the same; only timers are late, such as keepalive's. Not while a connection
is made: that goes by timers and would take a second.

Only root may do this to other threads than its own; where it is not to be had, all works without.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

SLACK_S = 0.5
_POOL = b"event_engine\n"
_OWN = b"0"  # what the thread was made with


@contextlib.contextmanager
def idle_slack(threads: Path = Path("/proc/self/task")) -> Iterator[None]:
    """In this block the threads that the pool has now; see proc(5), timerslack_ns."""
    pool = [tid for tid in _names(threads) if _read(threads / tid / "comm") == _POOL]
    _set(pool, b"%d" % int(SLACK_S * 1e9))
    try:
        yield
    finally:
        _set(pool, _OWN)


def _set(tids: list[str], slack_ns: bytes) -> None:
    for tid in tids:
        # Of a thread as of a process; it may be over, or we may not.
        with contextlib.suppress(OSError), open(f"/proc/{tid}/timerslack_ns", "wb", 0) as file:
            file.write(slack_ns)


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
