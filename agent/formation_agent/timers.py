"""What shall happen when, in the keeper's loop. Standard library only; the loop alone sleeps."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Timers:
    """One moment for each call; setting it again moves it."""

    def __init__(self) -> None:
        self._at_s: dict[Callable[[], None], float] = {}

    def __contains__(self, call: object) -> bool:
        return call in self._at_s

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        self._at_s[call] = time.monotonic() + delay_s

    def cancel(self, call: Callable[[], None]) -> None:
        self._at_s.pop(call, None)

    def clear(self) -> None:
        self._at_s.clear()

    def timeout_s(self) -> float:
        """Until the next one is due; -1 when there is none."""
        if not self._at_s:
            return -1
        return max(0.0, min(self._at_s.values()) - time.monotonic())

    def run(self) -> None:
        """Calls those that are due."""
        now_s = time.monotonic()
        for call in [call for call, at_s in self._at_s.items() if at_s <= now_s]:
            if self._at_s.pop(call, None) is not None:  # none before it has called it off
                call()
