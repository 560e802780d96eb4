"""Unpacks a tar.gz that somebody else made. Writes below one directory and nowhere else.

What is admitted is said in `formation.artifacts`, and `formation.unpacktree` writes; this reads. Of
`tarfile` only its reading of headers is used, behind a reader with bounds: it takes what a header
says into memory.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, cast

from formation.artifacts import Entry, Kind, Limits, UnsafeArchive
from formation.unpacktree import COPY_BYTES, Cancelled, Tree, Unpacked, making

__all__ = ["Cancelled", "Unpacked", "unpack"]

_KINDS = {
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "FIFO",
    tarfile.LNKTYPE: "hard link",
}
_BROKEN = (
    *(tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError),
    RecursionError,  # headers of headers of headers
)


def unpack(
    archive: Path,
    directory: Path,
    *,
    limits: Limits | None = None,
    told: Callable[[int], None] = lambda done_bytes: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Unpacked:
    """Into `directory`, which it makes; nobody else may write where that is. On any error nothing
    is left of it. `told` hears how many bytes were written.

    Raises `UnsafeArchive`, `Cancelled`, OSError.
    """
    limits = limits or Limits()
    with making(directory), archive.open("rb") as raw:
        size_bytes = os.fstat(raw.fileno()).st_size
        tree = Tree(directory, limits, size_bytes, told=told, cancelled=cancelled)
        try:
            _read_tar(raw, tree, limits)
        except _BROKEN as error:
            raise UnsafeArchive(f"no good tar.gz: {error or type(error).__name__}") from None
        return tree.finish()


class _Bounded:
    """What comes out of gzip, read forwards only, with an end to it."""

    def __init__(self, source: IO[bytes], bytes_max: int, read_max: int) -> None:
        self._source, self._left, self._read_max, self._at = source, bytes_max, read_max, 0
        self._bytes_max = bytes_max

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self._read_max:
            raise UnsafeArchive("a header that is too long")
        data = self._source.read(size)
        self._at += len(data)
        self._left -= len(data)
        if self._left < 0:
            raise UnsafeArchive(f"more than {self._bytes_max} bytes come out of it")
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, to: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or to < self._at:
            raise UnsafeArchive("an archive that goes backwards")
        while self._at < to:
            if not self.read(min(COPY_BYTES, to - self._at)):
                raise UnsafeArchive("it ends in the middle")
        return self._at

    def seekable(self) -> bool:
        return True


def _read_tar(raw: IO[bytes], tree: Tree, limits: Limits) -> None:
    # Headers and padding are at most 1.5 KiB for each entry; their number has its own bound.
    with gzip.GzipFile(fileobj=raw, mode="rb") as plain:
        bounded = _Bounded(
            cast("IO[bytes]", plain),
            tree.bytes_allowed + 4096 * limits.entries_max,
            limits.header_bytes_max,
        )
        with tarfile.open(
            fileobj=cast("IO[bytes]", bounded), mode="r:", errors="surrogateescape"
        ) as tar:
            while (member := tar.next()) is not None:
                # It keeps all that it has read.
                tar.members = []  # type: ignore[attr-defined]
                tree.take(_entry(member), partial(tar.extractfile, member))


def _entry(member: tarfile.TarInfo) -> Entry:
    if member.issparse() or member.type == tarfile.GNUTYPE_SPARSE:
        kind, what = Kind.OTHER, "sparse file"
    elif member.issym():
        kind, what = Kind.LINK, ""
    elif member.isdir():
        kind, what = Kind.DIRECTORY, ""
    elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
        kind, what = Kind.FILE, ""
    else:
        kind, what = Kind.OTHER, _KINDS.get(member.type, "file of an unknown kind")
    if member.size < 0:
        raise UnsafeArchive(f"{member.name[:80]!a}: a size below 0")
    return Entry(
        name=member.name,
        kind=kind,
        size_bytes=member.size,
        mode=member.mode,
        target=member.linkname if kind is Kind.LINK else "",
        what=what,
    )
