"""The agent's state directory: where it is, and that it is ours alone."""

from __future__ import annotations

import os
from pathlib import Path

JOURNAL_NAME, LOCK_NAME = "agent.pb", "lock"


class RefusedError(Exception):
    """The agent cannot run like this; the message says what to do."""


def default_state_dir() -> str:
    if os.geteuid() == 0:
        return "/var/lib/formation"
    path = os.path.expanduser("~/.local/state/formation")
    if path.startswith("~"):
        raise RefusedError(f"user {os.geteuid()} has no home directory here: give --state-dir")
    return path


def release_dir(configured: str, state_dir: Path) -> Path:
    """Where code is unpacked: users of types go through it, and must not through our state."""
    if configured:
        return Path(configured).absolute()
    if os.geteuid() == 0:
        return state_dir.with_name(f"{state_dir.name}-releases")
    return state_dir / "releases"


def prepare_state_dir(name: str) -> Path:
    """The journal in it holds secrets: for us alone. Raises `RefusedError`."""
    path = Path(name).absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.geteuid():
            raise RefusedError(f"{path} belongs to another user; choose another --state-dir")
        if status.st_mode & 0o077:
            # Never close a directory that is something else's, such as /tmp.
            if any(path.iterdir()) and not (path / JOURNAL_NAME).exists():
                raise RefusedError(f"{path} is used for something else; choose another --state-dir")
            path.chmod(0o700)
    except OSError as error:
        raise RefusedError(f"--state-dir {path}: {error.strerror}") from error
    return path
