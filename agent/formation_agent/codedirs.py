"""Unpacked releases on this host's disk: where, whole or not at all, and which go. Thin.

`<base>/<app>/<digest>/`. The directories above are not listed for others: who does not know a
digest finds nothing. What has the name of a digest is whole, and on the disk. What is built has a
longer name (`buildplan.code_name`), from the start, since tools write down where they are: it is
whole when `.<name>.done` is beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Collection, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from formation.artifacts import Limits, UnsafeArchive, size_text
from formation.unpacking import unpack
from formation_agent import ownership
from formation_agent.buildplan import NAME, is_built
from formation_agent.happenings import User

KEPT_UNUSED = 3
UNUSED_FOR_S = 30 * 86400.0
_OPEN_MODE, _HIDDEN, _DONE = 0o711, ".", ".done"

# An app's, and what `buildplan.code_name` calls its code.
Name = tuple[str, str]


class CodeError(Exception):
    """Why the code of a release is not here; one line for people."""


@dataclass(frozen=True, slots=True)
class CodeDirs:
    base: Path

    def path(self, app: str, code: str) -> Path:
        return self.base / app / code

    def is_here(self, app: str, code: str) -> bool:
        """All of it, and built."""
        whole = not is_built(code) or self._mark(app, code).exists()
        return whole and self.path(app, code).is_dir()

    def _mark(self, app: str, code: str) -> Path:
        return self.base / app / f"{_HIDDEN}{code}{_DONE}"

    def unpack(
        self,
        app: str,
        code: str,
        archive: Path,
        *,
        told: Callable[[int], None],
        cancelled: Callable[[], bool],
        limits: Limits | None = None,
    ) -> None:
        """Under its name when all of it is on the disk. Raises `CodeError`."""
        target = self.path(app, code)
        making = _hidden(target)
        try:
            self.base.parent.mkdir(parents=True, exist_ok=True)
            for directory in (self.base, target.parent):
                _make_ours(directory)
            self.discard(app, code)
            _remove(making)
            unpack(archive, making, limits=limits, told=told, cancelled=cancelled)
            _to_disk(making)
            making.rename(target)
        except UnsafeArchive as error:
            raise CodeError(f"its code is not unpacked: {error}") from error
        except OSError as error:
            where = error.filename or self.base
            raise CodeError(f"its code cannot be unpacked: {where}: {error.strerror}") from error

    def lend(self, app: str, code: str, user: User | None) -> None:
        """For this user to build in; None: it is ours and stays that. Raises `CodeError`."""
        if user is not None:
            with _worded("its code cannot be made ready to be built"):
                ownership.hand_over(self.path(app, code), user.uid, user.gid)

    def built(self, app: str, code: str, user: User | None) -> None:
        """It is whole. Nobody else writes there from now on. Raises `CodeError`."""
        path, mark = self.path(app, code), self._mark(app, code)
        with _worded("what its build has made cannot be kept"):
            if user is not None:
                ownership.take_back(path, user.uid)
            _to_disk(path)
            mark.touch(mode=0o600)
            _to_disk(path)

    def discard(self, app: str, code: str) -> None:
        """What is there of it; half removed, it is never taken for whole."""
        path = self.path(app, code)
        leaving = _hidden(path)
        self._mark(app, code).unlink(missing_ok=True)
        if path.exists():
            _remove(leaving)
            path.rename(leaving)
            _remove(leaving)

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
            if NAME.fullmatch(path.name):
                if name in busy:
                    continue  # asked first: afterwards it is whole
                if not self.is_here(*name):
                    self.discard(*name)
                elif name in wanted:
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
            self.discard(*name)
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


def _hidden(path: Path) -> Path:
    return path.with_name(f"{_HIDDEN}{path.name}")


def _is_half_made(name: str) -> bool:
    return name.startswith(_HIDDEN) and bool(NAME.fullmatch(name[1:]))


def room_left(directory: Path | str) -> int:
    """In bytes. Raises OSError."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def check_room(directory: Path, needed_bytes: int) -> None:
    """Raises `CodeError`."""
    try:
        free = room_left(directory)
    except OSError as error:
        raise CodeError(f"{directory}: {error.strerror}") from error
    if needed_bytes > free:
        raise CodeError(
            f"no room for its code in {directory}: {size_text(needed_bytes)} are needed, "
            f"{size_text(free)} are free"
        )


def _listed(directory: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink()]
    return []


@contextlib.contextmanager
def _worded(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CodeError(f"{what}: {error.filename or 'its files'}: {error.strerror}") from error


def _remove(directory: Path) -> None:
    """A build may leave what nobody may write in, or deeper than any name reaches."""
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(directory)
        return
    if directory.is_dir():
        # Root needs no leave, and could be led out of it: whoever builds there may not be gone yet.
        if os.geteuid() != 0:
            with contextlib.suppress(OSError):
                ownership.open_up(directory)
        with contextlib.suppress(OSError):
            subprocess.run(["rm", "-rf", "--", directory], check=False, stderr=subprocess.DEVNULL)


def _to_disk(directory: Path) -> None:
    """All of its file system; thousands of files one by one would take long."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(fd)
