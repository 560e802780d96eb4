"""Process groups and sessions of trees that have no cgroup of their own.

Used by the keeper alone; standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal

from formation_agent import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from formation_agent.children import Child


def pass_on(child: Child, orphans: Iterable[int]) -> None:
    """To those that were not to be seen when the tree was told: their parents lived then.

    Each is handed to us and not yet reaped, so its number and its group's are its own.
    """
    for pid in orphans:
        group = os.getpgid(pid)
        # Once for each group; what a group that is killed still starts is killed too.
        if group == os.getpgrp() or (group in child.told and child.asked != signal.SIGKILL):
            continue
        child.told.add(group)
        try:
            os.killpg(group, child.asked)
            os.killpg(group, signal.SIGCONT)
        except (PermissionError, ProcessLookupError):
            continue  # another user's by now: it stays in the way of "empty"


def in_session(number: int) -> set[int]:
    found = set()
    for pid in procfs.members_of_session(number):
        with contextlib.suppress(ProcessLookupError):
            found.add(os.getpgid(pid))
    return found


def is_gone(child: Child) -> bool:
    """Once it was, its number may come to mean another group. So with a session."""
    if child.leads and not child.group_gone:
        child.group_gone = not procfs.members_of_session(child.pid)
    elif not child.group_gone:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            child.group_gone = True
        except PermissionError:
            return False
    return child.group_gone
