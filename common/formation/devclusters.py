"""Which clusters of `formctl dev` this user runs: each has a directory, with a lock that says so.

`formctl.dev.rundir` makes and holds them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from dataclasses import dataclass

LOCK = "lock"
CLUSTER = "cluster.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DevCluster:
    """What `cluster.json` says. `started_at` is RFC 3339 in UTC."""

    project: str
    app: str
    coordinator: str
    started_at: str


def base_dir() -> str:
    from formation.runtime import runtime_dir  # brings asyncio along

    return os.path.join(runtime_dir(), "dev")


def running_clusters(base: str | None = None) -> tuple[DevCluster, ...]:
    """Of this user, by project."""
    found = (_running_cluster(path) for path in paths_in(base or base_dir()))
    return tuple(sorted((c for c in found if c is not None), key=lambda c: c.project))


def paths_in(parent: str) -> list[str]:
    """None where others may have laid something down."""
    if not is_mine(parent):
        return []
    return [os.path.join(parent, name) for name in os.listdir(parent)]


def is_mine(path: str) -> bool:
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not shared
    return False


def _running_cluster(path: str) -> DevCluster | None:
    if not is_mine(path) or not _is_held(os.path.join(path, LOCK)):
        return None
    try:
        with open(os.path.join(path, CLUSTER), encoding="utf-8") as file:
            return DevCluster(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None  # still starting, or just ending


def _is_held(lock: str) -> bool:
    """A shared lock, for an instant: it cannot refuse other readers, and starters try again."""
    try:
        lock_fd = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock_fd)
    return False
