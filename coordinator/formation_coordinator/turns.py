"""Much work of the same kind in many rounds of the event loop, instead of all of it in one.

When the leader has placed a hundred thousand instances, a thousand agents are to be sent their
orders at once. Each takes milliseconds; all of them in one round would be seconds, and the lease in
etcd, which must be renewed every second, would be lost meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

ROUND_S = 0.02
WOKEN_MAX = 64


class Turns:
    """Whoever does such work calls `turn` before it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._began_s: float | None = None
        self._ends_soon = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """At once while this round of the loop has time for it."""
        while not self._has_time():
            waiting = self._loop.create_future()
            self._waiting.append(waiting)
            await waiting

    def _has_time(self) -> bool:
        now_s = self._clock()
        if self._began_s is None:
            self._began_s = now_s
            self._end_soon()
        return now_s - self._began_s < ROUND_S

    def _end_soon(self) -> None:
        if not self._ends_soon:
            self._ends_soon = True
            self._loop.call_soon(self._end_round)

    def _end_round(self) -> None:
        self._began_s, self._ends_soon = None, False
        for _ in range(min(WOKEN_MAX, len(self._waiting))):
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
        if self._waiting:
            self._end_soon()
