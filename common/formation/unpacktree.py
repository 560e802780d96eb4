"""The files of an archive that somebody else made, written below one directory and nowhere else.

Whoever reads the archive hands over its entries one by one; `formation.artifacts` says which are
admitted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from formation.artifacts import Admission, Entry, Kind, Limits, UnsafeArchive

COPY_BYTES = 256 * 1024
_DIRECTORY_MODE, _FILE_MODE, _PROGRAM_MODE = 0o755, 0o644, 0o755


class Cancelled(Exception):
    """Whoever asked for it wants it no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    files: int
    size_bytes: int


@contextlib.contextmanager
def making(directory: Path) -> Iterator[None]:
    """Makes it, closed until all went well. On any error nothing is left of it."""
    directory.mkdir(mode=0o700)
    try:
        yield
        directory.chmod(_DIRECTORY_MODE)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(directory)
        raise


class Tree:
    """`archive_bytes`: how large the archive itself is."""

    def __init__(
        self,
        directory: Path,
        limits: Limits,
        archive_bytes: int,
        *,
        told: Callable[[int], None] = lambda done_bytes: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._directory, self._told, self._cancelled = directory, told, cancelled
        self.bytes_allowed = limits.bytes_allowed(archive_bytes)
        self._admission = Admission(limits)
        self._links: list[tuple[str, str]] = []
        self._files, self._bytes = 0, 0

    def take(self, entry: Entry, content: Callable[[], IO[bytes] | None]) -> None:
        """`content` is asked only for a file that is admitted. Raises `UnsafeArchive`,
        `Cancelled`, OSError."""
        if self._cancelled():
            raise Cancelled
        name = self._admission.admit(entry)
        if entry.kind is Kind.FILE and self._bytes + entry.size_bytes > self.bytes_allowed:
            raise UnsafeArchive(f"more than {self.bytes_allowed} bytes unpacked")
        if not name:
            return
        self._make_directory(name if entry.kind is Kind.DIRECTORY else os.path.dirname(name))
        if entry.kind is Kind.LINK:
            self._links.append((name, entry.target))
        elif entry.kind is Kind.FILE:
            self._write(content, entry, name)
            self._files += 1

    def finish(self) -> Unpacked:
        """Links last, so that nothing is written through one; then each is followed to its end."""
        for name, target in self._links:
            os.symlink(target, self._directory / name)
        top = os.path.realpath(self._directory)
        for name, target in self._links:
            end = os.path.realpath(self._directory / name)
            if end != top and not end.startswith(top + "/"):
                raise UnsafeArchive(f"{name}: a link that leads out, to {target[:80]!a}")
        return Unpacked(files=self._files, size_bytes=self._bytes)

    def _make_directory(self, name: str) -> None:
        """With those above it. Nothing in here is a link yet."""
        path = self._directory
        for part in name.split("/") if name else ():
            path /= part
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=_DIRECTORY_MODE)
                path.chmod(_DIRECTORY_MODE)  # whatever the umask is

    def _write(self, content: Callable[[], IO[bytes] | None], entry: Entry, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        source = content()
        if source is None:
            raise UnsafeArchive(f"{name}: no content")
        with (
            source,
            open(os.open(self._directory / name, flags, 0o600), "wb", buffering=0) as file,
        ):
            left = entry.size_bytes
            while left:
                if self._cancelled():
                    raise Cancelled
                data = source.read(min(COPY_BYTES, left))
                if not data:
                    raise UnsafeArchive(f"{name}: it ends in the middle")
                _write_all(file.fileno(), data)
                left -= len(data)
                self._bytes += len(data)
                self._told(self._bytes)
            os.fchmod(file.fileno(), _PROGRAM_MODE if entry.mode & 0o100 else _FILE_MODE)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
