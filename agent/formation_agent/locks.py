"""The locks of state directories: held by the keeper for its life, whatever happens to brains.

Used by the keeper alone; standard library only. A lock is an flock; what stands in its file is for
people and for `formation-agent reexec`: the first line says who holds it, the second how the last
re-execution went.
"""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_READ_BYTES = 4096
_REPORT = "re-execution "


class Busy(Exception):
    """Somebody else holds it: `by`, "" when they did not say; `is_gone`: that process ended."""

    def __init__(self, by: str) -> None:
        super().__init__(by)
        self.by = by
        self.is_gone = _is_gone(by)


class Locks:
    """Those of this keeper, by path."""

    def __init__(self, fds: Mapping[str, int] | None = None) -> None:
        self._fds = dict(fds or {})

    def take(self, path: str) -> None:
        """Raises `Busy`, or OSError when `path` cannot be opened for writing."""
        if path in self._fds:
            return
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            by = read(fd)[0]
            os.close(fd)
            raise Busy(by) from None
        except OSError:
            os.close(fd)
            raise
        self._fds[path] = fd
        _write(fd, f"process {os.getpid()}\n")

    def report(self, number: int, text: str) -> None:
        """How the `number`th re-execution goes."""
        for fd in self._fds.values():
            line = text.replace("\n", " ")
            _write(fd, f"process {os.getpid()}\n{_REPORT}{number}: {line}\n")

    def state(self) -> dict[str, int]:
        return dict(self._fds)

    def descriptors(self) -> Iterable[int]:
        return self._fds.values()


def read(lock: int) -> tuple[str, int, str]:
    """What stands in a lock's file: the holder, the number of its last re-execution and how that
    went; "" and 0 for what does not stand there."""
    try:
        text = os.pread(lock, _READ_BYTES, 0).decode("utf-8", "replace")
    except OSError:
        return "", 0, ""
    holder, _, rest = text.partition("\n")
    # Only whole lines: somebody may be writing.
    if not rest.startswith(_REPORT) or "\n" not in rest:
        return holder.strip(), 0, ""
    number, _, outcome = rest.partition("\n")[0].removeprefix(_REPORT).partition(": ")
    return holder.strip(), int(number) if number.isdigit() else 0, outcome


def _write(lock: int, text: str) -> None:
    """The lock holds without it, on a full disk too."""
    data = text.encode("utf-8", "replace")[:_READ_BYTES]
    try:
        os.pwrite(lock, data, 0)
        os.ftruncate(lock, len(data))
    except OSError:
        return


def _is_gone(holder: str) -> bool:
    pid = holder.removeprefix("process ")
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except (PermissionError, ValueError):
        return False
    return False
