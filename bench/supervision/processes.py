"""What the measures read in /proc: who runs, and what it takes. Also the end of all of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

MIB = 1 << 20
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.001
_OFTEN_S = 0.0001


class TooSlowError(Exception):
    """What was waited for did not come."""


def adopt_orphans() -> None:
    """Whatever a contestant leaves behind becomes a child of the bench, which can then end it."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Newcomers:
    """The processes with exactly the words `argv` that were not there when this was made."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = tuple(argv)
        self._others = set(_numbers())
        self._last_pid = _last_pid()
        self.pids: list[int] = []

    def wait(self, count: int, deadline_s: float) -> float:
        """When (`perf_counter`) there were `count` of them, seen within a millisecond or two."""
        ends_s = time.perf_counter() + deadline_s
        while True:
            if self._may_be(count):
                self.look()
            now_s = time.perf_counter()
            if len(self.pids) >= count:
                return now_s
            if now_s > ends_s:
                raise TooSlowError(f"{len(self.pids)} of {count} run after {deadline_s:g} s")
            time.sleep(_LOOK_S)

    def look(self) -> None:
        known = set(self.pids)
        for pid in _numbers():
            if pid not in self._others and pid not in known and runs(pid, self._argv):
                self.pids.append(pid)

    def _may_be(self, count: int) -> bool:
        """Cheaper than to look: have so many processes been made at all?"""
        made = _last_pid() - self._last_pid
        return made < 0 or made >= count


def _numbers() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _last_pid() -> int:
    with open("/proc/loadavg", "rb") as file:
        return int(file.read().split()[-1])


def runs(pid: int, argv: Sequence[str]) -> bool:
    """Whether that is what it executes; the program may be named with or without its path."""
    words = arguments(pid)
    return words[1:] == list(argv[1:]) and os.path.basename(words[0]) == os.path.basename(argv[0])


def arguments(pid: int) -> list[str]:
    return _read(f"/proc/{pid}/cmdline").decode(errors="replace").removesuffix("\0").split("\0")


def parent(pid: int) -> int:
    data = _read(f"/proc/{pid}/stat")
    return int(data.rpartition(b")")[2].split()[1]) if data else 0


def descendants(pid: int) -> list[int]:
    """`pid` itself is not among them."""
    below: dict[int, list[int]] = {}
    for number in _numbers():
        below.setdefault(parent(number), []).append(number)
    found: list[int] = []
    rest = [pid]
    while rest:
        children = below.get(rest.pop(), [])
        found += children
        rest += children
    return found


def alive(pids: Iterable[int]) -> list[int]:
    """Those that run; what has ended and was not collected does not."""
    return [pid for pid in pids if _state(pid) not in {"", "Z", "X"}]


def _state(pid: int) -> str:
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return fields[0].decode() if fields else ""


def wait_for_end(pids: Sequence[int], deadline_s: float) -> float:
    """When the last of them was gone."""
    ends_s = time.perf_counter() + deadline_s
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([fd], [], [], max(0.0, ends_s - time.perf_counter()))[0]:
                left = len(alive(pids))
                raise TooSlowError(f"{left} of {len(pids)} are there after {deadline_s:g} s")
        finally:
            os.close(fd)
    return time.perf_counter()


class Replacement:
    """Sees who takes the place of `pid` among its parent's children, within 0.2 ms."""

    def __init__(self, pid: int) -> None:
        self._argv = arguments(pid)
        parent_pid = parent(pid)
        tasks = os.listdir(f"/proc/{parent_pid}/task")
        self._lists = [f"/proc/{parent_pid}/task/{task}/children" for task in tasks]
        self._before = self._children()

    def wait(self, deadline_s: float) -> float:
        ends_s = time.perf_counter() + deadline_s
        while True:
            fresh = self._children() - self._before
            now_s = time.perf_counter()
            if any(runs(int(word), self._argv) for word in fresh):
                return now_s
            if now_s > ends_s:
                raise TooSlowError(f"no replacement within {deadline_s:g} s")
            time.sleep(_OFTEN_S)

    def _children(self) -> set[bytes]:
        return {word for path in self._lists for word in _read(path).split()}


# --- what they take -------------------------------------------------------------------------------


def rss_bytes(pid: int) -> int:
    return _status(pid, "VmRSS")


def rss_peak_bytes(pid: int) -> int:
    return _status(pid, "VmHWM")


def pss_bytes(pid: int) -> int:
    """Its memory with what it shares with others divided among them."""
    for line in _read(f"/proc/{pid}/smaps_rollup").decode().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _status(pid: int, name: str) -> int:
    for line in _read(f"/proc/{pid}/status").decode(errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_s(pids: Iterable[int]) -> float:
    """Processor time of all their threads so far, to the nanosecond."""
    total = 0
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            fields = _read(str(path)).split()
            total += int(fields[0]) if fields else 0
    return total / 1e9


# --- the end --------------------------------------------------------------------------------------


def end_all_below() -> None:
    """Nothing that a contestant started, or left behind, survives it."""
    ends_s = time.monotonic() + 30.0
    while (below := descendants(os.getpid())) and time.monotonic() < ends_s:
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _collect()
        time.sleep(0.01)


def _collect() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


def _read(path: str) -> bytes:
    """b"" for a process that is gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall() or b""
    except OSError:
        return b""
