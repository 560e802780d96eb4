"""Runs the stays of this host: feeds the machine with events and carries its instructions out.

Decides nothing itself: what follows from an event is the machine's business, what is wanted is
the leader's. Never stops a process because somebody fell silent.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from msgspec import structs

from formation.memory import AgentMemory, Tries
from formation.model import Assignment, Assignments, InstanceStatus, Release, RestartPolicy, Slot
from formation.runtime import now_ms
from formation_agent import entries, facts, machine, orders, processes
from formation_agent.alarms import Alarms
from formation_agent.coderoom import Code, CodeGate
from formation_agent.ending import Ending
from formation_agent.entries import Changes, Entry, Running
from formation_agent.exclusives import Exclusives
from formation_agent.forgetting import Forgetting
from formation_agent.hold import Hold
from formation_agent.journal import Journal
from formation_agent.launch import Launcher, LaunchError
from formation_agent.machine import Phase, Stay
from formation_agent.news import News
from formation_agent.output import Output, close
from formation_agent.rooms import Children, Health, LogRoom
from formation_agent.slots import Slots

# How long an agent that finds none of its processes, as after a boot, waits for word that what it
# remembers was moved meanwhile.
START_WAIT_S = 5.0
_NOT_WANTED = "no longer wanted on this host"
_HELD = "the agent has just started: waits a moment for orders"

log = logging.getLogger(__name__)


class Supervisor:
    """`news` is set while `take_changes` has something to give; `terminate` when somebody asked
    the agent to end, `urgent` from the second time on; `reload` when this brain shall end and
    nothing else."""

    def __init__(
        self,
        *,
        children: Children,
        logs: LogRoom,
        health: Health,
        launcher: Launcher,
        journal: Journal,
        jitter: Callable[[], float],
        start_wait_s: float = START_WAIT_S,
        code: Code | None = None,
    ) -> None:
        self._children = children
        self._output = Output(logs)
        self.happened = self._output.happened
        self._health = health
        self._launcher = launcher
        self._journal = journal
        self._jitter = jitter
        self._loop = asyncio.get_running_loop()
        self._now_s = self._loop.time
        self._entries: dict[str, Entry] = {}
        self._live: set[str] = set()
        # What is followed: the assignments of the journal, a moment later.
        self._wanted: dict[str, Assignment] = {}
        # What the brain before was ending, until orders say what is wanted.
        self._past: tuple[Assignment, ...] = ()
        self._obeying = asyncio.Lock()
        self._hold = Hold(start_wait_s, self._start_held, self._obeying.locked)
        # Keys of processes that were asked for or run, or left something behind that does.
        self._trees: set[str] = set()
        self._ends = Forgetting(children.forget, journal.once_written)
        self._slots = Slots()
        self._ports: dict[Slot, int] = dict(journal.memory.ports)
        self._releases = orders.by_key(journal.memory.releases)
        self._inbox: deque[tuple[str, machine.Event]] = deque()
        self._feeding = False
        self._alarms = Alarms(lambda uid: self._feed(uid, machine.Tick()))
        self._news = News()
        self._closing = self._drains = False
        self.exclusives = Exclusives(
            children, self._entries, self._live, self._feed, self._start_if_free
        )
        self._code = CodeGate(code, self._entries, self._release_of, self._start_if_free)
        self._code.changed = self._news.changed
        self._boot_id = facts.boot_id()
        self._idle = asyncio.Event()
        self.news = self._news.event
        self.terminate = asyncio.Event()
        self.urgent = asyncio.Event()
        self.reload = asyncio.Event()
        journal.collect_with(self.remembered)

    # -- starting: what the journal says × what the keeper has -------------------------------------

    def start(self, children: Iterable[processes.Child]) -> None:
        """Goes on where an earlier brain ended; starts what has no process."""
        memory = self._journal.memory
        for slot, port in memory.ports.items():
            self._launcher.ports.remember(slot, port)
        known = {item.uid: item for item in (*memory.assigned, *memory.ending)}
        self._wanted = {item.uid: item for item in memory.assigned if not item.ending}
        self._past = memory.ending
        found = sorted(children, key=lambda child: entries.attempt_of(child.key))
        for child in found:
            self._find(child, known.get(entries.uid_of(child.key)))
        new = [item for uid, item in self._wanted.items() if uid not in self._entries]
        if not found:
            self._hold.add(item.uid for item in new)
        for item in new:
            self._add(item)
        self._launcher.files.sweep(self._entries.keys())
        self._hold.begin()

    def _find(self, child: processes.Child, assignment: Assignment | None) -> None:
        uid = entries.uid_of(child.key)
        self._adopt(child, assignment)
        # Before its exit is heard, or it would be started again.
        if uid not in self._wanted:
            self._feed(uid, machine.StopWanted(reason=_NOT_WANTED))
        if child.exited is not None:
            self._exited(replace(child.exited, empty=child.empty), just_now=False)

    def _adopt(self, child: processes.Child, assignment: Assignment | None) -> None:
        uid, attempt = entries.uid_of(child.key), entries.attempt_of(child.key)
        stay = self._stay_of(assignment or entries.stray(uid, child.pid))
        tries, now_s = self._journal.memory.tries.get(uid, Tries()), self._now_s()
        stay = machine.adopted(
            stay,
            pid=child.pid,
            attempt=attempt,
            started_s=facts.monotonic_of_ticks(child.start_ticks, now_s),
            ready=tries.ready and tries.attempt == attempt,
            now_s=now_s,
        )
        entry = Entry(stay=stay, start_ticks=child.start_ticks, started_at_ms=child.spawned_at_ms)
        entry.cgroup = child.cgroup
        self._enter(entry)
        self._trees.add(child.key)
        if (port := self._ports.get(entry.slot)) is not None:
            self._launcher.ports.hold(entry.slot, port)
        self._output.attach(entry.slot, child.stdout_fd, child.stderr_fd, lost=not child.empty)
        if child.exited is None:
            release = self._release_of(entry)
            entry.launch = self._launcher.recall(stay.assignment, release, port or 0)
            self._watch(entry, child.notify_fd, ready=stay.phase is not Phase.STARTING)
        else:
            close(child.notify_fd)

    def _start_held(self, uid: str) -> None:
        entry = self._entries.get(uid)
        if entry is not None and not self._closing:
            self._start_if_free(entry)

    # -- orders ------------------------------------------------------------------------------------

    async def take(self, order: Assignments) -> orders.Verdict:
        """Judged; if obeyed, on disk first, then done. Raises `JournalError` and does nothing."""
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
            epoch=order.epoch,
            generation=order.generation,
            cluster_epoch=order.cluster_epoch,
            assigned=order.assigned,
        )
        if not self._closing:
            self._follow(order.assigned)
        held = (entry.stay.assignment for entry in self._entries.values())
        self._releases = entries.needed(self._releases, (*order.assigned, *self._past, *held))

    def _follow(self, assigned: tuple[Assignment, ...]) -> None:
        self._wanted = {item.uid: item for item in assigned if not item.ending}
        # New stays first: one that takes a slot over then keeps the slot's port.
        for item in self._wanted.values():
            entry = self._entries.get(item.uid)
            if entry is None:
                self._add(item)
            elif item != entry.stay.assignment:
                self._change(entry, item)
        for uid in [uid for uid in self._entries if uid not in self._wanted]:
            self._feed(uid, machine.StopWanted(reason=_NOT_WANTED))
        self._past = ()
        self._hold.let_go()

    def _change(self, entry: Entry, assignment: Assignment) -> None:
        """Of a stay only this can change: that somebody asked for another try."""
        retried = assignment.retry_mark > entry.stay.assignment.retry_mark
        entry.stay = structs.replace(entry.stay, assignment=assignment)
        if retried:
            self._feed(entry.uid, machine.RetryWanted())

    async def forget_orders(self) -> None:
        """The last thing: what was assigned runs elsewhere. Raises `JournalError`."""
        await self._obeying.acquire()  # for good: no order that is on its way comes after this
        await self._journal.commit(assigned=())

    def remembered(self, memory: AgentMemory) -> AgentMemory:
        """What goes to disk: `memory` and all that is known here beside it."""
        ending = [self._entries[uid] for uid in self._live]
        if self._closing:
            ending += [entry for entry in self._entries.values() if entries.had_its_try(entry.stay)]
        memory = entries.remembered(
            memory, self._entries, ending, self._releases, self._ports, self._past
        )
        return replace(memory, boot_id=self._boot_id)

    def _add(self, assignment: Assignment, before: Stay | None = None) -> None:
        entry = Entry(stay=entries.interrupted(self._stay_of(assignment, before)))
        self._enter(entry)
        self._start_if_free(entry)

    def _start_if_free(self, entry: Entry) -> None:
        if self._closing or entry.stay.phase is not Phase.WAITING:
            return  # what does not wait came to its end before
        why = self._code.hindrance(entry)  # first: it comes while something else is waited for
        if not self._slots.holds(entry.slot, entry.uid):
            why = f"waits until the stay before it in {entry.slot.short} has ended"
        elif entry.uid in self._hold:
            why = _HELD
        if why := why or self.exclusives.hindrance(entry):
            entry.stay = structs.replace(entry.stay, reason=why)
        else:
            self._feed(entry.uid, machine.SlotFree())

    def _release_of(self, entry: Entry) -> Release | None:
        return self._releases.get((entry.slot.app, entry.stay.assignment.release))

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.uid] = entry
        self._live.add(entry.uid)
        self._slots.enter(entry.slot, entry.uid)
        self._alarms.set(entry.uid, entry.stay.wake_at_s)
        self._news.changed(entry.uid)

    def _stay_of(self, assignment: Assignment, before: Stay | None = None) -> Stay:
        release = self._releases.get((assignment.slot.app, assignment.release))
        tries = self._journal.memory.tries.get(assignment.uid)
        if before is not None:
            tries = Tries(attempt=before.attempt, failures=before.failures)
        return entries.stay_of(assignment, release, tries)

    # -- events of children ------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the keeper is gone. Raises `processes.KeeperGone`."""
        async for event in self._children.events():
            self.hear(event)

    def hear(self, event: processes.Event) -> None:
        match event:
            case processes.Terminate(urgent=urgent, drain=drain):
                self._drains = drain
                self.terminate.set()
                if urgent:
                    self.urgent.set()
            case processes.Reload():
                self.reload.set()
            case processes.Started():
                self._started(event)
            case processes.SpawnFailed(key=key, reason=reason):
                self._trees.discard(key)
                self._of_child(key, machine.SpawnFailed(reason=reason))
            case processes.Exited():
                self._exited(event, just_now=True)
            case processes.TreeEmpty(key=key):
                self._of_child(key, machine.TreeEmpty(), empty=True)

    def report(self, uid: str, attempt: int, event: machine.Event) -> None:
        """What `Health` found out; of a process that is gone by now it is dropped."""
        entry = self._entries.get(uid)
        if entry is None or entry.stay.attempt != attempt:
            return
        if entry.stay.phase in entries.HEARD:
            self._feed(uid, event)

    def _exited(self, event: processes.Exited, *, just_now: bool) -> None:
        exited = entries.exited(event, just_now=just_now)
        self._of_child(event.key, exited, empty=event.empty)

    def _started(self, event: processes.Started) -> None:
        entry = self._entry_of(event.key)
        if entry is None:
            log.error("pid %d was started as %s, unknown here: killed", event.pid, event.key)
            for fd in (event.stdout_fd, event.stderr_fd, event.notify_fd):
                close(fd)
            self._children.signal(event.key, signal.SIGKILL)
            return
        entry.start_ticks, entry.started_at_ms = event.start_ticks, now_ms()
        entry.cgroup = event.cgroup
        heard = self._output.attach(entry.slot, event.stdout_fd, event.stderr_fd, lost=True)
        self._watch(entry, event.notify_fd, ready=False, pid=event.pid)
        self._of_child(event.key, machine.Spawned(pid=event.pid))
        if not heard:
            # Nobody would read what it writes: it would wait for ever. Later there may be room.
            self._children.signal(event.key, signal.SIGKILL)

    def _watch(self, entry: Entry, notify_fd: int, *, ready: bool, pid: int = 0) -> None:
        stay, launch = entry.stay, entry.launch
        entry.launch = None
        port = self._ports.get(entry.slot, 0)
        self._health.watch(
            entry.uid, stay.attempt, stay.spec, launch, pid or stay.pid, port, notify_fd, ready
        )

    def _of_child(self, key: str, event: machine.Event, *, empty: bool = False) -> None:
        entry = self._entry_of(key)
        if empty:
            self._trees.discard(key)
        if entry is None:
            if empty:
                self._ends.now(key)
            return
        if empty:
            self._health.unwatch(entry.uid)
            # Before the next process of this slot writes: what the last one wrote comes first.
            self._output.close_pipes(entry.slot)
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
            self._output.moved(event, before, stay, self._now_s())

    def _carry_out(self, entry: Entry, instruction: machine.Instruction) -> None:
        match instruction:
            case machine.Spawn():
                self._spawn(entry)
            case machine.Signal(signal=name, whole_group=whole):
                number = entries.signal_number(name)
                self._children.signal(entry.key, number, whole_group=whole)
                if number != signal.SIGKILL:
                    # A process that somebody stopped cannot handle it otherwise.
                    self._children.signal(entry.key, signal.SIGCONT, whole_group=whole)
            case machine.Look():
                names = entries.names_of(self._children.living(entry.key))
                self._inbox.appendleft((entry.uid, machine.StillThere(names=names)))
            case machine.Forget(attempt=attempt):
                key, over = entries.key_of(entry.uid, attempt), entries.over_of(entry.stay)
                (self._ends.once_known if over else self._ends.now)(key)

    def _moved(self, entry: Entry, before: Stay) -> None:
        stay = entry.stay
        self._alarms.set(entry.uid, stay.wake_at_s)
        self._news.changed(entry.uid)
        entry.retry_at_ms = entries.wall_ms(stay.retry_at_s, self._now_s())
        if stay.phase is not before.phase or stay.attempt != before.attempt:
            self._journal.touch()
        if stay.phase in entries.ENDING and before.phase not in entries.ENDING:
            self._health.relax(entry.uid)
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
        self._ends.at_last(entries.key_of(entry.uid, entry.stay.attempt - 1))
        assignment = entry.stay.assignment
        launch = self._launcher.prepare(
            assignment, self._release_of(entry), running=len(self._trees)
        )
        self._output.note(entry.slot, launch, entry.stay.attempt)
        if self._ports.get(entry.slot) != launch.port:
            self._ports[entry.slot] = launch.port
            self._journal.touch()
        self._trees.add(entry.key)
        entry.launch = launch
        spawn = partial(
            self._children.spawn,
            entry.key, argv=launch.argv, env=launch.env, cwd=launch.cwd, options=launch.options,
        )  # fmt: skip
        if entry.stay.spec.restart is RestartPolicy.NEVER:
            self._journal.once_written(spawn)  # or it would run again after a crash of us
        else:
            spawn()

    def _ended(self, entry: Entry) -> None:
        """The tree is gone: its slot is free for the next stay."""
        self._live.discard(entry.uid)
        self._launcher.files.remove(entry.uid)
        if not self._live:
            self._idle.set()
        following = self._slots.leave(entry.slot, entry.uid)
        if following is not None:
            self._start_if_free(self._entries[following])
        # While the agent ends, the table keeps what it has stopped.
        if not self._closing:
            self._drop(entry)
        self._journal.touch()

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.uid]
        self._news.gone(entry.uid)
        if self._slots.is_empty(entry.slot):
            self._ports.pop(entry.slot, None)
            self._launcher.ports.release(entry.slot)
        if (wanted := self._wanted.get(entry.uid)) is not None:
            self._add(wanted, before=entry.stay)  # it was listed again while it was being stopped

    # -- telling -----------------------------------------------------------------------------------

    def statuses(self) -> tuple[InstanceStatus, ...]:
        """The whole table; what was to be told before is in it."""
        self._news.take()
        return self.seen()

    def seen(self) -> tuple[InstanceStatus, ...]:
        return tuple(self._status(entry) for entry in self._entries.values())

    def take_changes(self) -> Changes:
        taken = self._news.take()
        changed = tuple(self._status(self._entries[uid]) for uid in taken.changed_uids)
        return Changes(changed=changed, gone_uids=taken.gone_uids)

    def running(self) -> tuple[Running, ...]:
        """Every instance of which something runs."""
        return tuple(
            entries.running_of(entry)
            for entry in self._entries.values()
            if entry.stay.phase in entries.HEARD
        )

    @property
    def runs_anything(self) -> bool:
        return any(self._entries[uid].stay.pid for uid in self._live)

    def _status(self, entry: Entry) -> InstanceStatus:
        return entries.status_of(entry, self._ports.get(entry.slot, 0), self._now_s())

    # -- the end -----------------------------------------------------------------------------------

    async def stop_all(self) -> None:
        """Stop every stay, each with its own grace; killed when `urgent` is set. Waits for all."""
        self._closing = True
        # What has come to its end stays that: only what runs, or would again, is stopped.
        self._live -= {uid for uid in self._live if entries.over_of(self._entries[uid].stay)}
        if self._live:
            self._idle.clear()
            ending = Ending(self._live, self._entries, self._feed, self.urgent, drain=self._drains)
            await ending.run(self._idle)
