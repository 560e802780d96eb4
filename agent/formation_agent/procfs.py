"""What the keeper and the brain read in /proc about processes. Standard library only; reads only.

A process that is gone, or that we may not look at, is `None` or absent, never an exception.
"""

from __future__ import annotations

import os

_START_TIME = 19  # field 22 of stat, counted after the name


def start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot: with the pid it names it for ever."""
    data = _read(f"/proc/{pid}/stat")
    if not data:
        return None
    # The name is in brackets and may itself hold brackets and blanks.
    return int(data[data.rindex(b")") + 2 :].split()[_START_TIME])


def variable(pid: int | str, name: bytes) -> bytes | None:
    """One variable of the environment that the process was started with."""
    return variable_in(_read(f"/proc/{pid}/environ"), name)


def variable_in(environment: bytes, name: bytes) -> bytes | None:
    prefix = b"\0" + name + b"="
    start = (b"\0" + environment).find(prefix)
    if start < 0:
        return None
    return environment[start + len(prefix) - 1 :].split(b"\0", 1)[0]


def own_children() -> list[int]:
    """Every direct child of this (single-threaded) process, adopted ones too."""
    return [int(word) for word in _read(f"/proc/self/task/{os.getpid()}/children").split()]


def parent(pid: int) -> int:
    data = _read(f"/proc/{pid}/stat")
    return int(data[data.rindex(b")") + 2 :].split()[1]) if data else 0


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return b"".join(iter(lambda: os.read(fd, 1 << 16), b""))
    except OSError:
        return b""
    finally:
        os.close(fd)
