"""When the keeper may forget an end: at once, or when the disk knows that it was the last one."""

from __future__ import annotations

from collections.abc import Callable


class Forgetting:
    """`forget` tells the keeper; `once_written` calls back when the journal is on disk."""

    def __init__(
        self, forget: Callable[[str], None], once_written: Callable[[Callable[[], None]], None]
    ) -> None:
        self._forget = forget
        self._once_written = once_written
        self._waiting: set[str] = set()

    def now(self, key: str) -> None:
        """Something else is started in its place, or will be."""
        self._waiting.discard(key)
        self._forget(key)

    def once_known(self, key: str) -> None:
        """It shall never run again: somebody must know that it has, the keeper until the disk."""
        self._waiting.add(key)
        self._once_written(lambda: self.at_last(key))

    def at_last(self, key: str) -> None:
        """`now`, if the keeper still remembers it for us."""
        if key in self._waiting:
            self.now(key)
