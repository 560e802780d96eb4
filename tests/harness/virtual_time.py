"""An event loop whose clock jumps to the next timer: for tests over in-memory fakes only.

With real sockets or processes under it, every timeout would come at once.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: what it is asked to wait is added to the clock."""

    now_s = 0.0
    ends_s = math.inf

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("every task waits for something that never comes")
        self.now_s += 0.0 if ready else timeout or 0.0
        if self.now_s > self.ends_s:
            raise AssertionError("a task goes on although it was cancelled")
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s

    def begin_at(self, now_s: float) -> None:
        self._clock.now_s = now_s

    def end_before(self, ends_s: float) -> None:
        self._clock.ends_s = ends_s


def run_in_virtual_time(story: Coroutine[Any, Any, T]) -> T:
    """Hours pass in milliseconds; `asyncio.get_running_loop().time` is the clock to hand out."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(story)
