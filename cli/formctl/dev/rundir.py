"""The run directory of one project's dev cluster: who may have it, what is in it, when it goes.

A lock on a file inside says "running"; the kernel drops it with the process that holds it, so
nothing stale can keep a project from starting. `cluster.json` tells other formctls where to call.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass

from formation.devclusters import CLUSTER, LOCK, DevCluster, base_dir, is_mine, paths_in
from formctl.errors import CommandError, InputError

# The kernel's limit for a socket's path is 108 bytes; agents and etcd make names of their own.
SOCKET_PATH_BYTES_MAX = 100
_HASH_CHARACTERS = 12
_DAEMONS = (b"formation_coordinator", b"formation_agent", b"etcd")
_LOCK_TRIES = 10
_LOCK_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Held by this process until `release`."""

    path: str
    lock_fd: int

    @property
    def socket(self) -> str:
        return os.path.join(self.path, "c.sock")

    def publish(self, cluster: DevCluster) -> None:
        """From here on other formctls find it; written whole or not at all."""
        temporary = os.path.join(self.path, CLUSTER + ".new")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(cluster)) + "\n")
        os.replace(temporary, os.path.join(self.path, CLUSTER))

    def release(self) -> None:
        """Removes the directory, then lets go of the lock: nobody sees half of it as free."""
        import shutil  # here and below: every formctl looks for clusters, few end one

        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock_fd)


def path_for(project: str, base: str | None = None) -> str:
    """Short and always the same for one project, since socket paths are limited."""
    digest = hashlib.sha256(os.fsencode(os.path.realpath(project))).hexdigest()
    return os.path.join(base or base_dir(), digest[:_HASH_CHARACTERS])


def acquire(project: str, base: str | None = None) -> RunDirectory:
    """Makes the project's directory anew and holds it; InputError when it is taken."""
    path = path_for(project, base)
    if len(os.fsencode(path)) + len("/c.sock") > SOCKET_PATH_BYTES_MAX:
        raise CommandError(f"{path} is too long for sockets; set XDG_RUNTIME_DIR to a shorter one")
    _private_dir(os.path.dirname(os.path.dirname(path)))
    _private_dir(os.path.dirname(path))
    lock_fd = _lock(path)
    if lock_fd is None:
        raise InputError(
            f"formctl dev already runs for {os.path.realpath(project)} (its files: {path}); "
            f"stop it there, or use formctl scale and formctl restart"
        )
    _empty(path)
    return RunDirectory(path, lock_fd)


def remove_stale(base: str | None = None, *, keep: str = "") -> list[str]:
    """Directories whose owner was killed. Leaves those that some program still names."""
    removed = []
    for path in paths_in(base or base_dir()):
        if path == keep or processes_naming(path):
            continue
        lock_fd = _lock(path, create=False)
        if lock_fd is not None:
            RunDirectory(path, lock_fd).release()
            removed.append(path)
    return removed


def processes_naming(path: str) -> dict[int, str]:
    """Our daemons that still work in this directory: a killed run's, which are stopping."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    command = file.read()
                if _is_daemon_in(command, os.fsencode(path) + b"/"):
                    found[int(name)] = _shown(command)
    return found


def _is_daemon_in(command: bytes, path: bytes) -> bool:
    return path in command and any(name in command for name in _DAEMONS)


def _shown(command: bytes) -> str:
    return command.replace(b"\0", b" ").decode(errors="replace").strip()


def _private_dir(path: str) -> None:
    """Others may write to /tmp: a directory that is not ours is never used."""
    with contextlib.suppress(FileExistsError):
        os.makedirs(path, mode=0o700)
    if not is_mine(path):
        raise CommandError(f"{path} is not a directory of this user alone; remove it")


def _lock(path: str, *, create: bool = True) -> int | None:
    """The held lock, or None when another process has it (or there is nothing to hold)."""
    file = os.path.join(path, LOCK)
    while True:
        if create:
            _private_dir(path)
        try:
            lock_fd = os.open(file, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        except FileNotFoundError:
            if create:
                continue  # removed by another start between our two steps
            return None
        if not _try_flock(lock_fd):
            os.close(lock_fd)
            return None
        if _is_still(file, lock_fd):
            return lock_fd
        os.close(lock_fd)  # the one before us removed the directory when it ended


def _try_flock(lock_fd: int) -> bool:
    """Several tries: another formctl may be looking whether this cluster runs."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_LOCK_PAUSE_S)
        else:
            return True
    return False


def _is_still(file: str, lock_fd: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(file), os.fstat(lock_fd))
    return False


def _empty(path: str) -> None:
    import shutil

    for entry in list(os.scandir(path)):
        if entry.name == LOCK:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
