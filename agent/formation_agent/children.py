"""The keeper's children: spawn, signal, reap, and know when a whole tree is gone.

Used by the keeper alone; standard library only. Answers are the messages that the brain shall get.

Identity. The keeper is the only reaper of its children, so between spawn and reap a pid cannot
mean anything else; and nothing is reaped but in `reaped`. A group's number is used only until it
was seen empty.

A tree in a cgroup of its own is empty exactly when that is. One without is empty when its main
process was reaped, its process group has no member, and none of the orphans that were handed to us
(we are their sub-reaper) carries the stay's mark in its environment. One that has joined another's
cgroup is its process group and no more; if it leads a session of people's (an exec), all that is in
this, and the orphans with its own mark.
"""

from __future__ import annotations

import os
import select
import signal
import time

from formation_agent import cgroups, groups, privileges, procfs
from formation_agent.containment import Containment, discard
from formation_agent.depot import PACK_FDS_MAX, Depot
from formation_agent.spawnerror import NoEntry, SpawnError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from formation_agent.link import Message
    from formation_agent.spawn import Spawned, Spawner

# Orphans are recognised by this variable of the environment that the brain gives every instance.
MARK = "FORMATION_INSTANCE"
# And what an exec has left behind, by this one beside it.
EXEC_MARK = "FORMATION_EXEC"
_EVENTS_BYTES = 4096
# The pipes of so many children may be in our table, more are put away.
_LOOSE_MAX = 64
_PACK_MAX = PACK_FDS_MAX // 2
_UNDO_S = 1.0
# What older programs do not hand over.
_NEW_IN_STATE = {"fence_s": -1.0, "leads": False}


class Child:
    """One spawned process and what is left of its tree."""

    __slots__ = (
        "asked",
        "cgroup",
        "empty",
        "events",
        "exit",
        "fence_s",
        "forgotten",
        "group_gone",
        "key",
        "leads",
        "mark",
        "notify",
        "pid",
        "put_away",
        "spawned_at_ms",
        "start_ticks",
        "stderr",
        "stdout",
        "told",
    )

    def __init__(self, key: str, mark: str | None, spawned: Spawned, start_ticks: int) -> None:
        self.key = key
        self.mark = mark.encode("utf-8", "surrogateescape") if mark else None
        self.pid = spawned.pid
        self.start_ticks = start_ticks
        self.spawned_at_ms = time.time_ns() // 1_000_000
        self.stdout = spawned.stdout
        self.stderr = spawned.stderr
        self.notify = spawned.notify
        self.put_away = False  # its pipes are in the depot, and -1 here
        self.cgroup = spawned.cgroup
        self.events = -1  # of the cgroup, while something lives in it that the main process left
        self.exit: Message | None = None
        self.group_gone = False
        self.empty = False
        self.asked = 0  # the last signal for the whole tree that asked it to end
        self.told: set[int] = set()  # the groups that got it
        self.forgotten = False
        self.leads = False  # its tree is the whole session: a shell gives every job a group
        self.fence_s = -1.0  # of an exclusive one: killed so long after the agent's lease

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
            "cgroup": self.cgroup,
        }

    def state(self) -> Message:
        """For the next program in the keeper's process: everything, as JSON takes it."""
        state = {name: getattr(self, name) for name in self.__slots__}
        mark = self.mark.decode("utf-8", "surrogateescape") if self.mark else None
        return {**state, "mark": mark, "told": list(self.told), "events": -1}

    @classmethod
    def of_state(cls, state: Message) -> Child:
        child = cls.__new__(cls)
        for name in cls.__slots__:
            setattr(child, name, state[name] if name in state else _NEW_IN_STATE[name])
        child.mark = state["mark"].encode("utf-8", "surrogateescape") if state["mark"] else None
        child.told = set(state["told"])
        return child

    def open_pidfd(self) -> int:
        """-1 when it has ended, or no descriptor is free."""
        try:
            return os.pidfd_open(self.pid) if self.exit is None else -1
        except OSError:
            return -1

    def pipes(self) -> tuple[int, ...]:
        """What a brain is given copies of: stdout, stderr, and its socket if it has one.

        Not while they are put away.
        """
        fds = (self.stdout, self.stderr, self.notify)
        return tuple(fd for fd in fds if fd >= 0)

    def close(self) -> None:
        for fd in self.pipes():
            os.close(fd)
        self.stdout = self.stderr = self.notify = -1

    def stop_watching(self) -> None:
        if self.events >= 0:
            os.close(self.events)  # and is watched no more
            self.events = -1


class Children:
    """Every child that no brain has taken leave of.

    `states` are those of the program before this one in the keeper's process. What becomes readable
    in `poll` because of us asks for `reaped` to be called.
    """

    def __init__(
        self, spawner: Spawner, poll: select.epoll, states: Iterable[Message] = ()
    ) -> None:
        self._spawner = spawner
        self._poll = poll
        self._containment = Containment()
        given = [Child.of_state(state) for state in states]
        self._children = {child.key: child for child in given}
        # Main processes that are not reaped, and those that are with trees not seen empty.
        self._by_pid = {child.pid: child for child in given if child.exit is None}
        self._lingering = {child.key: child for child in given if child.exit and not child.empty}
        self._depot = Depot()
        self._loose = {child.key: child for child in given}  # their pipes are in our table
        self._gone_in_depot = 0
        self.unseen = False  # orphans could not be looked at: `reaped` wants to be called again

    def state(self) -> list[Message]:
        return [child.state() for child in self]

    def descriptors(self) -> Iterable[int]:
        return [fd for child in self for fd in child.pipes()]

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children.values())

    @property
    def living(self) -> bool:
        return bool(self._by_pid or self._lingering)

    # --- starting -------------------------------------------------------------------------------

    def contain(self, order: Message, brain_pid: int) -> Message:
        """From here on every tree gets a cgroup, if that can be; the answer says whether. And no
        more privileges than this machine's owner lets it have."""
        privileges.drop(new_privileges=order.get("new_privileges", True))
        name = order["name"]
        ours = {os.getpid(), brain_pid}
        self._containment.contain(name, ours, {child.cgroup for child in self})
        return {
            "op": "contained",
            "path": self._containment.path,
            "controllers": self._containment.controllers,
            "problem": self._containment.problem,
        }

    def close(self) -> None:
        """At the keeper's end: removes what cgroups it has made."""
        self._containment.close()

    def spawn(self, order: Message) -> Child | str:
        """The new child, or why there is none. Raises ValueError for a key that is in use."""
        key = order["key"]
        if key in self._children:
            raise ValueError(f"{key} runs already")
        host = self._children.get(order.get("join", ""))
        if "join" in order and (host is None or host.exit is not None):
            return f"{order['join']} does not run"
        began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        try:
            if host is None:
                spawned = self._start(order)
            else:
                beside = {**order, "beside": host.pid}
                spawned = self._spawner.joining(beside, host.cgroup, self._containment)
        except SpawnError as error:
            return str(error)
        # Who joined another's tree is known by its group alone: the mark is that tree's.
        leads = bool(order.get("takes"))
        mark = order["env"].get(EXEC_MARK if leads else MARK) if leads or host is None else None
        child = Child(key, mark, spawned, procfs.ticks_since(began_ns, spawned.pid))
        child.fence_s = order.get("fence_s", -1.0)
        child.leads = leads
        self._children[key] = self._by_pid[child.pid] = self._loose[key] = child
        return child

    def _start(self, order: Message) -> Spawned:
        cgroup = self._containment.make(order["key"])
        try:
            spawned = self._spawner.child(order, cgroup, self._containment)
        except NoEntry as error:
            discard(cgroup)
            self._containment.without(str(error))
            return self._spawner.child(order, "", self._containment)
        except SpawnError:
            if cgroup:
                cgroups.kill_and_remove(cgroup, _UNDO_S)  # a fork may be ending in it
            raise
        # Not before the keeper has left it: a child's limits must never hold for the keeper.
        if spawned.cgroup:
            self._containment.limit(spawned.cgroup, order.get("limits", {}))
        return spawned

    def forget(self, key: str) -> None:
        """The exit is known; the tree is still watched until it is empty."""
        child = self._children.get(key)
        if child is not None:
            child.forgotten = True
            self._drop_if_over(child)

    def _drop_if_over(self, child: Child) -> None:
        if not (child.forgotten and child.empty):
            return
        del self._children[child.key]
        self._loose.pop(child.key, None)
        child.close()
        self._gone_in_depot += child.put_away
        if self._gone_in_depot > max(_LOOSE_MAX, len(self._children) // 2):
            self.bring_out()

    # --- their pipes ----------------------------------------------------------------------------

    def put_away(self) -> None:
        """Into the depot with all pipes, if they are many; no brain may wait for one of them."""
        if len(self._loose) < _LOOSE_MAX or not self._depot.has_room(2 * _LOOSE_MAX):
            return
        loose = [child for child in self._loose.values() if child.stdout >= 0]
        for start in range(0, len(loose), _PACK_MAX):
            pack = loose[start : start + _PACK_MAX]
            if not self._depot.put([(item.key, (item.stdout, item.stderr)) for item in pack]):
                return
            for item in pack:
                os.close(item.stdout)
                os.close(item.stderr)
                item.stdout = item.stderr = -1
                item.put_away = True
                del self._loose[item.key]

    def bring_out(self) -> None:
        """Into our table with all pipes; those of children that are no more are closed."""
        for key, fds in self._depot.take_all():
            child = self._children.get(key)
            if child is None:
                for fd in fds:
                    os.close(fd)
                continue
            child.stdout, child.stderr, *_ = (*fds, -1, -1)
            child.put_away = False
            self._loose[key] = child
        self._gone_in_depot = 0

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
                os.kill(child.pid, signum)
        except ProcessLookupError:
            return

    def _signal_tree(self, child: Child, signum: int) -> None:
        if child.cgroup:
            _signal_contained(child, signum)
            return
        reached = self._groups_of(child)
        if signum != signal.SIGCONT and child.asked != signal.SIGKILL:
            child.asked, child.told = signum, set(reached)
        denied: PermissionError | None = None
        for group in reached:
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
            found = {os.getpgid(pid) for pid in self._orphans().get(child.mark, ())}
        except OSError:
            self.unseen = True  # they get it when they can be seen
            found = set()
        if not child.group_gone:
            found.add(child.pid)
            found |= groups.in_session(child.pid) if child.leads else set()
        return found - {os.getpgrp()}

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
        clean = info.si_code == os.CLD_EXITED
        child.exit = {
            "code": info.si_status if clean else None,
            "signal": None if clean else info.si_status,
            "core_dumped": info.si_code == os.CLD_DUMPED,
            "oom_killed": bool(child.cgroup) and cgroups.out_of_memory(child.cgroup),
        }
        self._lingering[child.key] = child
        return child

    def _emptied(self) -> list[Child]:
        """The lingering trees that are now empty."""
        self.unseen = False
        emptied = self._emptied_cgroups() + self._emptied_groups()
        for child in emptied:
            child.empty = True
            del self._lingering[child.key]
        return emptied

    def _emptied_cgroups(self) -> list[Child]:
        emptied = []
        for child in self._lingering.values():
            if not child.cgroup:
                continue
            try:
                if self._lives(child):
                    continue
            except OSError:
                self.unseen = True
                continue
            child.stop_watching()
            discard(child.cgroup)
            emptied.append(child)
        return emptied

    def _lives(self, child: Child) -> bool:
        """Whether its cgroup has processes; watched from then on. Raises OSError."""
        if child.events < 0 and not cgroups.is_populated(cgroups.events(child.cgroup)):
            return False
        try:
            if child.events < 0:
                path = f"{child.cgroup}/cgroup.events"
                child.events = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self._poll.register(child.events, select.EPOLLPRI | select.EPOLLET)
            # Every look arms it for the next change.
            return cgroups.is_populated(os.pread(child.events, _EVENTS_BYTES, 0))
        except OSError:
            child.stop_watching()
            raise

    def _emptied_groups(self) -> list[Child]:
        """Those without a cgroup; passes on to orphans what their tree was told."""
        asked = [child for child in self._children.values() if child.asked and not child.empty]
        lingering = [child for child in self._lingering.values() if not child.cgroup]
        groupless = [child for child in lingering if groups.is_gone(child)]
        if not groupless and not asked:
            return []
        try:
            orphans = self._orphans()
        except OSError:
            self.unseen = True  # a tree is not empty because we could not look
            return []
        for child in asked:
            groups.pass_on(child, orphans.get(child.mark, ()))
        return [child for child in groupless if child.mark not in orphans]

    def _orphans(self) -> dict[bytes | None, list[int]]:
        """Processes handed to us because their parents ended, by the mark of the stay.

        Raises OSError when we cannot look at them now.
        """
        found: dict[bytes | None, list[int]] = {}
        for pid in procfs.own_children():
            if pid not in self._by_pid:
                environment = procfs.settled_environment(pid)
                for name in (MARK, EXEC_MARK):
                    mark = procfs.variable_in(environment, name.encode())
                    if mark is not None:
                        found.setdefault(mark, []).append(pid)
        return found


def _exited(child: Child) -> Message:
    assert child.exit is not None
    return {"op": "exited", "key": child.key, "empty": child.empty, **child.exit}


def _signal_contained(child: Child, signum: int) -> None:
    """To its group at once, and to all others in its cgroup.

    KILL goes to the cgroup as a whole, which nothing in it can outrun.
    """
    failure: OSError | None = None
    try:
        if child.exit is None:  # later the number may come to mean another group
            os.killpg(child.pid, signum)
    except OSError as error:
        failure = error
    if signum == signal.SIGKILL:
        cgroups.kill(child.cgroup)
        return
    cgroups.send(child.cgroup, signum, child.pid if child.exit is None else 0)
    if failure is not None:
        raise failure
