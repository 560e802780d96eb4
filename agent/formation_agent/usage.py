"""What the process trees of this host use: cpu, memory, open files, output. Looks only when asked.

A tree with a cgroup of its own is asked there, as far as the kernel counts for it; the others are
found in one pass over /proc. All of it goes in small slices, between which the loop runs.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from formation.model import Slot, Usage
from formation_agent import cgroups, procfs
from formation_agent.children import MARK
from formation_agent.entries import Running

# Who asks more often gets the same answer again.
PERIOD_S = 1.0
SLICE_S = 0.005
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_GENERATIONS_MAX = 64


@dataclass(frozen=True, slots=True)
class _Stat:
    """One process, from /proc/PID/stat."""

    pid: int
    parent: int
    group: int
    session: int
    cpu_s: float
    memory_bytes: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class _Sample:
    """The sums that rates are made of, at a time of the monotonic clock."""

    at_s: float
    cpu_s: float
    log_bytes: int


class UsageReader(Protocol):
    """What others need of `UsageSampler`."""

    async def sample(self, app: str) -> tuple[Usage, ...]:
        """Raises OSError."""


class UsageSampler:
    """`running` names the trees, `log_bytes` how much the present process of a slot has written.
    `keeper_pid`: to whom orphans are handed. `now_s` is the clock since boot."""

    def __init__(
        self,
        *,
        running: Callable[[], Iterable[Running]],
        log_bytes: Callable[[Slot], int],
        keeper_pid: int,
        now_s: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._running = running
        self._log_bytes = log_bytes
        self._keeper_pid = keeper_pid
        self._now_s = now_s
        self._since_s = now_s()
        self._sampled_s = float("-inf")
        self._before: dict[str, _Sample] = {}
        self._usages: list[tuple[Slot, Usage]] = []
        self._sampling = asyncio.Lock()

    async def sample(self, app: str = "") -> tuple[Usage, ...]:
        """Every instance of which something runs; of one app, or of all. Rates are over the time
        since the sample before, or since the process began when there is none.

        Raises OSError when no descriptor is free to look.
        """
        async with self._sampling:
            if self._now_s() - self._sampled_s >= PERIOD_S:
                await self._sample()
        return tuple(usage for slot, usage in self._usages if app in {"", slot.app})

    async def _sample(self) -> None:
        slices = _Slices()
        trees = tuple(self._running())
        loose = [tree for tree in trees if not tree.cgroup]
        members = await _members(loose, self._keeper_pid, slices) if loose else {}
        samples: dict[str, _Sample] = {}
        usages: list[tuple[Slot, Usage]] = []
        for tree in trees:
            if tree.cgroup:
                usage = _of_cgroup(tree.uid, tree.cgroup)
            else:
                usage = _of_processes(tree.uid, members.get(tree.uid, []))
            samples[tree.key], usage = self._rated(tree, usage)
            usages.append((tree.slot, usage))
            if slices.is_over():
                await slices.rest()
        self._before, self._usages, self._sampled_s = samples, usages, self._now_s()

    def _rated(self, tree: Running, usage: Usage) -> tuple[_Sample, Usage]:
        now_s, log_bytes = self._now_s(), self._log_bytes(tree.slot)
        sample = _Sample(now_s, usage.cpu_s, log_bytes)
        before = self._before.get(tree.key) or _Sample(_began_s(tree.pid, now_s), 0.0, 0)
        # Output is counted since there is somebody who reads it.
        log_since_s = max(before.at_s, self._since_s)
        rated = replace(
            usage,
            cpu_share=_rate(usage.cpu_s - before.cpu_s, now_s - before.at_s),
            log_bytes=log_bytes,
            log_bytes_per_s=_rate(log_bytes - before.log_bytes, now_s - log_since_s),
        )
        return sample, rated


class _Slices:
    """Cuts a long piece of work, so that the loop is never held for long."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    def is_over(self) -> bool:
        return time.perf_counter() - self._began_s > SLICE_S

    async def rest(self) -> None:
        await asyncio.sleep(0)
        self._began_s = time.perf_counter()


def _rate(amount: float, duration_s: float) -> float:
    """Nothing where a tree has less than before: some of its processes have ended."""
    return max(amount, 0.0) / duration_s if duration_s > 0 else 0.0


def _began_s(pid: int, now_s: float) -> float:
    stat = _stat(pid) if pid else None
    return now_s if stat is None else stat.start_ticks / _TICKS_PER_S


# -- who belongs to which tree ---------------------------------------------------------------------


def _in_cgroup(path: str) -> list[int]:
    try:
        return cgroups.members(path)
    except OSError:
        return []


async def _members(
    trees: Iterable[Running], keeper_pid: int, slices: _Slices
) -> dict[str, list[_Stat]]:
    """The processes of trees without cgroups, by uid."""
    table: dict[int, _Stat] = {}
    for pid in procfs.all_pids():
        if (stat := _stat(pid)) is not None:
            table[pid] = stat
        if slices.is_over():
            await slices.rest()
    mains = {tree.pid: tree.uid for tree in trees if tree.pid}
    uids = {tree.uid for tree in trees}
    owners: dict[int, str] = {}
    found: dict[str, list[_Stat]] = {}
    for stat in table.values():
        uid = _owner(stat, table, mains, owners, keeper_pid)
        if uid in uids:
            found.setdefault(uid, []).append(stat)
        if slices.is_over():
            await slices.rest()
    return found


def _owner(
    stat: _Stat,
    table: Mapping[int, _Stat],
    mains: Mapping[int, str],
    owners: dict[int, str],
    keeper_pid: int,
) -> str:
    """The uid of the tree that a process belongs to: by its session, its group, its parents, or,
    of an orphan, by its mark. "": none. `owners` remembers what was found out."""
    passed = []
    uid = ""
    for _ in range(_GENERATIONS_MAX):
        known = owners.get(stat.pid)
        uid = known or mains.get(stat.session) or mains.get(stat.group) or ""
        passed.append(stat.pid)
        if uid or known is not None:
            break
        if stat.parent == keeper_pid:
            uid = _mark(stat.pid)
            break
        parent = table.get(stat.parent)
        if parent is None:
            break
        stat = parent
    owners.update(dict.fromkeys(passed, uid))
    return uid


def _mark(pid: int) -> str:
    mark = procfs.variable(pid, MARK.encode())
    return mark.decode("utf-8", "surrogateescape") if mark else ""


# -- what a tree uses ------------------------------------------------------------------------------


def _of_cgroup(uid: str, path: str) -> Usage:
    """What the kernel does not count for the tree is added up over its processes."""
    pids = _in_cgroup(path)
    cpu_s, memory_bytes = _cgroup_cpu_s(path), _cgroup_memory_bytes(path)
    processes = Usage(uid=uid, processes=len(pids), files=_files(pids))
    if cpu_s is None or memory_bytes is None:
        stats = [stat for pid in pids if (stat := _stat(pid)) is not None]
        processes = _of_processes(uid, stats)
    return replace(
        processes,
        cpu_s=processes.cpu_s if cpu_s is None else cpu_s,
        memory_bytes=processes.memory_bytes if memory_bytes is None else memory_bytes,
    )


def _of_processes(uid: str, stats: Collection[_Stat]) -> Usage:
    return Usage(
        uid=uid,
        cpu_s=sum(stat.cpu_s for stat in stats),
        memory_bytes=sum(stat.memory_bytes for stat in stats),
        processes=len(stats),
        files=_files(stat.pid for stat in stats),
    )


def _cgroup_cpu_s(path: str) -> float | None:
    """Of all that ever ran in it; Linux counts it with and without the cpu controller."""
    for line in _read(f"{path}/cpu.stat").split(b"\n"):
        if line.startswith(b"usage_usec "):
            return int(line.split()[1]) / 1e6
    return None


def _cgroup_memory_bytes(path: str) -> int | None:
    content = _read(f"{path}/memory.current")
    return int(content) if content else None


def _stat(pid: int) -> _Stat | None:
    """None for a process that has ended, reaped or not."""
    content = _read(f"/proc/{pid}/stat")
    if not content:
        return None
    # The name is in brackets and may itself hold brackets and blanks.
    fields = content[content.rindex(b")") + 2 :].split()
    if fields[0] in {b"Z", b"X"}:
        return None
    ticks = int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
    return _Stat(
        pid,
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        ticks / _TICKS_PER_S,
        int(fields[21]) * _PAGE_BYTES,
        int(fields[19]),
    )


def _files(pids: Iterable[int]) -> int:
    """-1 when we may not look at one of them."""
    total = 0
    for pid in pids:
        try:
            total += _files_of(f"/proc/{pid}/fd")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        except OSError:
            return -1
    return total


def _files_of(directory: str) -> int:
    # Since Linux 6.2 the size is their number.
    return os.stat(directory).st_size or len(os.listdir(directory))


def _read(path: str) -> bytes:
    """b"" for what is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""
    finally:
        os.close(fd)
