"""Finds and kills processes when nobody is left who knows them.

They are recognised by a mark in their environment, or by who they are: boot, pid and start time of
the leader of their session. Each is killed through a pidfd that was checked after it was opened,
never by a bare pid. Only processes that we may look at (our own user's; everybody's for root) are
found, and none that has overwritten its environment and is not in a known session.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from formation_agent import procfs

_GONE_S = 10.0
_CANNOT_LOOK_S = 0.05
# boot_id, pid and start_ticks: names one process for ever.
Identity = tuple[str, int, int]
# Which agent a process was started by: in the environment of every instance.
AGENT_MARK = b"FORMATION_AGENT"


def kill_leftovers(agent_id: str, known: Iterable[Identity] = ()) -> list[int]:
    """Kills what an agent of this id left behind when keeper and brain were both killed.

    Waits until they are gone (10 s at most) and returns their pids. Recognised by FORMATION_AGENT
    in their environment, and as members of the sessions that the `known` processes lead (which
    finds those that have overwritten their environment: setproctitle, Perl's `$0`). Nothing else
    is touched, nor are we and our ancestors.
    """
    killed = kill_sessions(known)
    return killed + kill_marked({AGENT_MARK: {agent_id.encode()}})


def kill_marked(marks: Mapping[bytes, set[bytes]]) -> list[int]:
    """Kills every process that was started with one of these values of each of these variables."""

    def belongs(pid: int) -> bool:
        environment = procfs.awaited_environment(pid)
        return all(
            procfs.variable_in(environment, name) in values for name, values in marks.items()
        )

    return _kill_until_none(belongs)


def kill_sessions(known: Iterable[Identity]) -> list[int]:
    """Kills every process of the sessions that these lead, if they are still themselves."""
    leaders = {pid: ticks for boot, pid, ticks in known if _is_same(boot, pid, ticks)}
    if not leaders:
        return []

    def belongs(pid: int) -> bool:
        leader = procfs.session(pid)
        if leader not in leaders:
            return False
        # A leader that we killed a moment ago has left its number to its session; a number that
        # came to lead another session has another start time.
        return procfs.start_ticks(leader) in {leaders[leader], None}

    return _kill_until_none(belongs)


def _is_same(boot_id: str, pid: int, ticks: int) -> bool:
    try:
        return procfs.start_ticks(pid) == ticks and procfs.boot_id() == boot_id != ""
    except OSError:
        return False


def _kill_until_none(belongs: Callable[[int], bool]) -> list[int]:
    """`belongs` says of a pid whether it is one of those that shall die."""
    deadline_s = time.monotonic() + _GONE_S
    spared = _self_and_ancestors()
    killed: list[int] = []
    # Again until a look finds none: they may have started others while we looked.
    while time.monotonic() < deadline_s:
        pidfds, saw_all = _found(belongs, spared)
        spared |= {pid for pid, pidfd in pidfds.items() if not _kill(pidfd)}
        new = [pid for pid in pidfds if pid not in spared]
        _wait_until_gone([pidfds[pid] for pid in new], deadline_s)
        for pidfd in pidfds.values():
            os.close(pidfd)
        if not new and saw_all:
            break
        if not new:
            time.sleep(_CANNOT_LOOK_S)
        killed += new
    return killed


def _found(belongs: Callable[[int], bool], spared: set[int]) -> tuple[dict[int, int], bool]:
    """The pidfds of those that belong; False when we could not look at all of them."""
    found: dict[int, int] = {}
    try:
        for pid in procfs.all_pids():
            if pid in spared or not belongs(pid):
                continue
            try:
                found[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            # Looked at once more: only now can the number no longer come to mean another process.
            # One that is dead and waits to be reaped still leads and belongs to its session.
            if not belongs(pid) or _is_dead(found[pid]):
                os.close(found.pop(pid))
    except OSError:  # no descriptor is free; some are when those found so far are gone
        return found, False
    return found, True


def _is_dead(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


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
        try:
            pid = procfs.parent(pid)
        except OSError:  # no descriptor is free: the nearest ones have to do
            return spared | {os.getppid()}
    return spared
