"""One slot's log file: its format, the cutting of streams into records, appending and rotation.

Knows no asyncio and no clock: bytes and times are given to it. Format, for plain tools to read:

    2026-11-22T02:33:45.123456Z O text of a line on standard output
    2026-11-22T02:33:45.123456Z E the same for standard error
    2026-11-22T02:33:45.123456Z OP text that was not ended by a newline here (EP for standard error)

P marks the pieces of a line over 64 KiB but its last, and a last line without a newline. Text is
the bytes of the process, unchanged. `web.1.log` is the newest file, `web.1.log.1` the one before.
"""

from __future__ import annotations

import os
import time
from collections import deque
from datetime import UTC, datetime

LINE_BYTES_MAX = 65536
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_STAMP_BYTES = 28  # with the blank after it
_TALLIED_FILES = 1_000
_TAGS = {b"O": (False, False), b"E": (True, False), b"OP": (False, True), b"EP": (True, True)}


def stamp(at_us: int) -> bytes:
    """RFC 3339 in UTC, and a blank."""
    seconds, micros = divmod(at_us, 1_000_000)
    return time.strftime(f"%Y-%m-%dT%H:%M:%S.{micros:06d}Z ", time.gmtime(seconds)).encode()


def parse_stamp(text: bytes) -> int:
    """Microseconds since 1970. Raises ValueError."""
    at = datetime.fromisoformat(text.decode("ascii"))
    if at.tzinfo is not UTC:
        raise ValueError(f"{text!r} is not in UTC")
    return int(at.timestamp()) * 1_000_000 + at.microsecond


def parse_tag(record: bytes) -> tuple[bool, bool, bytes] | None:
    """(stderr, partial, text) of a record, None when it is none of ours."""
    end = record.find(b" ", _STAMP_BYTES, _STAMP_BYTES + 3)
    kind = _TAGS.get(record[_STAMP_BYTES:end]) if end > 0 else None
    return None if kind is None else (*kind, record[end + 1 :])


def text_bytes(records: bytes) -> int:
    """About how much text of a process is in these records."""
    return len(records) - records.count(b"\n") * (_STAMP_BYTES + len(b"O "))


class LineCutter:
    """Makes whole records of one stream's chunks; holds at most one unfinished line.

    No loop over lines: this is the path of every byte that every child writes.
    """

    def __init__(self, *, stderr: bool) -> None:
        self._tag = b"E" if stderr else b"O"
        self._tail = bytearray()

    def records(self, chunk: bytes, stamp: bytes) -> bytes:
        """`chunk`: at most LINE_BYTES_MAX, so that only its first line can be too long."""
        assert len(chunk) <= LINE_BYTES_MAX
        end = chunk.rfind(b"\n") + 1
        if not end:
            self._tail += chunk
            return self._cut(stamp, LINE_BYTES_MAX)
        begin = 0
        out = b""
        prefix = b"%b%b " % (stamp, self._tag)
        if self._tail:
            begin = chunk.index(b"\n") + 1
            self._tail += chunk[:begin]
            out = self._cut(stamp, LINE_BYTES_MAX + 1) + prefix + bytes(self._tail)
        if begin < end:
            out += prefix + chunk[begin : end - 1].replace(b"\n", b"\n" + prefix) + b"\n"
        self._tail = bytearray(chunk[end:])
        return out

    def last_record(self, stamp: bytes) -> bytes:
        """At the end of the stream: what is left, if anything."""
        return self._cut(stamp, 0)

    def _cut(self, stamp: bytes, keep: int) -> bytes:
        out = b""
        while len(self._tail) > keep:
            out += b"%b%bP %b\n" % (stamp, self._tag, bytes(self._tail[:LINE_BYTES_MAX]))
            del self._tail[:LINE_BYTES_MAX]
        return out


class Tally:
    """How many records went into which file of one slot, so that somebody who was too slow can be
    told how many are gone. Knows the last files of this process' time; of others nothing."""

    def __init__(self) -> None:
        self.records = 0
        self.opened = 0  # how often the writer has begun with a file
        self._ends: deque[tuple[int, int]] = deque(maxlen=_TALLIED_FILES)

    def rotated(self, inode: int) -> None:
        """That file has got its last record."""
        self._ends.append((inode, self.records))

    def between(self, older: int, kept: int) -> int | None:
        """The records behind the file `older`, which is gone, and before the `kept` newest files;
        None when that is not known."""
        inodes = [inode for inode, _ in self._ends]
        if older not in inodes or len(inodes) < kept:
            return None
        # A number may come again when its file is gone; the reader has `older` open: its last use.
        last_use = len(inodes) - 1 - inodes[::-1].index(older)
        return max(self._ends[-kept][1] - self._ends[last_use][1], 0)


class LogFile:
    """Appends whole records, never parts of one; rotates at `max_bytes`, keeps `files` in all."""

    def __init__(
        self, path: str, *, max_bytes: int, files: int, tally: Tally | None = None
    ) -> None:
        self._path = path
        self._tally = tally or Tally()
        self._max_bytes = max_bytes
        self._files = max(files, 1)
        self._fd = -1
        self._size = 0
        self.problem = ""  # why the last append did not take everything

    def append(self, records: bytes) -> bytes:
        """Returns the records that could not be written; never raises for a bad disk."""
        self.problem = ""
        while records and not self.problem:
            try:
                self._open()
                fitting = self._fitting(records)
                if fitting:
                    records = records[self._write(records[:fitting]) :]
                else:
                    self._rotate()
            except OSError as error:
                self.problem = error.strerror or str(error)
        return records

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        if self._fd >= 0:
            return
        try:
            self._fd = os.open(self._path, _FLAGS, 0o640)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), mode=0o750, exist_ok=True)
            self._fd = os.open(self._path, _FLAGS, 0o640)
        self._tally.opened += 1
        self._size = os.fstat(self._fd).st_size
        # The writer before us may have been killed inside a write.
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            self._size += os.write(self._fd, b"\n")

    def _fitting(self, records: bytes) -> int:
        """How many bytes, in whole records, go into the present file; 0: none."""
        room = self._max_bytes - self._size
        if len(records) <= room:
            return len(records)
        fitting = records.rfind(b"\n", 0, max(room, 0)) + 1
        if not fitting and not self._size:
            return records.index(b"\n") + 1  # one record larger than a file shall be
        return fitting

    def _write(self, records: bytes) -> int:
        """How many bytes were written, in whole records."""
        written = 0
        try:
            while written < len(records):
                written += os.write(self._fd, records[written:] if written else records)
        except OSError as error:
            self.problem = error.strerror or str(error)
            written = self._take_back(records, written)
        self._size += written
        self._tally.records += records.count(b"\n", 0, written)
        return written

    def _take_back(self, records: bytes, written: int) -> int:
        """The beginning of a record that the full disk did not take whole."""
        whole = records.rfind(b"\n", 0, written) + 1
        try:
            os.ftruncate(self._fd, self._size + whole)
        except OSError:
            self.close()  # opening it again mends it
        return whole

    def _rotate(self) -> None:
        self._tally.rotated(os.fstat(self._fd).st_ino)
        self.close()
        for number in range(self._files - 1, 0, -1):
            older = f"{self._path}.{number}"
            newer = f"{self._path}.{number - 1}" if number > 1 else self._path
            if os.path.exists(newer):
                os.replace(newer, older)
        if self._files == 1:
            os.unlink(self._path)
        self._remove_surplus()

    def _remove_surplus(self) -> None:
        """Left from a time when more files were kept."""
        number = self._files
        while os.path.exists(surplus := f"{self._path}.{number}"):
            os.unlink(surplus)
            number += 1
