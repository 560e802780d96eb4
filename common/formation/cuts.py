"""The kernel finds out that a cable was cut: it asks the other machine's kernel every second.

gRPC's own pings find out the same, and besides that a program is frozen; but each is a message
through TLS and two programs. So where there are thousands of peers these may be seldom.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

IDLE_S, INTERVAL_S, PROBES = 2, 1, 2
# Also what was sent and is not acknowledged is waited for no longer.
UNACKNOWLEDGED_MS = 4_000


def notice_cuts() -> None:
    """For every TCP socket that this process has now, and whoever connects to those that listen.
    gRPC does not show its own, so they are looked for. Linux; elsewhere nothing is done."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return
    for number in numbers:
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                _ask_by_itself(number)


def _ask_by_itself(number: int) -> None:
    with socket.socket(fileno=os.dup(number)) as found:
        if found.type != socket.SOCK_STREAM or found.family == socket.AF_UNIX:
            return
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, IDLE_S),
            (socket.TCP_KEEPINTVL, INTERVAL_S),
            (socket.TCP_KEEPCNT, PROBES),
            (socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS),
        ):
            found.setsockopt(socket.IPPROTO_TCP, option, value)
