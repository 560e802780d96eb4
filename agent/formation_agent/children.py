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
        "empty",
        "exit",
        "forgotten",
        "group_gone",
        "key",
        "killed",
        "mark",
        "pid",
        "pidfd",
        "spawned_at_ms",
        "start_ticks",
        "stderr",
        "stdout",
    )

    def __init__(self, key: str, mark: str | None, spawned: Spawned) -> None:
        self.key = key
        self.mark = mark.encode() if mark else None
        self.pid = spawned.pid
        self.pidfd = os.pidfd_open(spawned.pid)
        self.start_ticks = procfs.start_ticks(spawned.pid) or 0
        self.spawned_at_ms = time.time_ns() // 1_000_000
        self.stdout = spawned.stdout
        self.stderr = spawned.stderr
        self.exit: Message | None = None
        self.group_gone = False
        self.empty = False
        self.killed = False
        self.forgotten = False

    def described(self, op: str) -> Message:
        return {
            "op": op,
            "key": self.key,
            "pid": self.pid,
            "start_ticks": self.start_ticks,
            "spawned_at_ms": self.spawned_at_ms,
            "mark": self.mark.decode() if self.mark else None,
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
        child.killed = child.killed or signum == signal.SIGKILL
        denied: PermissionError | None = None
        for group in self._groups_of(child):
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
        groups = {os.getpgid(pid) for pid in self._orphans().get(child.mark, ())}
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
        """The lingering trees that are now empty; kills what shows up of killed ones."""
        groupless = [child for child in self._lingering.values() if _group_is_gone(child)]
        if not groupless:
            return []
        orphans = self._orphans()
        emptied = []
        for child in groupless:
            left = orphans.get(child.mark, ())
            for pid in left if child.killed else ():
                _kill_orphan(pid)
            if not left:
                child.empty = True
                del self._lingering[child.key]
                emptied.append(child)
        return emptied

    def _orphans(self) -> dict[bytes | None, list[int]]:
        """Processes handed to us because their parents ended, by the mark of the stay."""
        found: dict[bytes | None, list[int]] = {}
        for pid in procfs.own_children():
            if pid not in self._by_pid:
                mark = procfs.variable(pid, MARK.encode())
                if mark is not None:
                    found.setdefault(mark, []).append(pid)
        return found


def _exited(child: Child) -> Message:
    assert child.exit is not None
    return {"op": "exited", "key": child.key, "empty": child.empty, **child.exit}


def _undo(spawned: Spawned) -> None:
    os.killpg(spawned.pid, signal.SIGKILL)
    os.close(spawned.stdout)
    os.close(spawned.stderr)


def _kill_orphan(pid: int) -> None:
    """Handed to us and not yet reaped, so the number is its own."""
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:
        return  # another user's by now; it stays in the way of "empty"


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
