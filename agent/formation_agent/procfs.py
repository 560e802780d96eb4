"""What the keeper and the brain read in /proc about processes. Standard library only; reads only.

A process that is gone, or that we may not look at, is `None` or absent, never an exception. That
we cannot look at anything now (no descriptor or memory is free) is `OSError`: it says nothing
about the process.
"""

from __future__ import annotations

import errno
import os

_SESSION, _START_TIME = 3, 19  # fields 6 and 22 of stat, counted after the name
_PARENT = 1
_CANNOT_LOOK = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot: with the pid it names it for ever."""
    return _field(pid, _START_TIME)


def parent(pid: int) -> int:
    return _field(pid, _PARENT) or 0


def session(pid: int) -> int | None:
    return _field(pid, _SESSION)


def variable(pid: int | str, name: bytes) -> bytes | None:
    """One variable of the environment that the process was started with, if we can see it now."""
    try:
        return variable_in(environment(pid), name)
    except OSError:
        return None


def environment(pid: int | str) -> bytes:
    """What it was started with, as far as it was not overwritten since."""
    return _read(f"/proc/{pid}/environ")


def variable_in(environment: bytes, name: bytes) -> bytes | None:
    prefix = b"\0" + name + b"="
    start = (b"\0" + environment).find(prefix)
    if start < 0:
        return None
    return environment[start + len(prefix) - 1 :].split(b"\0", 1)[0]


def own_children() -> list[int]:
    """Every direct child of this (single-threaded) process, adopted ones too."""
    return [int(word) for word in _read(f"/proc/self/task/{os.getpid()}/children").split()]


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def boot_id() -> str:
    """Differs after every boot; "" where the kernel does not tell."""
    return _read("/proc/sys/kernel/random/boot_id").decode("ascii").strip()


def _field(pid: int, index: int) -> int | None:
    data = _read(f"/proc/{pid}/stat")
    if not data:
        return None
    # The name is in brackets and may itself hold brackets and blanks.
    return int(data[data.rindex(b")") + 2 :].split()[index])


def _read(path: str) -> bytes:
    """Raises OSError when nothing can be looked at now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return _nothing(error)
    try:
        return b"".join(iter(lambda: os.read(fd, 1 << 16), b""))
    except OSError as error:
        return _nothing(error)
    finally:
        os.close(fd)


def _nothing(error: OSError) -> bytes:
    if error.errno in _CANNOT_LOOK:
        raise error
    return b""
