"""The keeper's part of an agent's lease: exclusive trees do not outlive it, come what may.

The brain stops them when the lease runs out, each with its grace. Here they are killed when the
grace is over too: a brain that hangs or was stopped must not keep a copy alive beside the one that
is started elsewhere. Used by the keeper alone; standard library only.

Time is CLOCK_BOOTTIME, which goes on while the machine sleeps; since timers do not, it is looked at
once a second while there is something to fence.
"""

from __future__ import annotations

import signal
import time

from formation_agent.brainprocess import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from formation_agent.children import Child, Children
    from formation_agent.timers import Timers

_LOOK_AGAIN_S = 1.0


def boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Fences:
    """`send(key, signum, whole_group)`; `until_s`: the lease as the program before this knew it."""

    def __init__(
        self, children: Children, timers: Timers, send: Callable[..., None], until_s: float
    ) -> None:
        self._children, self._timers, self._send = children, timers, send
        self.until_s = until_s

    def extend(self, until_s: float) -> None:
        self.until_s = max(self.until_s, until_s)
        self.look()

    def look(self) -> None:
        """Kills what is overdue; looks again when the next one may be."""
        now_s = boottime_s()
        fenced = [child for child in self._children if _is_fenced(child)]
        for child in fenced:
            if self._ends_at_s(child) <= now_s:
                say(f"{child.key} is exclusive and the lease is over: killing it")
                self._send(child.key, signal.SIGKILL, whole_group=True)
        if fenced:
            left_s = min(self._ends_at_s(child) for child in fenced) - now_s
            self._timers.after(min(max(left_s, 0.1), _LOOK_AGAIN_S), self.look)

    def _ends_at_s(self, child: Child) -> float:
        return self.until_s + child.fence_s


def _is_fenced(child: Child) -> bool:
    return child.fence_s >= 0 and not child.empty
