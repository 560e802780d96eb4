"""What has changed since somebody last asked: a map, not a queue, so it never grows over the table.

Knows uids and nothing about them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    changed_uids: tuple[str, ...]
    gone_uids: tuple[str, ...]


class News:
    """`event` is set while there is something to take."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self._changed: dict[str, None] = {}
        self._gone: dict[str, None] = {}

    def changed(self, uid: str) -> None:
        self._gone.pop(uid, None)  # back again
        self._changed[uid] = None
        self.event.set()

    def gone(self, uid: str) -> None:
        self._changed.pop(uid, None)
        self._gone[uid] = None
        self.event.set()

    def take(self) -> Taken:
        taken = Taken(changed_uids=tuple(self._changed), gone_uids=tuple(self._gone))
        self._changed.clear()
        self._gone.clear()
        self.event.clear()
        return taken
