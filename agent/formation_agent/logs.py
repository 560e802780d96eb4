"""The log room of one agent: from the children's pipes into files, and from the files to readers.

Writing: what a pipe holds is read as soon as the loop comes to it and is in the file before the
next read, so memory stays bounded and a child that writes faster than the disk waits in its own
`write`. A full disk drops bytes, counts them and says so in the log. Reading: readers follow the
files, never the pipes, so a slow one costs nobody anything.

It knows slots and streams, nothing of processes. One event loop, no other threads or tasks.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import re
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from formation.model import Slot
from formation_agent.logchoice import LogChoice
from formation_agent.logfile import LINE_BYTES_MAX, LineCutter, LogFile, Tally, stamp, text_bytes
from formation_agent.logfile_reader import Cursor, Line, Place

__all__ = ["Line", "LogBatch", "Logs", "Place", "Resume"]

_FILE_NAME = re.compile(r"([A-Za-z0-9_-]+)\.([0-9]+)\.log")
_BATCH_LINES, _BATCH_BYTES = 500, 256 * 1024
# So many slots, and so many lines, are looked through at once.
_SLOTS_AT_ONCE = 20
_LOOKED_AT_MAX = 2_000
# More than that of one slot are not held in memory: who asks for more gets all.
_FOUND_MAX = 10_000
_LEFT_IN_PIPE_MAX = 1 << 20  # the largest pipe that an unprivileged user can make
_TYPES_MAX = 1_000
# As much as a slot may have written while its reader was away.
GAP_LINES_MAX = 10_000
# Who follows gets the first line at once, and what comes then in so many batches a second at most.
BATCH_EVERY_S = 0.05

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogBatch:
    """`at_us`: with `history_done`, when that was."""

    lines: tuple[Line, ...]
    history_done: bool = False
    at_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where a reader was: slots in `seen` go on there, the others after the time `since_us`."""

    seen: Mapping[Slot, Place] = field(default_factory=dict)
    since_us: int = 0


@dataclass(slots=True)
class Written:
    """Of all instances of one type."""

    lines: int = 0
    bytes: int = 0
    dropped_bytes: int = 0


@dataclass(slots=True, kw_only=True)
class _Dropped:
    """What a full disk did not take and the log does not say yet."""

    size: int = 0
    reason: str = ""


class _SlotLog:
    """The open pipes of one slot and the file that they go to."""

    def __init__(
        self,
        slot: Slot,
        file: LogFile,
        now_us: Callable[[], int],
        dropped: _Dropped,
        written: Written,
    ) -> None:
        self._slot = slot
        self._file = file
        self._now_us = now_us
        self._dropped, self._written = dropped, written
        self.streams: dict[int, LineCutter] = {}
        self.read_bytes = 0
        self.done = asyncio.Event()

    def take(self, fd: int, chunk: bytes) -> None:
        self.read_bytes += len(chunk)
        self._written.bytes += len(chunk)
        self._written.lines += chunk.count(b"\n")
        now = stamp(self._now_us())
        self._append(self.streams[fd].records(chunk, now), now)

    def end(self, fd: int) -> None:
        now = stamp(self._now_us())
        self._append(self.streams.pop(fd).last_record(now), now)
        os.close(fd)
        if not self.streams:
            self.done.set()

    def note(self, text: str) -> None:
        now = stamp(self._now_us())
        self._append(_note(now, text), now)

    def mend(self) -> None:
        """Says what was dropped, if there is room for that now."""
        self._append(b"", stamp(self._now_us()))

    def close(self) -> None:
        self._file.close()

    def _append(self, records: bytes, now: bytes) -> None:
        dropped = self._dropped
        if dropped.size:
            if self._file.append(_note(now, f"dropped {dropped.size} bytes: {dropped.reason}")):
                self._drop(text_bytes(records))
                return
            dropped.size = 0
        left = self._file.append(records)
        if left:
            dropped.reason = self._file.problem
            log.warning("%s: log lines are dropped: %s", self._slot, dropped.reason)
            self._drop(text_bytes(left))

    def _drop(self, size: int) -> None:
        self._dropped.size += size
        self._written.dropped_bytes += size


class _Follower:
    """Which slots have news for one reader: a set, so it cannot grow beyond the slots."""

    def __init__(self, wanted: Callable[[Slot], bool]) -> None:
        self._wanted = wanted
        self.dirty: set[Slot] = set()
        self.news = asyncio.Event()

    def poke(self, slot: Slot) -> None:
        if slot not in self.dirty and self._wanted(slot):
            self.dirty.add(slot)
            self.news.set()


class Logs:
    """`<directory>/<app>/<type>.<ordinal>.log`, rotated at `max_bytes`, `files` of them in all."""

    def __init__(
        self,
        directory: Path | str,
        *,
        max_bytes: int,
        files: int,
        host: str,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._directory = str(directory)
        self._max_bytes = max_bytes
        self._files = files
        self._host = host
        self._now_us = now_us
        self._open: dict[Slot, _SlotLog] = {}
        # Outlives the process that wrote it: the note is written when there is room again.
        self._dropped: dict[Slot, _Dropped] = {}
        self._tallies: WeakValueDictionary[Slot, Tally] = WeakValueDictionary()
        self.written: dict[tuple[str, str], Written] = {}
        self._followers: set[_Follower] = set()
        self._closed = self._finishing = False

    # --- writing --------------------------------------------------------------------------------

    def attach(self, slot: Slot, stdout_fd: int, stderr_fd: int) -> None:
        """Takes both pipes over (-1: there is none); ends what was attached to the slot before."""
        self.close_pipes(slot)
        slot_log = self._slot_log(slot)
        slot_log.mend()
        loop = asyncio.get_running_loop()
        for fd, stderr in ((stdout_fd, False), (stderr_fd, True)):
            if fd >= 0:
                os.set_blocking(fd, False)
                slot_log.streams[fd] = LineCutter(stderr=stderr)
                loop.add_reader(fd, self._on_readable, slot, slot_log, fd)
        if slot_log.streams:
            self._open[slot] = slot_log
        else:
            self._close(slot, slot_log)

    async def drained(self, slot: Slot, timeout_s: float) -> bool:
        """True when both pipes are at their end (or none is attached), False after `timeout_s`."""
        slot_log = self._open.get(slot)
        if slot_log is None:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await slot_log.done.wait()
        except TimeoutError:
            return False
        return True

    def close_pipes(self, slot: Slot) -> None:
        """Reads what is in the pipes now, then closes them, whoever still holds the other end."""
        slot_log = self._open.get(slot)
        if slot_log is None:
            return
        for fd in list(slot_log.streams):
            read_bytes = 0
            while read_bytes < _LEFT_IN_PIPE_MAX and (chunk := _read(fd)):
                read_bytes += len(chunk)
                slot_log.take(fd, chunk)
            self._end(slot, slot_log, fd)

    def read_bytes(self, slot: Slot) -> int:
        """How much the pipes that are attached now have brought, whatever became of it."""
        slot_log = self._open.get(slot)
        return slot_log.read_bytes if slot_log is not None else 0

    def note(self, slot: Slot, text: str) -> None:
        """A line of our own in the slot's log."""
        slot_log = self._open.get(slot) or self._slot_log(slot)
        slot_log.note(text)
        if not slot_log.streams:
            self._close(slot, slot_log)
        self._poke(slot)

    def finish(self) -> None:
        """Nothing more is written: readers that follow end when they have read all."""
        self._finishing = True
        for follower in self._followers:
            follower.news.set()

    def close(self) -> None:
        """Ends pipes and readers; what was in the pipes is in the files."""
        self._closed = True
        for slot in list(self._open):
            self.close_pipes(slot)
        for follower in self._followers:
            follower.news.set()

    def _slot_log(self, slot: Slot) -> _SlotLog:
        file = LogFile(
            self._path(slot),
            max_bytes=self._max_bytes,
            files=self._files,
            tally=self._tally(slot),
        )
        dropped = self._dropped.setdefault(slot, _Dropped())
        kind = slot.app, slot.type
        if kind not in self.written and len(self.written) >= _TYPES_MAX:
            kind = ("_others", "_others")
        written = self.written.setdefault(kind, Written())
        return _SlotLog(slot, file, self._now_us, dropped, written)

    def _tally(self, slot: Slot) -> Tally:
        """One for the writer and all readers of a slot, for as long as there are any."""
        found = self._tallies.get(slot)
        if found is None:
            self._tallies[slot] = found = Tally()
        return found

    def _path(self, slot: Slot) -> str:
        if "/" in slot.app + slot.type or slot.app in {"", ".", ".."}:
            raise ValueError(f"no file can be named after {slot}")
        return os.path.join(self._directory, slot.app, f"{slot.short}.log")

    def _on_readable(self, slot: Slot, slot_log: _SlotLog, fd: int) -> None:
        chunk = _read(fd)
        if chunk:
            slot_log.take(fd, chunk)
            self._poke(slot)
        elif chunk is not None:
            self._end(slot, slot_log, fd)

    def _end(self, slot: Slot, slot_log: _SlotLog, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        slot_log.end(fd)
        if not slot_log.streams:
            del self._open[slot]
            self._close(slot, slot_log)
        self._poke(slot)

    def _close(self, slot: Slot, slot_log: _SlotLog) -> None:
        slot_log.close()
        if not self._dropped[slot].size:
            del self._dropped[slot]

    def _poke(self, slot: Slot) -> None:
        for follower in self._followers:
            follower.poke(slot)

    # --- reading --------------------------------------------------------------------------------

    async def read(
        self,
        choice: LogChoice,
        *,
        tail_lines: int,
        follow: bool,
        resume: Resume | None = None,
    ) -> AsyncGenerator[LogBatch, None]:
        """The last `tail_lines` chosen of every slot that is wanted (-1: all), merged by time.

        With `resume`, from there on, at most `GAP_LINES_MAX` lines of each slot that was seen.
        Then one batch with `history_done`; then, with `follow`, what comes, also from slots that
        appear later.
        """
        follower = _Follower(choice.wants)
        resume = resume or Resume()
        cursors: dict[Slot, Cursor] = {}
        found: dict[Slot, list[Line] | None] = {}
        try:
            self._followers.add(follower)
            for slot in self._kept(choice.wants):
                cursors[slot] = self._cursor(slot)
                if (place := resume.seen.get(slot)) is None:
                    found[slot] = await _found(cursors[slot], choice, tail_lines)
                else:
                    cursors[slot].seek_behind(place, GAP_LINES_MAX, choice.takes)
                    await asyncio.sleep(0)
            missed = (
                _missed(slot, _lines(cursor, found.get(slot)), resume)
                for slot, cursor in cursors.items()
            )
            lines = heapq.merge(*missed, key=_at_us)
            for batch in _batches(lines, choice):
                if batch.lines:
                    yield batch
                await asyncio.sleep(0)  # a long history must not hold the loop
            yield LogBatch(lines=(), history_done=True, at_us=self._now_us())
            if follow:
                async for batch in self._follow(follower, cursors, choice):
                    yield batch
        finally:
            self._followers.discard(follower)
            for cursor in cursors.values():
                cursor.close()

    async def _follow(
        self, follower: _Follower, cursors: dict[Slot, Cursor], choice: LogChoice
    ) -> AsyncIterator[LogBatch]:
        follower.dirty.update(cursors)  # what was written during the history
        loop = asyncio.get_running_loop()
        while not self._closed:
            due_s = loop.time() + BATCH_EVERY_S
            async for batch in self._round(follower, cursors, choice):
                yield batch
            if not follower.dirty:
                if self._finishing:
                    return
                follower.news.clear()
                await follower.news.wait()
            # A thousand lines of a thousand slots shall not be a thousand messages.
            if not self._closed and (wait_s := due_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)

    async def _round(
        self, follower: _Follower, cursors: dict[Slot, Cursor], choice: LogChoice
    ) -> AsyncIterator[LogBatch]:
        """One block of each slot that has news: a flood of one does not starve the others."""
        dirty, follower.dirty = sorted(follower.dirty), set()
        batch: list[Line] = []
        size = 0
        for number, slot in enumerate(dirty, 1):
            if slot not in cursors:
                cursors[slot] = self._cursor(slot)
            lines = cursors[slot].new()
            if lines:
                if not cursors[slot].is_at_end:
                    follower.dirty.add(slot)
                taken = lines if choice.takes_all else list(filter(choice.takes, lines))
                batch += taken
                size += sum(len(line.text) for line in taken)
            if len(batch) >= _BATCH_LINES or size >= _BATCH_BYTES:
                yield LogBatch(lines=tuple(batch))
                batch, size = [], 0
            if number % _SLOTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        if batch:
            yield LogBatch(lines=tuple(batch))

    def _cursor(self, slot: Slot) -> Cursor:
        return Cursor(slot, self._host, self._path(slot), self._tally(slot))

    def kept(self) -> list[Slot]:
        """Of which there is a log here."""
        return self._kept(lambda _: True)

    def _kept(self, wanted: Callable[[Slot], bool]) -> list[Slot]:
        """The slots that have a log here and match."""
        found = []
        for app in _names(self._directory):
            for name in _names(os.path.join(self._directory, app)):
                match = _FILE_NAME.fullmatch(name)
                if match and wanted(slot := Slot(app, match[1], int(match[2]))):
                    found.append(slot)
        return sorted(found)


def _lines(cursor: Cursor, found: list[Line] | None) -> Iterable[Line]:
    return cursor.history() if found is None else found


def _missed(slot: Slot, lines: Iterable[Line], resume: Resume) -> Iterator[Line]:
    if slot in resume.seen:
        return iter(lines)
    return (line for line in lines if line.at_us > resume.since_us)


def _read(fd: int) -> bytes | None:
    """b"" at the end of the pipe, None when it is empty."""
    try:
        return os.read(fd, LINE_BYTES_MAX)
    except BlockingIOError:
        return None


def _note(now: bytes, text: str) -> bytes:
    return b"%bE [formation] %b\n" % (now, text.replace("\n", " ").encode("utf-8", "replace"))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _at_us(line: Line) -> int:
    return line.at_us


def _batches(lines: Iterator[Line], choice: LogChoice) -> Iterator[LogBatch]:
    """Empty ones, too, where much was looked through in vain: the loop shall have its turn."""
    batch: list[Line] = []
    size = looked_at = 0
    for line in lines:
        looked_at += 1
        if choice.takes(line):
            batch.append(line)
            size += len(line.text)
        if len(batch) >= _BATCH_LINES or size >= _BATCH_BYTES or looked_at >= _LOOKED_AT_MAX:
            yield LogBatch(lines=tuple(batch))
            batch, size, looked_at = [], 0, 0
    if batch:
        yield LogBatch(lines=tuple(batch))


async def _found(cursor: Cursor, choice: LogChoice, tail_lines: int) -> list[Line] | None:
    """The last lines that are chosen; None when the cursor is before what is wanted instead."""
    if choice.takes_all or tail_lines == 0:
        cursor.seek_tail(tail_lines)
        return None
    if choice.not_before_us:
        cursor.seek_time(choice.not_before_us)
    else:
        cursor.seek_tail(-1)
    if tail_lines < 0 or tail_lines > _FOUND_MAX:
        return None
    found: deque[Line] = deque(maxlen=tail_lines)
    for number, line in enumerate(cursor.history(), 1):
        if choice.takes(line):
            found.append(line)
        if number % _LOOKED_AT_MAX == 0:
            await asyncio.sleep(0)
    return list(found)
