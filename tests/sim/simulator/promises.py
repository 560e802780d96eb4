"""What may never happen, whatever breaks: looked at with every write, start, signal and end.

It sees more than any program: the store as it is, every process of every machine, and which leader
wrote what. Where a program may know less than the truth, it is judged by what it could know.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence

from formation.model import App, Assignment, AssignmentDocument
from formation.releasecommand import RELEASE
from formation.requests import Run
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Event, Snapshot
from formation_coordinator.world import Change, World, apply, validate
from simulator import autoscaling
from simulator.judging import Eyes, faults_of_addition, faults_of_removal
from simulator.machines import Machine, Process, Watcher
from simulator.virtual import Trace

# Who is up for so long may have been seen healthy.
_READY_AFTER_S = 0.2


class Promises(Watcher):
    """`leader`: what the leader of this epoch has before its eyes, None when nobody of it is.
    `lag_s`: how far behind the truth a program may be just now."""

    def __init__(
        self,
        trace: Trace,
        leader: Callable[[int], World | None],
        lag_s: Callable[[], float],
    ) -> None:
        self._trace, self._leader, self._lag_s = trace, leader, lag_s
        self._loop = asyncio.get_running_loop()
        self.truth = World()
        self.epoch = 0
        self.broken: list[str] = []
        self.alive: dict[int, Process] = {}
        self.by_uid: dict[str, Process] = {}
        # By host: what a document has listed, and what one has listed no longer, or as ending.
        self._worked_until_s: dict[str, float] = {}
        self._listed: dict[str, set[str]] = defaultdict(set)
        self._withdrawn: dict[str, set[str]] = defaultdict(set)
        self._told: set[int] = set()
        self._starts: Counter[str] = Counter()
        self._runs_placed: dict[tuple[str, str], str] = {}
        # Releases whose command has ended with 0.
        self._passed: set[tuple[str, int]] = set()
        self._ticks: dict[tuple[str, str, int], str] = {}
        self._silent_since_s: dict[str, float] = {}
        self._cordoned_since_s: dict[str, float] = {}
        # Commands under way, by app, that may change its quantities, or its release.
        self.scaling: Counter[str] = Counter()
        self.releasing: Counter[str] = Counter()
        self.documents_written = self.autoscaled = 0
        # An operator has said that a store that went back counts.
        self.confirming = False
        # What was decided lately: a leader may have planned on it.
        self._lately: deque[tuple[float, World]] = deque()

    def fail(self, text: str) -> None:
        self._trace.note("BROKEN: %s", text)
        self.broken.append(text)

    # -- processes ---------------------------------------------------------------------------------

    def started(self, process: Process) -> None:
        self._trace.note("%s: %s started, behaves %s", process.host, process.key, process.behaves)
        self._starts[process.uid] += 1
        if process.uid not in self._listed[process.host]:
            self.fail(f"{process.key} was started on {process.host}, no order ever said so")
        if process.uid in self._runs_placed.values() and self._starts[process.uid] > 1:
            self.fail(f"{process.uid} is a run, and was started twice")
        self._check_passed(process)
        for other in self.alive.values():
            self._check_beside(process, other)
        self.alive[process.pid] = self.by_uid[process.uid] = process

    def _check_passed(self, process: Process) -> None:
        """What has a release command starts after it, except for that itself."""
        key = process.slot.app, process.release
        release = self.truth.releases.get(key)
        if release is None or release.command is None or process.slot.type == RELEASE:
            return
        if key not in self._passed:
            self.fail(f"{process.key} of v{process.release} started before its release command")

    def _check_beside(self, process: Process, other: Process) -> None:
        if other.uid == process.uid:
            self.fail(f"{process.key} was started while {other.key} runs on {other.host}")
        elif other.slot == process.slot and other.host == process.host:
            self.fail(f"two of {process.slot} run on {process.host}")
        elif _is_command_of(process, other.slot.app) and other.slot.type == RELEASE:
            self.fail(f"{process.key} was started while {other.key} runs on {other.host}")
        elif other.slot == process.slot and (process.exclusive or other.exclusive):
            where = f"{process.host} and {other.host}"
            self.fail(f"two copies of exclusive {process.slot} run at once, on {where}")

    def signalled(self, process: Process, signum: int, on: Machine) -> None:
        self._trace.note("%s: signal %d to %s", process.host, signum, process.key)
        lease_over = process.exclusive and self._loop.time() >= on.lease_until_s - 0.01
        told = process.pid in self._told  # who was asked to end is killed when it does not
        unlisted = self.confirming and not self._is_listed(process)
        withdrawn = process.uid in self._withdrawn[process.host] or unlisted
        if not (on.ending or withdrawn or lease_over or told):
            self.fail(f"{process.key} on {process.host} was stopped, and nobody had said so")
        self._told.add(process.pid)

    def _is_listed(self, process: Process) -> bool:
        entry = self.truth.hosts.get(process.host)
        return any(item.uid == process.uid for item in entry.assigned) if entry else False

    def ended(self, process: Process) -> None:
        self._trace.note("%s: %s ended", process.host, process.key)
        self.alive.pop(process.pid, None)
        if process.slot.type == RELEASE and process.exited and process.exited.code == 0:
            self._passed.add((process.slot.app, process.release))
        now_s = self._loop.time()
        if now_s - process.started_s > _READY_AFTER_S:
            self._worked_until_s[process.uid] = now_s

    # -- the store ---------------------------------------------------------------------------------

    def put_back(self, to: Snapshot) -> None:
        """The truth is what it was; what came since is known to hosts alone."""
        changes = [
            change
            for item in to.items
            if (change := self._change(Event(key=item.key, value=item, revision=to.revision)))
        ]
        self.truth = apply(World(), changes, revision=to.revision, now_s=self._loop.time())
        self._lately.clear()
        # Which runs were made since, and which ticks, etcd cannot know any more.
        self._runs_placed.clear()
        self._ticks.clear()

    def written(self, events: Sequence[Event]) -> None:
        """One transaction, as it becomes true."""
        changes = [change for event in events if (change := self._change(event))]
        before = self.truth
        revision, now_s = events[0].revision, self._loop.time()
        self.truth = apply(before, changes, revision=revision, now_s=now_s)
        if self.truth.decided_revision != before.decided_revision:
            self._lately.append((now_s, before))
            horizon_s = now_s - self._lag_s()
            while self._lately[0][0] < horizon_s:
                self._lately.popleft()
        for change in changes:
            self._look_at(before, change)
        documents = [c.record for c in changes if isinstance(c.record, AssignmentDocument)]
        if documents:
            self._look_at_documents(before, documents)

    def _change(self, event: Event) -> Change | None:
        parsed = keys.parse(event.key)
        if event.key == keys.LEADER:
            self.epoch = event.value.create_revision if event.value else 0
        if parsed is None or parsed.kind == "audit":
            return None
        record = codec.decode(event.key, event.value.value) if event.value else None
        return Change(kind=parsed.kind, names=parsed.names, record=record, revision=event.revision)  # type: ignore[arg-type]

    def _look_at(self, before: World, change: Change) -> None:
        now_s, names, record = self._loop.time(), change.names, change.record
        match change.kind:
            case "sessions":
                self._trace.note("host %s is %s", names[0], "heard" if record else "silent")
                self._note(self._silent_since_s, names[0], record is None, now_s)
            case "hosts":
                entry = self.truth.hosts.get(names[0])
                self._note(self._cordoned_since_s, names[0], bool(entry and entry.cordoned), now_s)
            case "apps" if isinstance(record, App):
                self._look_at_app(before, before.apps.get(record.name), record)
            case "runs" if isinstance(record, Run):
                self._look_at_run(record)

    @staticmethod
    def _note(times: dict[str, float], name: str, now: bool, now_s: float) -> None:
        if now:
            times.setdefault(name, now_s)
        else:
            times.pop(name, None)

    def _look_at_app(self, before: World, old: App | None, new: App) -> None:
        if old is None:
            return
        name = new.name
        if old.candidate is not None and new.release == old.candidate.release:
            self._look_at_passed(old, new)
            return
        if old.formation != new.formation:
            self._trace.note("%s: formation is %s", name, dict(new.formation))
            automatic = autoscaling.problem_with_change(before, self.truth, old, new)
            if automatic is not None:
                self.autoscaled += 1
            if automatic:
                self.fail(automatic)
            if automatic is None and not (self.scaling[name] or self.releasing[name]):
                self.fail(f"the formation of {name} changed, nobody had asked for it")
        if old.release != new.release:
            self._trace.note("%s: v%d after v%d", name, new.release, old.release)
            undone = new.rollout.undone_release == old.release
            by_itself = undone and new.release == old.stable_release
            if not (self.releasing[name] or by_itself):
                self.fail(f"the release of {name} changed, nobody had asked for it")

    def _look_at_passed(self, old: App, new: App) -> None:
        """Of its own accord, but with nothing else than what the candidate said."""
        assert old.candidate is not None
        self._trace.note("%s: v%d has passed", new.name, new.release)
        if (new.name, new.release) not in self._passed:
            self.fail(f"v{new.release} of {new.name} has passed, and its command has not")
        if new.formation != {**old.candidate.formation, **old.formation}:
            self.fail(f"the formation of {new.name} changed with v{new.release}")

    def _look_at_run(self, run: Run) -> None:
        if run.tick_ms:
            known = self._ticks.setdefault((run.slot.app, run.slot.type, run.tick_ms), run.id)
            if known != run.id:
                self.fail(f"{known} and {run.id} are for the same tick of {run.slot.type}")

    # -- the leader's documents --------------------------------------------------------------------

    def _look_at_documents(self, before: World, documents: Sequence[AssignmentDocument]) -> None:
        self.documents_written += len(documents)
        for problem in validate(self.truth):
            self.fail(f"the world is not valid: {problem}")
        eyes = self._eyes(before)
        for document in documents:
            entry = before.hosts.get(document.host)
            old = entry.document if entry else None
            # A forgotten host's is emptied by who forgets it.
            known = self.truth.hosts[document.host].host is not None
            if known and document.epoch != self.epoch:
                self.fail(f"a leader of epoch {document.epoch} wrote while {self.epoch} led")
            if old is not None and document.generation <= old.generation:
                self.fail(f"{document.host}: generation {document.generation} is no newer one")
            self._compare(eyes, document, old.instances if old else ())

    def _eyes(self, before: World) -> Eyes:
        return Eyes(
            before=before,
            after=self.truth,
            lately=[world for _, world in self._lately],
            view=self._leader(self.epoch),
            by_uid=self.by_uid,
            worked_until_s=self._worked_until_s,
            silent_since_s=self._silent_since_s,
            cordoned_since_s=self._cordoned_since_s,
            now_s=self._loop.time(),
            lag_s=self._lag_s(),
        )

    def _compare(
        self, eyes: Eyes, document: AssignmentDocument, old: tuple[Assignment, ...]
    ) -> None:
        host, new = document.host, document.instances
        was, now = {item.uid: item for item in old}, {item.uid: item for item in new}
        self._listed[host].update(now)
        ending = {item.uid for item in new if item.ending}
        gone = [item for uid, item in was.items() if uid not in now or uid in ending]
        self._trace.note("%s: document of generation %d", host, document.generation)
        # Found running, and not wanted: listed as ending from the first.
        self._withdrawn[host].update(ending - was.keys())
        for item in gone:
            if item.uid not in self._withdrawn[host]:
                self._withdrawn[host].add(item.uid)
                said = "ends" if item.uid in ending else "is withdrawn"
                self._trace.note("%s: %s %s", host, item.uid, said)
                for fault in faults_of_removal(eyes, host, item):
                    self.fail(fault)
        for item in new:
            if item.uid not in was:
                self._added(eyes, host, item)

    def _added(self, eyes: Eyes, host: str, item: Assignment) -> None:
        self._trace.note("%s: %s is placed: %s", host, item.uid, item.reason)
        if not item.reason:
            self.fail(f"{item.uid} was placed on {host} without a reason")
        if item.run:
            known = self._runs_placed.setdefault((item.slot.app, item.run), item.uid)
            if known != item.uid:
                self.fail(f"run {item.run} was placed twice: {known}, {item.uid}")
        for fault in faults_of_addition(eyes, host, item):
            self.fail(fault)


def _is_command_of(process: Process, app: str) -> bool:
    return process.slot.type == RELEASE and process.slot.app == app
