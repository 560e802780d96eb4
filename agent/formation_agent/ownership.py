"""Whose a tree of files is: an agent that is root lends one to a user to build in, and takes it
back.

Each way keeps to an order in which that user, whose other processes may be watching, never gets
hold of anything else: a directory is handed over after all that is in it, and taken back before.
In between nothing above can be exchanged for a link. Blocks; raises OSError.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_DIRECTORY_MODE = 0o755
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def hand_over(top: Path, uid: int, gid: int) -> None:
    """All of it, which only root could change so far."""
    for directory in reversed(_directories(str(top))):
        for entry in os.scandir(directory):
            if not entry.is_dir(follow_symlinks=False):
                os.chown(entry.path, uid, gid, follow_symlinks=False)
        os.chown(directory, uid, gid, follow_symlinks=False)


def _directories(top: str) -> list[str]:
    """Each after the one that it is in."""
    found = [top]
    for directory in found:
        found += [e.path for e in os.scandir(directory) if e.is_dir(follow_symlinks=False)]
    return found


def take_back(top: Path, uid: int) -> None:
    """What belongs to `uid` becomes root's, and may be read and not written by others. What is
    somebody else's, by a link perhaps, is not touched."""
    waiting = [str(top)]
    while waiting:
        directory = waiting.pop()
        fd = os.open(directory, _OPEN | os.O_DIRECTORY)
        try:
            _take(fd, uid)  # first: what is listed then stays as it is
            names = os.listdir(fd)
            waiting += [f"{directory}/{name}" for name in names if _take_entry(fd, name, uid)]
        finally:
            os.close(fd)


def _take_entry(within: int, name: str, uid: int) -> bool:
    """Is it a directory, which is still to be taken?"""
    found = os.stat(name, dir_fd=within, follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode):
        return True
    if not stat.S_ISREG(found.st_mode):
        if found.st_uid == uid:
            os.chown(name, 0, 0, dir_fd=within, follow_symlinks=False)
        return False
    fd = os.open(name, _OPEN, dir_fd=within)
    try:
        _take(fd, uid)
    finally:
        os.close(fd)
    return False


def _take(fd: int, uid: int) -> None:
    found = os.fstat(fd)
    if found.st_uid != uid:
        return
    os.fchown(fd, 0, 0)
    runs = stat.S_ISDIR(found.st_mode) or found.st_mode & 0o111
    os.fchmod(fd, _DIRECTORY_MODE if runs else 0o644)


def open_up(top: Path) -> None:
    """So that its owner can remove it: some tools leave directories that nobody may write in."""
    waiting = [str(top)]
    while waiting:
        directory = waiting.pop()
        os.chmod(directory, 0o700)
        waiting += [e.path for e in os.scandir(directory) if e.is_dir(follow_symlinks=False)]
