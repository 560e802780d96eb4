"""Where a program is, looked up as execvp does and remembered for a moment.

Starting a thousand instances of one type is one search of PATH and a thousand questions whether
the file is still there. No longer than a moment, so that what was put before it in PATH is found.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from formation_agent.command import find_program

# What a shell takes when nobody set one.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REMEMBERED_S = 2.0
_REMEMBERED_MAX = 1000


class Programs:
    """`now_s`: a clock that never goes back."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._found: dict[tuple[str, str, str], tuple[str, float]] = {}

    def find(self, program: str, env: Mapping[str, str], cwd: str) -> str | None:
        """The file that runs for `program` in this environment and directory, None without one."""
        if "/" in program:
            return os.path.join(cwd, program)
        sought = (program, env.get("PATH", DEFAULT_PATH), cwd)
        file, until_s = self._found.get(sought, ("", 0.0))
        if self._now_s() < until_s and os.access(file, os.X_OK):
            return file
        return self._search(sought)

    def _search(self, sought: tuple[str, str, str]) -> str | None:
        file = find_program(*sought, is_executable)
        if file is not None:
            if len(self._found) >= _REMEMBERED_MAX:
                self._found.clear()
            self._found[sought] = file, self._now_s() + _REMEMBERED_S
        return file


def is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def not_found(program: str, cwd: str) -> str:
    """For people, when there is no such program."""
    if not os.path.lexists(cwd):
        return f"working directory does not exist: {cwd}"
    return f"command not found: {program}"
