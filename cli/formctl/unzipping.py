"""Unpacks a zip that somebody else made, by the rules for a tar.gz.

Only stored and deflated entries: these can be read a bounded piece at a time. What an entry is, a
link or a program, a zip says only if it was made on a Unix.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import IO, cast

from formation.artifacts import Entry, Kind, Limits, UnsafeArchive
from formation.unpacktree import Tree, Unpacked, making

# What Finder of macOS puts beside the files it packs.
_FINDERS = "__MACOSX/"
_UNIXES = (3, 19)  # create_system: Unix, and macOS
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Of the list at a zip's end, which is read as a whole: 46 bytes, the name, and what else it says.
_LISTED_BYTES = 256
_END_BYTES = 1 << 17
_BROKEN = (
    *(zipfile.BadZipFile, EOFError, zlib.error, struct.error, ValueError, OverflowError),
    *(NotImplementedError, RuntimeError),
)


def unzip(archive: Path, directory: Path, *, limits: Limits | None = None) -> Unpacked:
    """As `formation.unpacking.unpack`. Raises `UnsafeArchive`, OSError."""
    limits = limits or Limits()
    with making(directory), archive.open("rb") as raw:
        tree = Tree(directory, limits, os.fstat(raw.fileno()).st_size)
        try:
            _read_zip(raw, tree, limits)
        except _BROKEN as error:
            raise UnsafeArchive(f"no good zip: {error or type(error).__name__}") from None
        return tree.finish()


class _Bounded:
    """The file, of which nobody reads too much at once."""

    def __init__(self, raw: IO[bytes], read_max: int) -> None:
        self._raw, self._read_max = raw, read_max
        self.seek, self.tell, self.seekable = raw.seek, raw.tell, raw.seekable

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            at = self._raw.tell()
            size = os.fstat(self._raw.fileno()).st_size - at
        if size > self._read_max:
            raise UnsafeArchive("a list of entries that is too long")
        return self._raw.read(size)


def _read_zip(raw: IO[bytes], tree: Tree, limits: Limits) -> None:
    bounded = _Bounded(raw, max(_END_BYTES, _LISTED_BYTES * limits.entries_max))
    with zipfile.ZipFile(cast("IO[bytes]", bounded)) as zipped:
        for info in zipped.infolist():
            if not info.orig_filename.startswith(_FINDERS):
                tree.take(_entry(zipped, info, limits), partial(zipped.open, info))


def _entry(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, limits: Limits) -> Entry:
    # As it is in there: `filename` ends at a NUL.
    name = info.orig_filename
    if wrong := _wrong(info):
        raise UnsafeArchive(f"{ascii(name[:80])[1:-1]}: {wrong}")
    mode = info.external_attr >> 16 if info.create_system in _UNIXES else 0
    kind, what = _kind(name, mode)
    target = ""
    if kind is Kind.LINK and info.file_size <= limits.target_bytes_max:
        with zipped.open(info) as words:
            target = words.read(limits.target_bytes_max).decode("utf-8", "surrogateescape")
    size_bytes = info.file_size if kind is Kind.FILE else 0
    return Entry(name=name, kind=kind, size_bytes=size_bytes, mode=mode, target=target, what=what)


def _wrong(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    if info.compress_type not in _METHODS:
        return "compressed in a way other than deflate"
    if "\\" in info.orig_filename:
        return "a backslash in its name"
    return "a directory with content" if _ends_as_directory(info) and info.file_size else ""


def _ends_as_directory(info: zipfile.ZipInfo) -> bool:
    return info.orig_filename.endswith("/")


def _kind(name: str, mode: int) -> tuple[Kind, str]:
    if stat.S_ISLNK(mode):
        return Kind.LINK, ""
    if name.endswith("/") or stat.S_ISDIR(mode):
        return Kind.DIRECTORY, ""
    if stat.S_IFMT(mode) in (0, stat.S_IFREG):
        return Kind.FILE, ""
    device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return Kind.OTHER, "device" if device else "FIFO" if stat.S_ISFIFO(mode) else "special file"
