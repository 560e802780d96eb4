"""What an agent that finds no process of its own does not start at once: word may come that it was
moved meanwhile. A part of the supervisor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

_LOOK_AGAIN_S = 0.1


class Hold:
    """`start` starts one of them. `busy`: orders have come and are being written down."""

    def __init__(
        self, wait_s: float, start: Callable[[str], None], busy: Callable[[], bool]
    ) -> None:
        self._wait_s, self._start, self._busy = wait_s, start, busy
        self._uids: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __contains__(self, uid: str) -> bool:
        return uid in self._uids

    def add(self, uids: Iterable[str]) -> None:
        self._uids.update(uids)

    def begin(self) -> None:
        """From now on for a moment; nothing to do when nothing is held."""
        if self._uids:
            self._timer = asyncio.get_running_loop().call_later(self._wait_s, self._waited)

    def _waited(self) -> None:
        if self._busy():
            self._timer = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._waited)
        else:
            self.let_go()

    def let_go(self) -> None:
        """No word came, or it has come: what was held back starts, if it is still wanted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        uids, self._uids = self._uids, set()
        for uid in sorted(uids):
            self._start(uid)
