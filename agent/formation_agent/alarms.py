"""Many deadlines, one timer of the loop. Calls back when one is due; decides nothing."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable


class Alarms:
    """At most one deadline per name; a new one replaces it. Times are the loop's."""

    def __init__(self, due: Callable[[str], None]) -> None:
        self._due = due
        self._loop = asyncio.get_running_loop()
        self._at_s: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    def set(self, name: str, at_s: float | None) -> None:
        """`at_s` None: no deadline any more."""
        if self._at_s.get(name) == at_s:
            return
        if at_s is None:
            del self._at_s[name]
        else:
            self._at_s[name] = at_s
            heapq.heappush(self._heap, (at_s, name))
        self._arm()

    def at_s(self, name: str) -> float | None:
        return self._at_s.get(name)

    def _arm(self) -> None:
        # Replaced deadlines stay in the heap until they come to its top.
        while self._heap and self._at_s.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        first_s = self._heap[0][0] if self._heap else None
        if self._timer is not None:
            if self._timer.when() == first_s:
                return
            self._timer.cancel()
            self._timer = None
        if first_s is not None:
            self._timer = self._loop.call_at(first_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        # The loop rings up to its clock's resolution too early; then it is armed again.
        now_s = self._loop.time()
        while self._heap and self._heap[0][0] <= now_s:
            at_s, name = heapq.heappop(self._heap)
            if self._at_s.get(name) == at_s:
                del self._at_s[name]
                self._due(name)
        self._arm()
