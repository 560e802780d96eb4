"""The dead man's switch: the keeper is gone, so everything that it had must go at once.

Runs in the brain, which may have hung for hours before it noticed: by then another agent may have
ended what was left and may run the same instances anew. So a process is killed without more ado
only if it is known to be the same one, and its cgroup only while it lives; what is found by a
number, a mark or the name of a cgroup is killed only by who holds the state directory's lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from formation_agent import cgroups, link, procfs
from formation_agent.children import MARK
from formation_agent.leftovers import AGENT_MARK, kill_marked

# A dying keeper, or a child that it was just starting, lets go of the lock within this time.
_LOCK_TRIES, _LOCK_AGAIN_S = 50, 0.02
# A child that was being started shows its mark from its exec on.
_LOOKS, _LOOK_AGAIN_S = 4, 0.05
_REMOVE_WITHIN_S = 1.0


@dataclass(slots=True, kw_only=True)
class Tree:
    """A child whose tree is not known to be empty; `pidfd` is -1 when its main process is gone.

    `cgroup` is its own, or "".
    """

    pid: int
    pidfd: int
    start_ticks: int
    mark: bytes | None
    cgroup: str = ""

    @property
    def is_led(self) -> bool:
        """Whether its main process is not known to be gone."""
        return self.pidfd >= 0

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def watch(message: link.Message, fds: list[int]) -> Tree:
    """Holds on to the process itself by the pidfd that came along, if there was one."""
    return Tree(
        pid=message["pid"],
        pidfd=fds.pop(0) if "pidfd" in message and fds else -1,
        start_ticks=message["start_ticks"],
        mark=encode_mark(message["mark"]),
        cgroup=message.get("cgroup", ""),
    )


def encode_mark(mark: str | None) -> bytes | None:
    return mark.encode("utf-8", "surrogateescape") if mark else None


def kill_all(
    trees: Collection[Tree],
    asked: set[bytes],
    lock_path: str | None,
    *,
    contained: str = "",
    agent: str = "",
) -> None:
    """`asked`: the marks of what the keeper was to start and did not report. `contained`: the
    directory of all this agent's cgroups, "" without. `agent`: its id, "" before it is known.
    """
    orphaned = [tree for tree in trees if not _kill_group_of_same(tree)]
    if not (trees or asked or contained):
        return
    with _locked(lock_path) as nobody_else:
        if not nobody_else:
            return  # the next agent has killed what was left, and some of this may be its own
        if contained:
            _kill_cgroup(contained)  # with all that was being started
        for tree in orphaned:
            _kill_group_unless_another(tree)
            _kill_cgroup(tree.cgroup)
        _kill_by_marks({tree.mark for tree in trees if tree.mark is not None}, asked, agent)
        if contained:
            cgroups.kill_and_remove(contained, _REMOVE_WITHIN_S)


def _kill_by_marks(marks: set[bytes], asked: set[bytes], agent: str) -> None:
    ours = {AGENT_MARK: {agent.encode()}} if agent else {}
    if marks or asked:
        kill_marked({**ours, MARK.encode(): marks | asked})
    for _ in range(_LOOKS if asked else 0):
        time.sleep(_LOOK_AGAIN_S)
        kill_marked({**ours, MARK.encode(): asked})


def _kill_group_of_same(tree: Tree) -> bool:
    """Whether its main process is there: then the number of its group is its own."""
    if tree.pidfd < 0:
        return False
    try:
        signal.pidfd_send_signal(tree.pidfd, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's by now, and there
    _kill_cgroup(tree.cgroup)
    _kill_group(tree.pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(tree.pidfd, signal.SIGKILL)
    return True


def _kill_cgroup(path: str) -> None:
    if path:
        with contextlib.suppress(OSError):  # gone, or no descriptor is free: the next start's
            cgroups.kill(path)


def _kill_group_unless_another(tree: Tree) -> None:
    """Its main process is gone, but while the group has members nobody else has its number."""
    with contextlib.suppress(OSError):
        if procfs.start_ticks(tree.pid) in {None, tree.start_ticks}:
            _kill_group(tree.pid)


def _kill_group(number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(number, signal.SIGKILL)


@contextlib.contextmanager
def _locked(path: str | None) -> Iterator[bool]:
    """Whether nobody else holds the lock, which is then ours until the end of the block."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC) if path is not None else -1
    except OSError:
        fd = -1  # removed: it says nothing any more
    try:
        yield fd < 0 or _take(fd)
    finally:
        if fd >= 0:
            os.close(fd)


def _take(lock: int) -> bool:
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_AGAIN_S)
        except OSError:
            return True  # a file system without locks
        else:
            return True
    return False
