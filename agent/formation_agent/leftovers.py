"""Finds and kills processes by a mark in their environment, when nobody is left who knows them.

Identity is a pidfd that was checked after it was opened, never a bare pid. Only processes that we
may look at (our own user's; everybody's for root) are found.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Sequence

from formation_agent import procfs

_GONE_S = 10.0


def kill_leftovers(agent_id: str) -> list[int]:
    """Kills what an agent of this id left behind when keeper and brain were both killed.

    Waits until they are gone (10 s at most) and returns their pids. Recognised by FORMATION_AGENT
    in their environment; nothing else is touched, nor are we and our ancestors.
    """
    return kill_marked(b"FORMATION_AGENT", {agent_id.encode()})


def kill_marked(name: bytes, values: set[bytes]) -> list[int]:
    """Kills every process that was started with one of these values of a variable."""
    deadline_s = time.monotonic() + _GONE_S
    spared = _self_and_ancestors()
    killed: list[int] = []
    # Again until a look finds none: they may have started others while we looked.
    while time.monotonic() < deadline_s:
        pidfds = dict(_marked(name, values, spared))
        spared |= {pid for pid, pidfd in pidfds.items() if not _kill(pidfd)}
        new = [pid for pid in pidfds if pid not in spared]
        _wait_until_gone([pidfds[pid] for pid in new], deadline_s)
        for pidfd in pidfds.values():
            os.close(pidfd)
        if not new:
            break
        killed += new
    return killed


def _marked(name: bytes, values: set[bytes], spared: set[int]) -> Iterable[tuple[int, int]]:
    """(pid, pidfd) of the processes that were started with one of these values."""
    for pid in procfs.all_pids():
        if pid in spared or procfs.variable(pid, name) not in values:
            continue
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue  # gone
        # Looked at once more: only now can the number no longer come to mean another process.
        if procfs.variable(pid, name) in values:
            yield pid, pidfd
        else:
            os.close(pidfd)


def _kill(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def _wait_until_gone(pidfds: Sequence[int], deadline_s: float) -> None:
    waiting = set(pidfds)
    poll = select.poll()
    for pidfd in waiting:
        poll.register(pidfd, select.POLLIN)
    while waiting and (left_s := deadline_s - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(left_s * 1000):
            poll.unregister(pidfd)
            waiting.discard(pidfd)


def _self_and_ancestors() -> set[int]:
    spared, pid = set(), os.getpid()
    while pid > 0 and pid not in spared:
        spared.add(pid)
        pid = procfs.parent(pid)
    return spared
