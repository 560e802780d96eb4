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
        # Nothing before is known.
        self._began_ms = now_ms()
        self._news: dict[asyncio.Event, None] = {}
        live.listeners.append(self._hear)

    def _hear(self, before: World, after: World, changes: Sequence[Change]) -> None:
        if before.cluster is None:
            self._began_ms = self._now_ms()
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

    @property
    def reaches_ms(self) -> int:
        """What has happened since then is still here, as far as we saw it."""
        full = len(self._kept) == KEPT_MAX
        return self._kept[0].at_ms if full else self._began_ms

    def number_after(self, at_ms: int) -> int:
        """The number of the first event that was heard after that moment, or will be."""
        return next((event.number for event in self._kept if event.at_ms > at_ms), self._next)

    async def read_from(
        self, number: int, wanted: Callable[[Happening], bool]
    ) -> AsyncIterator[tuple[Sequence[Event], int]]:
        """From that one on, for ever, as `read` does."""
        news = asyncio.Event()
        self._news[news] = None
        try:
            async for read in self._follow(number, wanted, news):
                yield read
        finally:
            self._news.pop(news, None)

    def of(self, subject: str) -> list[Event]:
        """What is kept about one instance, host or app, oldest first."""
        return [event for event in self._kept if event.happening.subject == subject]

    async def read(
        self, wanted: Callable[[Happening], bool], *, tail: int, follow: bool
    ) -> AsyncIterator[tuple[Sequence[Event], int]]:
        """The last `tail` that are wanted, then, with `follow`, what comes; each time with how
        many were missed."""
        news = asyncio.Event()
        self._news[news] = None
        try:
            kept = [event for event in self._kept if wanted(event.happening)]
            seen = self._next
            yield kept[max(0, len(kept) - tail) :], 0
            if follow:
                async for read in self._follow(seen, wanted, news):
                    yield read
        finally:
            self._news.pop(news, None)

    async def _follow(
        self, seen: int, wanted: Callable[[Happening], bool], news: asyncio.Event
    ) -> AsyncIterator[tuple[Sequence[Event], int]]:
        while True:
            news.clear()
            events, missed = self._after(seen)
            if not events and not missed:
                await news.wait()
                continue
            seen = events[-1].number + 1
            chosen = [event for event in events if wanted(event.happening)]
            if chosen or missed:
                yield chosen, missed

    def _after(self, seen: int) -> tuple[list[Event], int]:
        """The next ones from that number on, and how many before them are gone."""
        if seen >= self._next:
            return [], 0
        oldest = self._kept[0].number
        start = max(seen, oldest)
        return list(islice(self._kept, start - oldest, start - oldest + BATCH_MAX)), start - seen
