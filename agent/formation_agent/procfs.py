"""What the keeper and the brain read in /proc about processes. Standard library only; reads only.

A process that is gone, or that we may not look at, is `None` or absent, never an exception. That
we cannot look at anything now (no descriptor or memory is free) is `OSError`: it says nothing
about the process.
"""

from __future__ import annotations

import errno
import os
import time

_SESSION, _START_TIME = 3, 19  # fields 6 and 22 of stat, counted after the name
_STATE, _PARENT, _ENVIRONMENT_START = 0, 1, 47
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_DEAD = (b"Z", b"X")
_EXECUTING_LOOKS, _EXECUTING_AGAIN_S = 20, 0.001
_CANNOT_LOOK = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Executing(OSError):
    """The process is between two programs: for this moment it shows no environment."""


def start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot: with the pid it names it for ever."""
    return _field(pid, _START_TIME)


def ticks_since(began_ns: int, pid: int) -> int:
    """`start_ticks` of a child that was started after `began_ns` of CLOCK_BOOTTIME, 0 if gone.

    Mostly without a look at the process, which costs more than to spawn it: a tick is 10 ms.
    """
    first = began_ns // _TICK_NS
    if first == time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _TICK_NS:
        return first
    try:
        return start_ticks(pid) or 0
    except OSError:
        return 0


def parent(pid: int) -> int:
    return _field(pid, _PARENT) or 0


def session(pid: int) -> int | None:
    return _field(pid, _SESSION)


def members_of_session(number: int) -> list[int]:
    """Those that live. Looks at every process of this machine."""
    return [pid for pid in all_pids() if session(pid) == number and name(pid) is not None]


def variable(pid: int | str, name: bytes) -> bytes | None:
    """One variable of the environment that the process was started with, if we can see it now."""
    try:
        return variable_in(environment(pid), name)
    except OSError:
        return None


def environment(pid: int | str) -> bytes:
    """What it was started with, as far as it was not overwritten since."""
    return _read(f"/proc/{pid}/environ")


def settled_environment(pid: int) -> bytes:
    """The same, but it raises `Executing` rather than to take that moment for an empty one."""
    found = environment(pid)
    if not found and _is_executing(pid):
        raise Executing(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return found or environment(pid)


def awaited_environment(pid: int) -> bytes:
    """The same, but it waits for that moment to pass: 20 ms at most, mostly much less."""
    for _ in range(_EXECUTING_LOOKS):
        try:
            return settled_environment(pid)
        except Executing:
            time.sleep(_EXECUTING_AGAIN_S)
    return b""


def _is_executing(pid: int) -> bool:
    fields = _fields(pid)
    if len(fields) <= _ENVIRONMENT_START or fields[_STATE] in _DEAD:
        return False
    return fields[_ENVIRONMENT_START] == b"0" and _may_look_at(pid)


def _may_look_at(pid: int) -> bool:
    try:
        os.close(os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def variable_in(environment: bytes, name: bytes) -> bytes | None:
    prefix = b"\0" + name + b"="
    start = (b"\0" + environment).find(prefix)
    if start < 0:
        return None
    return environment[start + len(prefix) - 1 :].split(b"\0", 1)[0]


def own_children() -> list[int]:
    """Every direct child of this (single-threaded) process, adopted ones too."""
    return [int(word) for word in _read(f"/proc/self/task/{os.getpid()}/children").split()]


def children(pid: int) -> list[int]:
    """The direct children of another process, whichever of its threads started them."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError as error:
        _nothing(error)
        return []
    files = (f"/proc/{pid}/task/{thread}/children" for thread in threads)
    return [int(word) for file in files for word in _read(file).split()]


def name(pid: int) -> str | None:
    """The program's, as `ps` shows it; None for a process that has ended, reaped or not."""
    data = _read(f"/proc/{pid}/stat")
    start, end = data.find(b"("), data.rfind(b")")
    if start < 0 or data[end + 2 : end + 3] in _DEAD:
        return None
    return data[start + 1 : end].decode("utf-8", "replace")


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def boot_id() -> str:
    """Differs after every boot; "" where the kernel does not tell."""
    return _read("/proc/sys/kernel/random/boot_id").decode("ascii").strip()


def _field(pid: int, index: int) -> int | None:
    fields = _fields(pid)
    return int(fields[index]) if fields else None


def _fields(pid: int) -> list[bytes]:
    """Of stat, from the third on; none when it is gone."""
    data = _read(f"/proc/{pid}/stat")
    # The name is in brackets and may itself hold brackets and blanks.
    return data[data.rindex(b")") + 2 :].split() if data else []


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
