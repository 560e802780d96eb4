"""What the map has looked like lately: pictures of everything, and what changed after each. Pure.

Bounded in time and in bytes: the oldest part goes first. Nothing is known of before this
coordinator began to look.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

KEPT_MS = 3_600_000
BYTES_MAX = 32 << 20
# A part gets no longer than this, so that going back in it is quick.
PART_MS, PART_BYTES = 300_000, 1 << 20
# More news than this cost more than everything anew.
BEHIND_BYTES_MAX = 512 << 10


@dataclass(frozen=True, slots=True)
class Change:
    number: int
    at_ms: int
    data: bytes


@dataclass(slots=True)
class Part:
    """`whole`: the picture, packed, as it was at `number`."""

    number: int
    at_ms: int
    whole: bytes
    changes: list[Change] = field(default_factory=list)
    bytes: int = 0


class Album:
    def __init__(self, *, kept_ms: int = KEPT_MS, bytes_max: int = BYTES_MAX) -> None:
        self._kept_ms, self._bytes_max = kept_ms, bytes_max
        self._parts: deque[Part] = deque()
        self._recent: deque[Change] = deque()
        self._recent_bytes = self.bytes = 0
        self.number = 0

    @property
    def since_ms(self) -> int:
        """From when on something is known; 0: of nothing."""
        return self._parts[0].at_ms if self._parts else 0

    def add(self, at_ms: int, data: bytes) -> None:
        """A change; its number is one more than that of the one before."""
        self.number += 1
        change = Change(self.number, at_ms, data)
        self._recent.append(change)
        self._recent_bytes += len(data)
        while self._recent_bytes > BEHIND_BYTES_MAX and len(self._recent) > 1:
            self._recent_bytes -= len(self._recent.popleft().data)
        if self._parts:
            part = self._parts[-1]
            part.changes.append(change)
            part.bytes += len(data)
            self.bytes += len(data)
        self._forget(at_ms)

    def wants_picture(self, at_ms: int) -> bool:
        """Is it time to begin another part?"""
        if not self._parts:
            return True
        part = self._parts[-1]
        long = at_ms - part.at_ms > PART_MS and bool(part.changes)
        return long or part.bytes > max(PART_BYTES, len(part.whole))

    def begin(self, at_ms: int, whole: bytes) -> None:
        """`whole`: the picture after all that was added."""
        self._parts.append(Part(self.number, at_ms, whole, bytes=len(whole)))
        self.bytes += len(whole)
        self._forget(at_ms)

    def after(self, number: int) -> Sequence[Change] | None:
        """What came later; None when that is not known any more, or was never so."""
        if number == self.number:
            return ()
        if not self._recent or not self._recent[0].number - 1 <= number < self.number:
            return None
        return list(islice(self._recent, number + 1 - self._recent[0].number, None))

    def past(self, at_ms: int) -> tuple[Part, int | None] | None:
        """The part with that time, or the oldest one, and when the one after it begins."""
        found: tuple[Part, int | None] | None = None
        later: int | None = None
        for part in reversed(self._parts):
            found = part, later
            if part.at_ms <= at_ms:
                break
            later = part.at_ms
        return found

    def _forget(self, now_ms: int) -> None:
        """The last part stays."""
        while len(self._parts) > 1 and (
            self.bytes > self._bytes_max or self._parts[1].at_ms < now_ms - self._kept_ms
        ):
            self.bytes -= self._parts.popleft().bytes
