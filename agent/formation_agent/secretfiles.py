"""Secrets as files that are never on a disk: one directory for each instance, while it is here.

Below a directory of our own on a file system in memory. Only the instance's user can read them;
what an agent that was killed has left is swept by the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Mapping

from formation.secrets import FILE_SUFFIX
from formation_agent.processes import User

# Anybody can write there; what is ours in it is looked at before it is used.
_SHARED = "/dev/shm"  # noqa: S108
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


class NoPlaceError(Exception):
    """Secrets cannot be given as files here; one line that says why."""


class SecretFiles:
    """`base`: where the directories are made, "" when there is no place."""

    def __init__(self, base: str) -> None:
        self._base = base

    def variables(self, uid: str, files: Mapping[str, str]) -> dict[str, str]:
        """What tells a process where they are."""
        return {name + FILE_SUFFIX: os.path.join(self._base, uid, name) for name in files}

    def place(self, uid: str, files: Mapping[str, str], user: User | None) -> None:
        """They are there, and nobody but `user` (None: us) can read them. Raises `NoPlaceError`."""
        if not files:
            return
        if not self._base:
            raise NoPlaceError("secrets as files need a file system in memory, and none is here")
        directory = os.path.join(self._base, uid)
        try:
            _make_base(self._base)
            # What a try before has left may have been written to meanwhile by its user.
            self.remove(uid)
            os.mkdir(directory, 0o700)
            for name, value in files.items():
                _write(os.path.join(directory, name), value, user)
            os.chmod(directory, 0o500)
            if user is not None:
                os.chown(directory, user.uid, user.gid)
        except OSError as error:
            reason = f"{error.filename or directory}: {error.strerror}"
            raise NoPlaceError(f"secrets cannot be given as files: {reason}") from error

    def remove(self, uid: str) -> None:
        if not self._base:
            return
        directory = os.path.join(self._base, uid)
        with contextlib.suppress(OSError):
            if os.geteuid() != 0:
                os.chmod(directory, 0o700)
            # It does not follow links, also not such as are put there meanwhile.
            shutil.rmtree(directory)

    def sweep(self, uids: Collection[str]) -> None:
        """Only those of these instances stay."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self._base) if self._base else ():
                if name not in uids:
                    self.remove(name)


NOWHERE = SecretFiles("")


def place_for(agent_id: str, environ: Mapping[str, str], mounts: str) -> SecretFiles:
    """The first place in memory. `mounts`: the text of /proc/self/mounts."""
    uid = os.geteuid()
    runtime = environ.get("XDG_RUNTIME_DIR", "") if uid else "/run"
    for parent, name in ((runtime, "formation-agent"), (_SHARED, f"formation-agent-{uid}")):
        if parent and _is_in_memory(parent, mounts) and os.access(parent, os.W_OK):
            return SecretFiles(os.path.join(parent, name, agent_id))
    return NOWHERE


def _is_in_memory(directory: str, mounts: str) -> bool:
    path, best = os.path.realpath(directory), ("", "")
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split(" ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = point, kind
    return best[1] in _IN_MEMORY


def _make_base(base: str) -> None:
    """Ours, and others can go through it to what is theirs. Raises OSError."""
    for directory in (os.path.dirname(base), base):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o711)
        found = os.stat(directory, follow_symlinks=False)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(1, "belongs to another user, or others can write it", directory)


def _write(path: str, value: str, user: User | None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o400), "wb") as file:
        file.write(value.encode())
        if user is not None:
            os.fchown(file.fileno(), user.uid, user.gid)
