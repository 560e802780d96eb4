"""The keeper's children: spawn, signal, reap, and know when a whole tree is gone.

Used by the keeper alone; standard library only. Answers are the messages that the brain shall get.

Identity. The keeper is the only reaper of its children, so between spawn and reap a pid cannot
mean anything else; signals to a main process go through its pidfd. A group's number is used only
until it was seen empty.

A tree is empty when its main process was reaped, its process group has no member, and none of the
orphans that were handed to us (we are their sub-reaper) carries the stay's mark in its environment.
"""

from __future__ import annotations

import os
import signal
import time

from formation_agent import procfs
from formation_agent.spawn import SpawnError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from formation_agent.link import Message
    from formation_agent.spawn import Spawned, Spawner

# Orphans are recognised by this variable of the environment that the brain gives every instance.
MARK = "FORMATION_INSTANCE"


class Child:
    """One spawned process and what is left of its tree."""

    __slots__ = (
        "asked",
        "empty",
        "exit",
        "forgotten",
        "group_gone",
        "key",
        "mark",
        "pid",
        "pidfd",
        "spawned_at_ms",
        "start_ticks",
        "stderr",
        "stdout",
        "told",
    )

    def __init__(self, key: str, mark: str | None, spawned: Spawned) -> None:
        self.key = key
        self.mark = mark.encode("utf-8", "surrogateescape") if mark else None
        self.pid = spawned.pid
        self.start_ticks = procfs.start_ticks(spawned.pid) or 0
        self.pidfd = os.pidfd_open(spawned.pid)
        self.spawned_at_ms = time.time_ns() // 1_000_000
        self.stdout = spawned.stdout
        self.stderr = spawned.stderr
        self.exit: Message | None = None
        self.group_gone = False
        self.empty = False
        self.asked = 0  # the last signal for the whole tree that asked it to end
        self.told: set[int] = set()  # the groups that got it
        self.forgotten = False

    def described(self, op: str) -> Message:
        return {
            "op": op,
            "key": self.key,
            "pid": self.pid,
            "start_ticks": self.start_ticks,
            "spawned_at_ms": self.spawned_at_ms,
            "mark": self.mark.decode("utf-8", "surrogateescape") if self.mark else None,
            "exited": self.exit,
            "empty": self.empty,
        }

    def pipes(self) -> tuple[int, ...]:
        return (self.stdout, self.stderr) if self.stdout >= 0 else ()

    def close(self) -> None:
        for fd in self.pipes():
            os.close(fd)
        self.stdout = self.stderr = -1


class Children:
    """Every child that no brain has taken leave of."""

    def __init__(self, spawner: Spawner) -> None:
        self._spawner = spawner
        self._children: dict[str, Child] = {}
        self._by_pid: dict[int, Child] = {}  # main processes that are not reaped
        self._lingering: dict[str, Child] = {}  # reaped, tree not seen empty
        self.unseen = False  # orphans could not be looked at: `reaped` wants to be called again

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children.values())

    @property
    def living(self) -> bool:
        return bool(self._by_pid or self._lingering)

    def spawn(
        self, key: str, file: str, argv: list[str], env: dict[str, str], cwd: str
    ) -> Child | str:
        """The new child, or why there is none. Raises ValueError for a key that is in use."""
        if key in self._children:
            raise ValueError(f"{key} runs already")
        try:
            spawned = self._spawner.child(file, argv, env, cwd)
        except SpawnError as error:
            return str(error)
        try:
            child = Child(key, env.get(MARK), spawned)
        except OSError as error:  # no descriptor free for the pidfd
            _undo(spawned)
            return f"the agent cannot watch the process: {error.strerror}"
        self._children[key] = self._by_pid[child.pid] = child
        return child

    def forget(self, key: str) -> None:
        """The exit is known; the tree is still watched until it is empty."""
        child = self._children.get(key)
        if child is not None:
            child.forgotten = True
            self._drop_if_over(child)

    def _drop_if_over(self, child: Child) -> None:
        if child.forgotten and child.empty:
            del self._children[child.key]
            child.close()

    # --- signals --------------------------------------------------------------------------------

    def signal(self, key: str, signum: int, *, whole_group: bool) -> None:
        """Raises PermissionError for a process of another user, when we are not root."""
        child = self._children.get(key)
        if child is None or child.empty:
            return
        try:
            if whole_group:
                self._signal_tree(child, signum)
            elif child.exit is None:
                signal.pidfd_send_signal(child.pidfd, signum)
        except ProcessLookupError:
            return

    def _signal_tree(self, child: Child, signum: int) -> None:
        groups = self._groups_of(child)
        if signum != signal.SIGCONT and child.asked != signal.SIGKILL:
            child.asked, child.told = signum, set(groups)
        denied: PermissionError | None = None
        for group in groups:
            try:
                os.killpg(group, signum)
            except ProcessLookupError:
                continue
            except PermissionError as error:
                denied = error
        if denied is not None:
            raise denied

    def _groups_of(self, child: Child) -> set[int]:
        """Its own group, and those in which orphans of this stay went on."""
        try:
            groups = {os.getpgid(pid) for pid in self._orphans().get(child.mark, ())}
        except OSError:
            self.unseen = True  # they get it when they can be seen
            groups = set()
        if not child.group_gone:
            groups.add(child.pid)
        return groups - {os.getpgrp()}

    # --- exits ----------------------------------------------------------------------------------

    def reaped(self, infos: Iterable[os.waitid_result]) -> list[Message]:
        """What to tell of these processes, ours or adopted, that were reaped just now."""
        exited = [child for info in infos if (child := self._on_exit(info)) is not None]
        emptied = self._emptied()
        messages = [_exited(child) for child in exited]
        told = {child.key for child in exited}
        messages += [
            {"op": "empty", "key": child.key} for child in emptied if child.key not in told
        ]
        for child in emptied:
            self._drop_if_over(child)
        return messages

    def _on_exit(self, info: os.waitid_result) -> Child | None:
        child = self._by_pid.pop(info.si_pid, None)
        if child is None:
            return None
        os.close(child.pidfd)
        child.pidfd = -1
        clean = info.si_code == os.CLD_EXITED
        child.exit = {
            "code": info.si_status if clean else None,
            "signal": None if clean else info.si_status,
            "core_dumped": info.si_code == os.CLD_DUMPED,
        }
        self._lingering[child.key] = child
        return child

    def _emptied(self) -> list[Child]:
        """The lingering trees that are now empty; passes on to orphans what their tree was told."""
        self.unseen = False
        asked = [child for child in self._children.values() if child.asked and not child.empty]
        groupless = [child for child in self._lingering.values() if _group_is_gone(child)]
        if not groupless and not asked:
            return []
        try:
            orphans = self._orphans()
        except OSError:
            self.unseen = True  # a tree is not empty because we could not look
            return []
        for child in asked:
            _pass_on(child, orphans.get(child.mark, ()))
        emptied = [child for child in groupless if child.mark not in orphans]
        for child in emptied:
            child.empty = True
            del self._lingering[child.key]
        return emptied

    def _orphans(self) -> dict[bytes | None, list[int]]:
        """Processes handed to us because their parents ended, by the mark of the stay.

        Raises OSError when we cannot look at them now.
        """
        found: dict[bytes | None, list[int]] = {}
        for pid in procfs.own_children():
            if pid not in self._by_pid:
                mark = procfs.variable_in(procfs.environment(pid), MARK.encode())
                if mark is not None:
                    found.setdefault(mark, []).append(pid)
        return found


def _exited(child: Child) -> Message:
    assert child.exit is not None
    return {"op": "exited", "key": child.key, "empty": child.empty, **child.exit}


def _undo(spawned: Spawned) -> None:
    os.close(spawned.stdout)
    os.close(spawned.stderr)
    try:
        os.killpg(spawned.pid, signal.SIGKILL)
    except PermissionError:
        return  # a program that changes its user; its output is gone at least


def _pass_on(child: Child, orphans: Iterable[int]) -> None:
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


def _group_is_gone(child: Child) -> bool:
    """Once it was, its number may come to mean another group."""
    if not child.group_gone:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            child.group_gone = True
        except PermissionError:
            return False
    return child.group_gone
