"""Runs the stays of this host: feeds the machine with events and carries its instructions out.

Decides nothing itself: what follows from an event is the machine's business, what is wanted is
the leader's. Never stops a process because somebody fell silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from formation.model import (
    AgentMemory,
    Assignment,
    Assignments,
    InstanceStatus,
    ProcessType,
    Slot,
    Tries,
)
from formation.runtime import now_ms
from formation_agent import entries, facts, machine, orders, processes
from formation_agent.alarms import Alarms
from formation_agent.entries import Entry
from formation_agent.journal import Journal
from formation_agent.launch import Launcher, LaunchError
from formation_agent.machine import Phase, Stay
from formation_agent.news import News

# A stop that takes this long is worth telling who blocks it.
BLOCKER_AFTER_S = 5.0
_BLOCKERS_NAMED = 10
_NOT_WANTED = "no longer wanted on this host"
_AGENT_STOPS = "the agent is stopping"

log = logging.getLogger(__name__)


class Children(Protocol):
    """What is needed of `processes.Processes`."""

    def spawn(self, key: str, *, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> None: ...
    def signal(self, key: str, signum: int, *, whole_group: bool = True) -> None: ...
    def forget(self, key: str) -> None: ...
    def events(self) -> AsyncIterator[processes.Event]: ...


class LogRoom(Protocol):
    """What is needed of `logs.Logs`."""

    def attach(self, slot: Slot, stdout_fd: int, stderr_fd: int) -> None: ...
    def close_pipes(self, slot: Slot) -> None: ...
    def note(self, slot: Slot, text: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The latest of every instance that changed, and the uids that are no more."""

    changed: tuple[InstanceStatus, ...] = ()
    gone_uids: tuple[str, ...] = ()


class Supervisor:
    """`news` is set while `take_changes` has something to give; `terminate` when somebody asked
    the agent to end, `urgent` from the second time on."""

    def __init__(
        self,
        *,
        children: Children,
        logs: LogRoom,
        launcher: Launcher,
        journal: Journal,
        jitter: Callable[[], float],
    ) -> None:
        self._children = children
        self._logs = logs
        self._launcher = launcher
        self._journal = journal
        self._jitter = jitter
        self._now_s = asyncio.get_running_loop().time
        self._entries: dict[str, Entry] = {}
        self._live: set[str] = set()
        # What is followed: the assignments of the journal, a moment later.
        self._wanted: dict[str, Assignment] = {}
        self._obeying = asyncio.Lock()
        # Keys of processes that were asked for or run, or left something behind that does.
        self._trees: set[str] = set()
        self._pipes_lost = 0
        # The first uid of a slot holds it; the others wait for its processes to be gone.
        self._slots: dict[Slot, deque[str]] = {}
        self._ports: dict[Slot, int] = dict(journal.memory.ports)
        self._releases = orders.by_key(journal.memory.releases)
        self._inbox: deque[tuple[str, machine.Event]] = deque()
        self._feeding = False
        self._alarms = Alarms(lambda uid: self._feed(uid, machine.Tick()))
        self._news = News()
        self._closing = False
        self._boot_id = facts.boot_id()
        self._idle = asyncio.Event()
        self.news = self._news.event
        self.terminate = asyncio.Event()
        self.urgent = asyncio.Event()
        journal.collect_with(self.remembered)

    # -- starting: what the journal says × what the keeper has -------------------------------------

    def start(self, children: Iterable[processes.Child]) -> None:
        """Goes on where an earlier brain ended; starts what has no process."""
        memory = self._journal.memory
        for slot, port in memory.ports.items():
            self._launcher.ports.remember(slot, port)
        known = {item.uid: item for item in (*memory.assigned, *memory.ending)}
        self._wanted = {item.uid: item for item in memory.assigned}
        for child in sorted(children, key=lambda child: entries.attempt_of(child.key)):
            uid = entries.uid_of(child.key)
            self._adopt(child, known.get(uid))
            # Before its exit is heard, or it would be started again.
            if uid not in self._wanted:
                self._feed(uid, machine.StopWanted(reason=_NOT_WANTED))
            if child.exited is not None:
                self._exited(replace(child.exited, empty=child.empty), just_now=False)
        for item in memory.assigned:
            if item.uid not in self._entries:
                self._add(item)

    def _adopt(self, child: processes.Child, assignment: Assignment | None) -> None:
        uid = entries.uid_of(child.key)
        stay = self._stay_of(assignment or entries.stray(uid, child.pid))
        now_s = self._now_s()
        started_s = facts.monotonic_of_ticks(child.start_ticks, now_s)
        attempt = entries.attempt_of(child.key)
        stay = machine.adopted(
            stay, pid=child.pid, attempt=attempt, started_s=started_s, now_s=now_s
        )
        ticks, started_at_ms = child.start_ticks, child.spawned_at_ms
        self._enter(Entry(stay=stay, start_ticks=ticks, started_at_ms=started_at_ms))
        self._trees.add(child.key)
        if (port := self._ports.get(stay.assignment.slot)) is not None:
            self._launcher.ports.hold(stay.assignment.slot, port)
        self._attach(self._entries[uid], child.stdout_fd, child.stderr_fd, lost=not child.empty)

    # -- orders ------------------------------------------------------------------------------------

    async def take(self, order: Assignments) -> orders.Verdict:
        """Judged; if it is obeyed, on disk first, then done.

        Raises `JournalError` and does nothing.
        """
        # A session that breaks meanwhile must not leave orders written but not followed.
        return await asyncio.shield(self._take(order))

    async def _take(self, order: Assignments) -> orders.Verdict:
        # Judged by what the order before it left, which may be of a session that is over.
        async with self._obeying:
            verdict = orders.judge(self._journal.memory, order)
            if isinstance(verdict, orders.Obey):
                await self._obey(verdict)
            return verdict

    async def _obey(self, order: orders.Obey) -> None:
        self._releases = {**self._releases, **orders.by_key(order.releases)}
        await self._journal.commit(
            epoch=order.epoch, generation=order.generation, assigned=order.assigned
        )
        if not self._closing:
            self._follow(order.assigned)
        self._releases = orders.by_key(self.remembered(self._journal.memory).releases)

    def _follow(self, assigned: tuple[Assignment, ...]) -> None:
        self._wanted = {item.uid: item for item in assigned}
        # New stays first: one that takes a slot over then keeps the slot's port.
        for item in assigned:
            if item.uid not in self._entries:
                self._add(item)
        for uid in [uid for uid in self._entries if uid not in self._wanted]:
            self._feed(uid, machine.StopWanted(reason=_NOT_WANTED))

    async def forget_orders(self) -> None:
        """The last thing: what was assigned runs elsewhere. Raises `JournalError`."""
        await self._obeying.acquire()  # for good: no order that is on its way comes after this
        await self._journal.commit(assigned=())

    def remembered(self, memory: AgentMemory) -> AgentMemory:
        """What goes to disk: `memory` and all that is known here beside it."""
        assigned = {item.uid for item in memory.assigned}
        ending = tuple(
            self._entries[uid].stay.assignment for uid in self._live if uid not in assigned
        )
        kept = (*memory.assigned, *ending)
        needed = {(item.slot.app, item.release) for item in kept}
        slots, uids = {item.slot for item in kept}, {item.uid for item in kept}
        return replace(
            memory,
            ending=ending,
            releases=tuple(release for key, release in self._releases.items() if key in needed),
            ports={slot: port for slot, port in self._ports.items() if slot in slots},
            tries={uid: entry.tries for uid, entry in self._entries.items() if uid in uids},
            boot_id=self._boot_id,
        )

    def _add(self, assignment: Assignment, before: Stay | None = None) -> None:
        stay = self._stay_of(assignment)
        if before is not None:
            stay = replace(stay, attempt=before.attempt, failures=before.failures)
        entry = Entry(stay=stay)
        self._enter(entry)
        if self._slots[entry.slot][0] == entry.uid:
            self._feed(entry.uid, machine.SlotFree())
        else:
            reason = f"waits until the stay before it in {entry.slot.short} has ended"
            entry.stay = replace(entry.stay, reason=reason)

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.uid] = entry
        self._live.add(entry.uid)
        self._slots.setdefault(entry.slot, deque()).append(entry.uid)
        self._alarms.set(entry.uid, entry.stay.wake_at_s)
        self._news.changed(entry.uid)

    def _stay_of(self, assignment: Assignment) -> Stay:
        slot = assignment.slot
        tries = self._journal.memory.tries.get(assignment.uid, Tries())
        release = self._releases.get((slot.app, assignment.release))
        spec = release.type_named(slot.type) if release else None
        return Stay(
            assignment=assignment,
            # Only a stray has none, and it is only stopped.
            spec=spec or ProcessType(name=slot.type, command=""),
            attempt=tries.attempt,
            failures=tries.failures,
        )

    # -- events of children ------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the keeper is gone. Raises `processes.KeeperGone`."""
        async for event in self._children.events():
            self.hear(event)

    def hear(self, event: processes.Event) -> None:
        match event:
            case processes.Terminate(urgent=urgent):
                self.terminate.set()
                if urgent:
                    self.urgent.set()
            case processes.Started():
                self._started(event)
            case processes.SpawnFailed(key=key, reason=reason):
                self._trees.discard(key)
                self._of_child(key, machine.SpawnFailed(reason=reason))
            case processes.Exited():
                self._exited(event, just_now=True)
            case processes.TreeEmpty(key=key):
                self._of_child(key, machine.TreeEmpty(), empty=True)

    def _exited(self, event: processes.Exited, *, just_now: bool) -> None:
        exited = machine.Exited(how=entries.how(event), empty=event.empty, just_now=just_now)
        self._of_child(event.key, exited, empty=event.empty)

    def _started(self, event: processes.Started) -> None:
        entry = self._entry_of(event.key)
        if entry is None:
            log.error("pid %d was started as %s, unknown here: killed", event.pid, event.key)
            for fd in (event.stdout_fd, event.stderr_fd):
                with contextlib.suppress(OSError):
                    os.close(fd)
            self._children.signal(event.key, signal.SIGKILL)
            return
        entry.start_ticks, entry.started_at_ms = event.start_ticks, now_ms()
        heard = self._attach(entry, event.stdout_fd, event.stderr_fd, lost=True)
        self._of_child(event.key, machine.Spawned(pid=event.pid))
        if not heard:
            # Nobody would read what it writes: it would wait for ever. Later there may be room.
            self._children.signal(event.key, signal.SIGKILL)

    def _attach(self, entry: Entry, stdout_fd: int, stderr_fd: int, *, lost: bool) -> bool:
        """False when a pipe did not arrive; `lost`: then one is missing."""
        if stdout_fd >= 0 or stderr_fd >= 0:
            self._logs.attach(entry.slot, stdout_fd, stderr_fd)
        missing = (stdout_fd, stderr_fd).count(-1) if lost else 0
        if missing:
            self._pipes_lost += missing
            text = f"too many open files: raise LimitNOFILE ({self._pipes_lost} pipes lost so far)"
            log.error("%s: its output cannot be read: %s", entry.slot, text)
            self._logs.note(entry.slot, f"its output cannot be read: {text}")
        return not missing

    def _of_child(self, key: str, event: machine.Event, *, empty: bool = False) -> None:
        entry = self._entry_of(key)
        if empty:
            self._trees.discard(key)
        if entry is None:
            if empty:
                self._children.forget(key)
            return
        if empty:
            # Before the next process of this slot writes: what the last one wrote comes first.
            self._logs.close_pipes(entry.slot)
        self._feed(entry.uid, event)

    def _entry_of(self, key: str) -> Entry | None:
        entry = self._entries.get(entries.uid_of(key))
        return entry if entry is not None and entry.key == key else None

    # -- the machine -------------------------------------------------------------------------------

    def _feed(self, uid: str, event: machine.Event) -> None:
        """One event, and all that follow from it."""
        self._inbox.append((uid, event))
        if self._feeding:
            return  # the loop below, further up the stack, takes it
        self._feeding = True
        try:
            while self._inbox:
                self._step(*self._inbox.popleft())
        finally:
            self._feeding = False

    def _step(self, uid: str, event: machine.Event) -> None:
        entry = self._entries.get(uid)
        if entry is None:
            return
        before = entry.stay
        try:
            stay, instructions = machine.advance(before, event, self._now_s(), self._jitter())
        except machine.IllegalMove:
            log.exception("a bug: this event was ignored")
            return
        entry.stay = stay
        for instruction in instructions:
            self._carry_out(entry, instruction)
        if stay is not before:
            self._moved(entry, before)

    def _carry_out(self, entry: Entry, instruction: machine.Instruction) -> None:
        match instruction:
            case machine.Spawn():
                self._spawn(entry)
            case machine.Signal(signal=name):
                number = entries.signal_number(name)
                self._children.signal(entry.key, number)
                if number != signal.SIGKILL:
                    # A process that somebody stopped cannot handle it otherwise.
                    self._children.signal(entry.key, signal.SIGCONT)
            case machine.Forget(attempt=attempt):
                self._children.forget(f"{entry.uid}:{attempt}")

    def _moved(self, entry: Entry, before: Stay) -> None:
        stay = entry.stay
        self._alarms.set(entry.uid, stay.wake_at_s)
        self._news.changed(entry.uid)
        entry.retry_at_ms = self._wall_ms(stay.retry_at_s)
        if entries.kept_of(stay) != entries.kept_of(before):
            self._journal.touch()
        if stay.failures > before.failures or (stay.killing and not before.killing):
            log.warning("%s: %s", entry.slot, stay.reason)
        elif stay.phase is not before.phase:
            log.debug("%s (%s): %s %s", entry.slot, entry.uid, stay.phase, stay.reason)
        if stay.phase is Phase.STOPPED:
            self._ended(entry)

    def _spawn(self, entry: Entry) -> None:
        try:
            self._launch(entry)
        except LaunchError as error:
            self._feed(entry.uid, machine.SpawnFailed(reason=str(error)))
        except Exception as error:  # one bad assignment must not end all the others
            log.exception("%s: a bug: it cannot be started", entry.slot)
            self._trees.discard(entry.key)
            self._feed(entry.uid, machine.SpawnFailed(reason=f"cannot be started: {error!r}"))

    def _launch(self, entry: Entry) -> None:
        assignment = entry.stay.assignment
        release = self._releases.get((entry.slot.app, assignment.release))
        launch = self._launcher.prepare(assignment, release, running=len(self._trees))
        if launch.moved_from:
            moved = f"port {launch.moved_from} is not free: PORT is {launch.port}"
            log.info("%s: %s", entry.slot, moved)
            self._logs.note(entry.slot, moved)
        if self._ports.get(entry.slot) != launch.port:
            self._ports[entry.slot] = launch.port
            self._journal.touch()
        self._trees.add(entry.key)
        self._children.spawn(entry.key, argv=launch.argv, env=launch.env, cwd=launch.cwd)

    def _ended(self, entry: Entry) -> None:
        """The tree is gone: its slot is free for the next stay."""
        self._live.discard(entry.uid)
        if not self._live:
            self._idle.set()
        holders = self._slots[entry.slot]
        held = holders[0] == entry.uid
        holders.remove(entry.uid)
        if holders and held:
            self._feed(holders[0], machine.SlotFree())
        # While the agent ends, the table keeps what it has stopped.
        if not self._closing:
            self._drop(entry)
        self._journal.touch()

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.uid]
        self._news.gone(entry.uid)
        if not self._slots[entry.slot]:
            del self._slots[entry.slot]
            self._ports.pop(entry.slot, None)
            self._launcher.ports.release(entry.slot)
        if (wanted := self._wanted.get(entry.uid)) is not None:
            self._add(wanted, before=entry.stay)  # it was listed again while it was being stopped

    def _wall_ms(self, at_s: float | None) -> int:
        return 0 if at_s is None else now_ms() + int((at_s - self._now_s()) * 1000)

    # -- telling -----------------------------------------------------------------------------------

    def statuses(self) -> tuple[InstanceStatus, ...]:
        """The whole table; what was to be told before is in it."""
        self._news.take()
        return tuple(self._status(entry) for entry in self._entries.values())

    def take_changes(self) -> Changes:
        taken = self._news.take()
        changed = tuple(self._status(self._entries[uid]) for uid in taken.changed_uids)
        return Changes(changed=changed, gone_uids=taken.gone_uids)

    @property
    def runs_anything(self) -> bool:
        return any(self._entries[uid].stay.pid for uid in self._live)

    def _status(self, entry: Entry) -> InstanceStatus:
        stay = entry.stay
        return InstanceStatus(
            uid=entry.uid,
            slot=entry.slot,
            release=stay.assignment.release,
            state=stay.state,
            pid=stay.pid,
            port=self._ports.get(entry.slot, 0) if stay.attempt else 0,
            attempt=stay.attempt,
            started_at_ms=entry.started_at_ms if stay.pid else 0,
            reason=stay.reason,
            last_exit=stay.last_exit,
            retry_at_ms=entry.retry_at_ms,
        )

    # -- the end -----------------------------------------------------------------------------------

    async def stop_all(self) -> None:
        """Stop every stay, each with its own grace; at once when `urgent` is set. Waits for all."""
        self._closing = True
        if not self._live:
            return
        self._idle.clear()
        for uid in list(self._live):
            self._feed(uid, machine.StopWanted(reason=_AGENT_STOPS))
        async with asyncio.TaskGroup() as group:
            helpers = (
                group.create_task(self._kill_when_urgent()),
                group.create_task(self._name_blockers()),
            )
            await self._idle.wait()
            for helper in helpers:
                helper.cancel()

    async def _kill_when_urgent(self) -> None:
        await self.urgent.wait()
        for uid in list(self._live):
            self._feed(uid, machine.KillWanted(reason="killed: the agent was told to end at once"))

    async def _name_blockers(self) -> None:
        while True:
            await asyncio.sleep(BLOCKER_AFTER_S)
            log.info("still running: %s", self._blockers())

    def _blockers(self) -> str:
        stays = sorted(
            (self._entries[uid].stay for uid in self._live), key=lambda stay: stay.assignment.slot
        )
        named = ", ".join(
            f"{stay.assignment.slot} ({f'pid {stay.pid}' if stay.pid else 'what it left behind'})"
            for stay in stays[:_BLOCKERS_NAMED]
        )
        more = len(stays) - _BLOCKERS_NAMED
        return f"{named} and {more} more" if more > 0 else named
