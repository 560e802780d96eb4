"""Until when this agent may run exclusive instances.

A coordinator acknowledges heartbeats only while it surely holds this host's session, and the lease
reaches `lease_s` beyond the moment the acknowledged one was *sent*: so it never ends later than
what the leader waits for, however long messages were under way. Time is CLOCK_BOOTTIME.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from formation_agent.fences import boottime_s

_LOOK_AGAIN_S = 1.0
_KEPT_MAX = 64


class Sent:
    """When which heartbeat was sent. Pure: time is an argument."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._at_s: dict[int, float] = {}
        self._last = 0

    def next(self, now_s: float) -> int:
        """The number of the one that is sent now, from 1 on."""
        self._last += 1
        self._at_s[self._last] = now_s
        self._at_s.pop(self._last - _KEPT_MAX, None)
        return self._last

    def until_s(self, acknowledged: int) -> float:
        """How far the lease reaches by this answer; 0: it says nothing."""
        at_s = self._at_s.get(acknowledged)
        return at_s + self._lease_s if at_s is not None and self._lease_s > 0 else 0.0


class Lease:
    """`over` and `back` are called when it has run out, and when it holds again; `tell` passes
    every longer one on."""

    def __init__(
        self,
        *,
        until_s: float,
        over: Callable[[], None],
        back: Callable[[], None],
        tell: Callable[[float], None],
        now_s: Callable[[], float] = boottime_s,
    ) -> None:
        self._until_s, self._now_s = until_s, now_s
        self._over, self._back, self._tell = over, back, tell
        self._held = self.holds
        self._timer: asyncio.TimerHandle | None = None
        self._watch()

    @property
    def holds(self) -> bool:
        return self._now_s() < self._until_s

    def extend(self, until_s: float) -> None:
        if until_s <= self._until_s:
            return
        self._until_s = until_s
        self._tell(until_s)
        self._watch()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        held, self._held = self._held, self.holds
        self.close()
        if self._held:
            left_s = self._until_s - self._now_s()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(max(left_s, 0.01), _LOOK_AGAIN_S), self._watch)
        if self._held and not held:
            self._back()
        if held and not self._held:
            self._over()
