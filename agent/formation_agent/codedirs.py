"""Unpacked releases on this host's disk: where, whole or not at all, and which go. Thin.

`<base>/<app>/<digest>/`. The directories above are not listed for others: who does not know a
digest finds nothing. What has the name of a digest is whole, and on the disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
import time
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass
from pathlib import Path

from formation.artifacts import DIGEST, Artifact, Limits, UnsafeArchive, size_text
from formation.unpacking import unpack

KEPT_UNUSED = 3
UNUSED_FOR_S = 30 * 86400.0
_OPEN_MODE, _HIDDEN = 0o711, "."

Name = tuple[str, str]


class CodeError(Exception):
    """Why the code of a release is not here; one line for people."""


@dataclass(frozen=True, slots=True)
class CodeDirs:
    base: Path

    def path(self, app: str, digest: str) -> Path:
        return self.base / app / digest

    def is_here(self, app: str, digest: str) -> bool:
        return self.path(app, digest).is_dir()

    def unpack(
        self,
        app: str,
        artifact: Artifact,
        archive: Path,
        *,
        told: Callable[[int], None],
        cancelled: Callable[[], bool],
        limits: Limits | None = None,
    ) -> None:
        """Under its name when all of it is on the disk. Raises `CodeError`."""
        target = self.path(app, artifact.digest)
        making = target.with_name(f"{_HIDDEN}{artifact.digest}")
        try:
            self.base.parent.mkdir(parents=True, exist_ok=True)
            for directory in (self.base, target.parent):
                _make_ours(directory)
            _remove(making)
            unpack(archive, making, limits=limits, told=told, cancelled=cancelled)
            _to_disk(making)
            making.rename(target)
        except UnsafeArchive as error:
            raise CodeError(f"its code is not unpacked: {error}") from error
        except OSError as error:
            where = error.filename or self.base
            raise CodeError(f"its code cannot be unpacked: {where}: {error.strerror}") from error

    def sweep(self, wanted: Collection[Name], busy: Container[Name]) -> list[Name]:
        """Removes what nothing here needs but the last ones of each app, and what was left
        half-made; gives what it removed. `busy` may change meanwhile."""
        removed = []
        for app in _listed(self.base):
            with contextlib.suppress(OSError):
                gone = self._sweep_app(app.name, wanted, busy)
                removed += gone
                if gone:
                    app.rmdir()  # only when it is empty
        return removed

    def _sweep_app(self, app: str, wanted: Collection[Name], busy: Container[Name]) -> list[Name]:
        unused = []
        for path in _listed(self.base / app):
            name = app, path.name
            if DIGEST.fullmatch(path.name):
                if name in wanted:
                    os.utime(path)
                else:
                    unused.append((path.stat().st_mtime, name))
            elif _is_half_made(path.name) and (app, path.name[1:]) not in busy:
                _remove(path)
        oldest_s = time.time() - UNUSED_FOR_S
        newest_first = sorted(unused, reverse=True)
        gone = newest_first[KEPT_UNUSED:] + [
            item for item in newest_first[:KEPT_UNUSED] if item[0] < oldest_s
        ]
        for _, name in gone:
            path = self.path(*name)
            leaving = path.with_name(f"{_HIDDEN}{path.name}")
            path.rename(leaving)  # half removed, it is never taken for whole
            _remove(leaving)
        return [name for _, name in gone]


def _make_ours(directory: Path) -> None:
    """Nobody else may change what is in it: we write there, perhaps as root. Raises `CodeError`,
    OSError."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
        directory.chmod(_OPEN_MODE)  # whatever the umask is
    found = directory.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not ours or found.st_mode & 0o022:
        raise CodeError(
            f"{directory} belongs to somebody else, or others can write there: give another "
            "--release-dir"
        )


def _is_half_made(name: str) -> bool:
    return name.startswith(_HIDDEN) and bool(DIGEST.fullmatch(name[1:]))


def check_room(directory: Path, needed_bytes: int) -> None:
    """Raises `CodeError`."""
    try:
        found = os.statvfs(directory)
    except OSError as error:
        raise CodeError(f"{directory}: {error.strerror}") from error
    free = found.f_bavail * found.f_frsize
    if needed_bytes > free:
        raise CodeError(
            f"no room for its code in {directory}: {size_text(needed_bytes)} are needed, "
            f"{size_text(free)} are free"
        )


def _listed(directory: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink()]
    return []


def _remove(directory: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(directory)


def _to_disk(directory: Path) -> None:
    """All of its file system; thousands of files one by one would take long."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(fd)
