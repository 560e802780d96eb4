"""Whether the writers' lines arrived as they were written: none lost, split, mixed or doubled.

Pure but for reading the files.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LINE_BYTES = 100  # with its newline
_LINE = re.compile(rb"(\d{8}) (\d{9}) x{80}\n")
_PREFIX_BYTES_MAX = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`broken`: lines of the output that are not exactly one line of a writer."""

    whole: int
    broken: int
    lost: int
    doubled: int

    @property
    def is_intact(self) -> bool:
        return not (self.broken or self.lost or self.doubled)

    def __str__(self) -> str:
        if self.is_intact:
            return "intact"
        parts = {"broken": self.broken, "lost": self.lost, "doubled": self.doubled}
        return ", ".join(f"{number:,} {word}" for word, number in parts.items() if number)


def check(output: Iterable[bytes], *, writers: int, lines: int, prefix: bytes = b"") -> Verdict:
    """`output` is what the supervisor made of `lines` lines of each of `writers` processes.

    What it puts before a line is its own business, unless that is a piece of another line or not
    the `prefix` that is asked for (a regular expression). Lines of its own are passed over.
    """
    wanted = re.compile(prefix or rb".{0,%d}" % _PREFIX_BYTES_MAX, re.DOTALL)
    seen: dict[bytes, bytearray] = {}
    broken = doubled = 0
    for text in output:
        match = _LINE.fullmatch(text, len(text) - LINE_BYTES)
        before = text[:-LINE_BYTES]
        if match is None or b"xxx" in before or not wanted.fullmatch(before):
            broken += b"xxx" in text
            continue
        of_writer = seen.setdefault(match[1], bytearray(lines))
        number = int(match[2])
        doubled += of_writer[number]
        of_writer[number] = 1
    whole = sum(map(sum, seen.values()))
    return Verdict(whole=whole, broken=broken, lost=writers * lines - whole, doubled=doubled)


def of_files(paths: Iterable[Path]) -> Iterable[bytes]:
    for path in paths:
        if path.is_file():
            with path.open("rb") as file:
                yield from file


def bytes_in(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # rotated away just now
            total += path.stat().st_size
    return total
