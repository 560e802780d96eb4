"""Reads one slot's log files as one sequence of records, across rotation, back and forth in time.

Reads only. It must run in the thread that writes, between two writes: then names and contents of
the files agree. A cursor keeps the file that it is in open, so a rotation cannot take it away.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from formation.gaps import Gap, words
from formation.model import Slot
from formation_agent.logfile import LINE_BYTES_MAX, Tally, parse_stamp, parse_tag

_BLOCK_BYTES = 2 * LINE_BYTES_MAX  # more than the longest record
_STAMP = 27


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`text` has no newline; `partial` when the stream had none here either. With a `gap` it is no
    line of the process: `missing` ones were here, 0 when nobody knows how many."""

    slot: Slot
    host: str
    at_us: int
    stderr: bool
    text: bytes
    partial: bool = False
    gap: Gap = Gap.NONE
    missing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Behind the first `lines` lines of the time `at_us`. Times are compared for equality only:
    a clock that was set back loses nobody a line."""

    at_us: int
    lines: int


class Cursor:
    """A place in one slot's log."""

    def __init__(self, slot: Slot, host: str, path: str, tally: Tally | None = None) -> None:
        self._slot = slot
        self._host = host
        self._path = path
        self._fd = -1
        self._inode = -1
        self._offset = 0
        self._tally = tally
        self._newest_of = -1  # we are in the newest file as long as no other was opened
        self.is_at_end = False  # the last lines that were read were the last that there were
        self._skipped = False  # the last step went over files that are gone
        self._missing: int | None = None
        self._owed = Gap.NONE  # to be told before the first line
        self._last_stamp = b""
        self._last_at_us = 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def seek_tail(self, lines: int) -> None:
        """Before the last `lines` lines; -1: before everything that is kept."""
        for path in self._newest_first():
            self._enter(path)
            if lines < 0:
                continue
            size = os.fstat(self._fd).st_size
            self._offset, found = _offset_of_last(self._fd, size, lines)
            lines -= found
            if lines == 0:
                return

    def seek_time(self, at_us: int) -> None:
        """Before the first line of that time or later; somewhere before it where the clock was
        set back."""
        for path in self._newest_first():
            self._enter(path)
            first = self._stamp_behind(0)
            if first is not None and first < at_us:
                self._offset = self._bisect(at_us)
                return

    def _bisect(self, at_us: int) -> int:
        """A place in this file, less than a block before the first such line."""
        low, high = 0, os.fstat(self._fd).st_size
        while high - low > _BLOCK_BYTES:
            middle = (low + high) // 2
            found = self._stamp_behind(middle)
            if found is not None and found < at_us:
                low = middle
            else:
                high = middle
        return self._line_start(low)

    def _line_start(self, offset: int) -> int:
        """Of the first line that begins behind it."""
        if offset == 0:
            return 0
        data = os.pread(self._fd, _BLOCK_BYTES, offset)
        return offset + data.find(b"\n") + 1

    def _stamp_behind(self, offset: int) -> int | None:
        """The time of the first line that begins there or behind it, if it is one of ours."""
        start = self._line_start(offset)
        try:
            return parse_stamp(os.pread(self._fd, _STAMP, start))
        except ValueError:
            return None

    def seek_behind(
        self, place: Place, lines_max: int, counts: Callable[[Line], bool] = bool
    ) -> None:
        """Behind `place`, but at most `lines_max` lines before the end. `counts`: which lines its
        number is of."""
        self.seek_tail(lines_max + place.lines)
        count = behind = found = 0
        cut = False
        for count, line in enumerate(self.history(), 1):
            if line.at_us == place.at_us and counts(line):
                found += 1
                cut = cut or count == 1
                behind = count if found <= place.lines else behind
        if not found or (cut and count >= lines_max + place.lines):
            behind = max(count - lines_max, 0)  # it is further back than we may go
            self._owed = Gap.AWAY if behind else Gap.ROTATED
        self.seek_tail(count - behind)
        self._last_stamp, self._last_at_us = b"", place.at_us

    def history(self) -> Iterator[Line]:
        """From here to where the log ends now, however much is written meanwhile."""
        if self._owed is not Gap.NONE:
            owed, self._owed = self._owed, Gap.NONE
            yield self._gap(owed)
        try:
            end = os.stat(self._path)
        except FileNotFoundError:
            return
        while not (self._inode == end.st_ino and self._offset >= end.st_size):
            lines = self._next(end.st_size if self._inode == end.st_ino else None)
            if not lines:
                return
            yield from lines

    def new(self) -> list[Line]:
        """The next lines, some 100 kB of them; empty when there are none at present."""
        return self._next(None)

    def _next(self, limit: int | None) -> list[Line]:
        lines = self._block(limit)
        while not lines:
            began = self._inode >= 0
            if not self._advance():
                return []
            is_gap = began and self._skipped and self._missing != 0
            lines = [self._gap(Gap.ROTATED, self._missing or 0)] if is_gap else self._block(None)
        return lines

    def _gap(self, gap: Gap, missing: int = 0) -> Line:
        return Line(
            slot=self._slot,
            host=self._host,
            at_us=self._last_at_us,
            stderr=True,
            text=b"[formation] " + words(gap, missing=missing).encode(),
            gap=gap,
            missing=missing,
        )

    def _block(self, limit: int | None) -> list[Line]:
        """Lines from the present file alone."""
        if self._fd < 0:
            return []
        size = _BLOCK_BYTES if limit is None else min(_BLOCK_BYTES, limit - self._offset)
        data = os.pread(self._fd, size, self._offset)
        end = data.rfind(b"\n") + 1
        if not end and len(data) == _BLOCK_BYTES:
            end = len(data)  # nothing of ours; pass it on in pieces
        if not end:
            return []
        self._offset += end
        self.is_at_end = len(data) < size and end == len(data) and self._is_newest()
        return [self._parse(record) for record in data[:end].removesuffix(b"\n").split(b"\n")]

    def _parse(self, record: bytes) -> Line:
        stamp = record[:_STAMP]
        if stamp != self._last_stamp:  # all lines of one chunk have the same
            try:
                self._last_at_us = parse_stamp(stamp)
            except ValueError:
                return self._line_of(record, self._last_at_us, stderr=False)
            self._last_stamp = stamp
        parsed = parse_tag(record)
        if parsed is None:
            return self._line_of(record, self._last_at_us, stderr=False)
        stderr, partial, text = parsed
        return self._line_of(text, self._last_at_us, stderr=stderr, partial=partial)

    def _line_of(self, text: bytes, at_us: int, *, stderr: bool, partial: bool = False) -> Line:
        return Line(
            slot=self._slot,
            host=self._host,
            at_us=at_us,
            stderr=stderr,
            text=text,
            partial=partial,
        )

    def _newest_first(self) -> list[str]:
        paths = [self._path] if os.path.exists(self._path) else []
        number = 1
        while os.path.exists(older := f"{self._path}.{number}"):
            paths.append(older)
            number += 1
        return paths

    def _advance(self) -> bool:
        """Goes on to the next newer file; False when this is the newest."""
        if self._is_newest():
            return False
        paths = self._newest_first()
        inodes = [os.stat(path).st_ino for path in paths]
        self._skipped = self._inode not in inodes
        place = len(inodes) if self._skipped else inodes.index(self._inode)
        if place:
            if self._skipped:
                tally = self._tally or Tally()
                self._missing = tally.between(self._inode, len(inodes))
            self._enter(paths[place - 1])
        if self._tally is not None and (place == 1 or not (place or self._skipped)):
            self._newest_of = self._tally.opened
        return place > 0

    def _is_newest(self) -> bool:
        """Surely: nobody but the writer, whose tally this is, makes other files."""
        return self._tally is not None and self._newest_of == self._tally.opened

    def _enter(self, path: str) -> None:
        self.close()
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._inode = os.fstat(self._fd).st_ino
        self._offset = 0
        self._newest_of = -1


def _offset_of_last(fd: int, size: int, lines: int) -> tuple[int, int]:
    """Where the last `lines` lines of a file begin, and how many of them it has."""
    found, end = 0, size
    if lines == 0:
        return size, 0
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        data = os.pread(fd, end - start, start)
        here = data.count(b"\n")
        if found + here > lines:
            place = len(data)
            for _ in range(lines - found + 1):
                place = data.rfind(b"\n", 0, place)
            return start + place + 1, lines
        found += here
        end = start
    return 0, found
