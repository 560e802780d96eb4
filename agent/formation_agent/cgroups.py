"""Cgroups of version 2: where ours is, and what is done to one. Standard library only.

The keeper makes one for every tree; the brain reads who lives in it, and kills it when the keeper
is gone. Functions on paths, without a memory: a path is absolute, of a directory below a mounted
cgroup2. Who calls must know that the path is still what it was when it was made.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONTROLLERS = ("cpu", "memory", "pids")

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_ESCAPED = re.compile(r"\\([0-7]{3})")
_CPU_PERIOD_US = 100_000
_CPU_QUOTA_MIN_US = 1_000
# A tree that forks faster than it is killed one by one ends within its limit of processes.
_KILL_ROUNDS = 50
_SIGNAL_ROUNDS = 5
_PIDFDS_AT_ONCE = 64
_EVENTS_BYTES = 4096
_KILL_AGAIN_S = 0.1


# --- where ours is ----------------------------------------------------------------------------


def directories(mountinfo: str, membership: str) -> list[tuple[str, str]]:
    """Where the cgroup of this process may be seen, best first: (directory, path for people).

    From the texts of /proc/self/mountinfo and /proc/self/cgroup. A mount may show only a part of
    the hierarchy, perhaps one that we are not in, or may be hidden by another one over it.
    """
    path = own_path(membership)
    if path is None:
        return []
    found = []
    for root, point in _mounts(mountinfo):
        below = _below(root, path)
        if below is not None:
            found.append((point.rstrip("/") + below or "/", path))
    return found


def own_path(membership: str) -> str | None:
    """Our cgroup as /proc/self/cgroup names it; None without version 2."""
    for line in membership.split("\n"):
        if line.startswith("0::/"):
            return line[3:]
    return None


def _mounts(mountinfo: str) -> Iterator[tuple[str, str]]:
    """Of every mounted cgroup2, the latest first: which part of it, and where."""
    for line in reversed(mountinfo.split("\n")):
        fields, found, kind = line.partition(" - ")
        words = fields.split(" ")
        if found and kind.split(" ")[0] == "cgroup2" and len(words) >= 5:  # noqa: PLR2004
            yield _unescaped(words[3]), _unescaped(words[4])


def _unescaped(word: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), word)


def _below(root: str, path: str) -> str | None:
    """What of `path` is below `root`: "" or "/…"; None when it is not below it."""
    prefix = root.rstrip("/")
    if path != root and not path.startswith(prefix + "/"):
        return None
    below = path[len(prefix) :].rstrip("/")
    # Above what we may see (a cgroup namespace) directories have no names.
    return None if ".." in below.split("/") else below


def own() -> tuple[str, str]:
    """The directory of our own cgroup, and its path for people; ("", "") when there is none."""
    try:
        found = directories(
            os.fsdecode(_read("/proc/self/mountinfo")), os.fsdecode(_read("/proc/self/cgroup"))
        )
    except OSError:
        return "", ""
    for directory, path in found:
        try:
            if os.getpid() in _members(directory):
                return directory, path
        except OSError:
            continue
    return "", ""


def safe_name(key: str) -> str:
    """A directory's name that no other key has, nor any file of a cgroup."""
    return _UNSAFE.sub(lambda letter: f"%{ord(letter[0]):x}.", key)


# --- what stands in one -----------------------------------------------------------------------


def is_root(path: str) -> bool:
    """The machine's root may have processes beside controlled cgroups, no other may."""
    return not os.path.exists(f"{path}/cgroup.type")


def words(path: str, file: str) -> set[str]:
    """Raises OSError."""
    return set(_read(f"{path}/{file}").decode("ascii", "replace").split())


def members(path: str) -> list[int]:
    """The processes that live in it or below. Raises OSError when it cannot be looked at."""
    return [pid for directory in below(path) for pid in _members_if_there(directory)]


def below(path: str) -> list[str]:
    """It and all below it, parents first. Raises OSError when `path` cannot be looked at."""
    found = [path]
    for directory in found:  # grows while we go
        try:
            with os.scandir(directory) as entries:
                found += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            continue
    return found


def is_populated(events: bytes) -> bool:
    """From the content of cgroup.events."""
    return b"populated 0" not in events


def events(path: str) -> bytes:
    """Of a cgroup that is gone: that nothing lives there. Raises OSError."""
    try:
        return _read(f"{path}/cgroup.events")
    except FileNotFoundError:
        return b"populated 0\n"


def is_frozen(path: str) -> bool:
    """Or about to be."""
    try:
        return _read(f"{path}/cgroup.freeze") == b"1\n"
    except OSError:
        return False  # Linux before 5.2, or the cgroup is gone


def out_of_memory(path: str) -> bool:
    """Whether something in it was killed for want of memory since it was made."""
    try:
        content = _read(f"{path}/memory.events")
    except OSError:
        return False  # no memory controller
    counts = dict(line.split(b" ", 1) for line in content.splitlines())
    return int(counts.get(b"oom_kill", b"0")) > 0


# --- what is done to one ----------------------------------------------------------------------


def enter(path: str, pid: int = 0) -> None:
    """Moves a process, 0 is ourselves. Raises OSError."""
    _write(f"{path}/cgroup.procs", b"%d" % pid)


def door(path: str) -> int:
    """A descriptor for `enter_by`. Raises OSError."""
    return os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)


def enter_by(door: int) -> None:
    """Moves ourselves. Raises OSError."""
    os.write(door, b"0")


def enable(path: str, controllers: set[str]) -> None:
    """For the cgroups below it. Raises OSError: EBUSY while processes are in it."""
    new = controllers - words(path, "cgroup.subtree_control")
    if new:
        _write(f"{path}/cgroup.subtree_control", " ".join(f"+{name}" for name in new).encode())


def limit(path: str, limits: Mapping[str, float]) -> list[str]:
    """Sets `cpus`, `memory_bytes` and `pids`; returns what went wrong, for people.

    What no controller is there for stays unlimited.
    """
    problems = []
    for file, value in _settings(limits):
        try:
            _write(f"{path}/{file}", value.encode())
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(f"cannot set {file} to {value}: {error.strerror}")
    return problems


def _settings(limits: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    if limits.get("cpus"):
        quota_us = max(_CPU_QUOTA_MIN_US, round(limits["cpus"] * _CPU_PERIOD_US))
        yield "cpu.max", f"{quota_us} {_CPU_PERIOD_US}"
    if limits.get("memory_bytes"):
        # Before the limit itself, which may kill at once.
        yield "memory.oom.group", "1"
        yield "memory.swap.max", "0"
        yield "memory.max", str(int(limits["memory_bytes"]))
    if limits.get("pids"):
        yield "pids.max", str(int(limits["pids"]))


def kill(path: str) -> None:
    """Everything in it and below, whoever it belongs to. Raises OSError."""
    try:
        _write(f"{path}/cgroup.kill", b"1")
    except FileNotFoundError:
        _kill_each(path)  # Linux before 5.14, or the cgroup is gone
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:  # threaded: only one by one
            raise
        _kill_each(path)


def _kill_each(path: str) -> None:
    for _ in range(_KILL_ROUNDS):
        pids = members(path)
        if not pids:
            return
        _signal_each(path, pids, signal.SIGKILL)


def send(path: str, signum: int, group: int) -> None:
    """To all that live in it but the members of `group`, which the caller signals as a whole.

    Raises PermissionError, when all others have it, if some belong to another user.
    """
    denied: PermissionError | None = None
    reached: set[int] = set()
    for _ in range(_SIGNAL_ROUNDS):  # they may have started others meanwhile
        new = [pid for pid in members(path) if pid not in reached and _group_of(pid) != group]
        if not new:
            break
        reached.update(new)
        try:
            _signal_each(path, new, signum)
        except PermissionError as error:
            denied = error
    if denied is not None:
        raise denied


def _signal_each(path: str, pids: list[int], signum: int) -> None:
    denied: PermissionError | None = None
    for start in range(0, len(pids), _PIDFDS_AT_ONCE):
        pidfds = _opened(pids[start : start + _PIDFDS_AT_ONCE])
        try:
            # Who is a member after its pidfd was opened is either meant by it, or that one is gone.
            still = set(members(path))
            for pid, pidfd in pidfds.items():
                try:
                    if pid in still:
                        signal.pidfd_send_signal(pidfd, signum)
                except ProcessLookupError:
                    continue
                except PermissionError as error:
                    denied = error
        finally:
            for pidfd in pidfds.values():
                os.close(pidfd)
    if denied is not None:
        raise denied


def _opened(pids: list[int]) -> dict[int, int]:
    found = {}
    for pid in pids:
        try:
            found[pid] = os.pidfd_open(pid)
        except OSError:
            continue  # gone, or no descriptor is free: it is met again in the next round
    return found


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def remove(path: str) -> None:
    """With all that the processes in it made below. Raises OSError while something lives there."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    else:
        return
    if is_populated(events(path)):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    for directory in reversed(below(path)):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue


def kill_and_remove(path: str, within_s: float) -> bool:
    """False when something still lives in it after that time, or it cannot be removed."""
    deadline_s = time.monotonic() + within_s
    try:
        while is_populated(events(path)):
            kill(path)
            if not _empties(path, _KILL_AGAIN_S) and time.monotonic() > deadline_s:
                return False
        remove(path)
    except OSError:
        return False
    return True


def _empties(path: str, within_s: float) -> bool:
    deadline_s = time.monotonic() + within_s
    fd = os.open(f"{path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while is_populated(os.pread(fd, _EVENTS_BYTES, 0)):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            poll.poll(left_s * 1000)
        return True
    finally:
        os.close(fd)


def _members(path: str) -> list[int]:
    # 0 is a process that this PID namespace does not show.
    return [int(word) for word in _read(f"{path}/cgroup.procs").split()]


def _members_if_there(path: str) -> list[int]:
    try:
        return _members(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        if error.errno in {errno.ENODEV, errno.EOPNOTSUPP}:  # removed just now; threaded
            return []
        raise


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(fd, 1 << 16), b""))
    finally:
        os.close(fd)


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)
