"""The last events as this coordinator saw them, and whoever follows them. In memory, bounded.

A reader that is slow misses the oldest and is told how many; nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from formation_coordinator.happened import Happening, happened
from formation_coordinator.live import LiveWorld
from formation_coordinator.world import Change, World

log = logging.getLogger(__name__)

KEPT_MAX = 10_000
BATCH_MAX = 500


@dataclass(frozen=True, slots=True)
class Event:
    """`number`: one more with each, as long as this coordinator runs."""

    number: int
    at_ms: int
    happening: Happening


class Chronicle:
    def __init__(self, live: LiveWorld, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._kept: deque[Event] = deque(maxlen=KEPT_MAX)
        self._next = 1
        self._news: set[asyncio.Event] = set()
        live.listeners.append(self._hear)

    def _hear(self, before: World, after: World, changes: Sequence[Change]) -> None:
        if before.cluster is None:
            return  # everything that there is, as it is read for the first time
        try:
            found = list(happened(before, after, changes))
        except Exception:  # who tells stories must not stop what they are about
            log.exception("a bug: a change cannot be told")
            return
        if not found:
            return
        at_ms = self._now_ms()
        for happening in found:
            self._kept.append(Event(self._next, at_ms, happening))
            self._next += 1
        for news in self._news:
            news.set()

    async def read(
        self, wanted: Callable[[Happening], bool], *, tail: int, follow: bool
    ) -> AsyncIterator[tuple[Sequence[Event], int]]:
        """The last `tail` that are wanted, then, with `follow`, what comes; each time with how
        many were missed."""
        news = asyncio.Event()
        self._news.add(news)
        try:
            kept = [event for event in self._kept if wanted(event.happening)]
            seen = self._next
            yield kept[max(0, len(kept) - tail) :], 0
            while follow:
                news.clear()
                events, missed = self._after(seen)
                if not events and not missed:
                    await news.wait()
                    continue
                seen = events[-1].number + 1
                chosen = [event for event in events if wanted(event.happening)]
                if chosen or missed:
                    yield chosen, missed
        finally:
            self._news.discard(news)

    def _after(self, seen: int) -> tuple[list[Event], int]:
        """The next ones from that number on, and how many before them are gone."""
        if seen >= self._next:
            return [], 0
        oldest = self._kept[0].number
        start = max(seen, oldest)
        return list(islice(self._kept, start - oldest, start - oldest + BATCH_MAX)), start - seen
