"""Is it done, and what is there to say? Updates in, lines out. Pure: times are arguments.

Theory of operation. The change is committed at some revision, and every update is from that
revision or later. A type has arrived when exactly the wanted number is healthy and current and
nothing else of it is left on a host that can be heard: until the leader has planned, a type that
shrinks shows too many healthy ones and no surplus, so both numbers have to match. What is left on
a silent host cannot be stopped by anybody now and is only mentioned.

What has FINISHED has arrived too. What has FAILED is not started again by itself: when only such
ones are missing, waiting longer is of no use.

A release with a release command is nobody's until that has passed: till then what runs is as it
was, and means nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from formation.quantities import show
from formation.seen import InstanceState, Slot
from formctl import wording
from formctl.progress import Step, named
from formctl.views import Instance, Table, Update

_MISSING_LINES_MAX = 20
# On its way out for so long: that is worth a word.
_STUCK_MS = 10_000
_FAILING = {
    InstanceState.BACKOFF: "failing",
    InstanceState.FAILED: "failed",
    InstanceState.UNREADY: "not ready",
    InstanceState.RESTARTING: "restarting",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is waited for.

    `wanted` names the types that matter; with `whole` every other type of the app must be gone.
    `slots` (not empty) narrows it to these. `tried`: attempts by uid before a retry; only a later
    one counts, and ends the waiting when it fails. `release`: the one that is to arrive; the
    waiting ends in vain when it is taken back, and well where it is held on purpose. `ignored`:
    types of which the quantity does not say how many run.
    """

    app: str
    wanted: Mapping[str, int]
    whole: bool = False
    slots: frozenset[Slot] = frozenset()
    tried: Mapping[str, int] = field(default_factory=dict)
    release: int = 0
    ignored: frozenset[str] = frozenset()

    def covers(self, instance: Instance) -> bool:
        slot = instance.slot
        if slot.app != self.app or (self.slots and slot not in self.slots):
            return False
        if instance.run or slot.type in self.ignored:
            return False
        return self.whole or slot.type in self.wanted

    def reached_by(self, instance: Instance) -> bool:
        return instance.is_good and self.was_tried(instance)

    def failed_by(self, instance: Instance) -> bool:
        """For good, or in the try that was asked for."""
        failed_again = bool(self.tried) and instance.state is InstanceState.BACKOFF
        return (instance.has_failed or failed_again) and self.was_tried(instance)

    def was_tried(self, instance: Instance) -> bool:
        return instance.status.attempt > self.tried.get(instance.uid, -1)


class Progress:
    """Fed with every update until `is_done`; `feed` returns the lines that are new."""

    def __init__(self, goal: Goal, *, started_s: float, baseline: Iterable[Instance] = ()) -> None:
        self.goal = goal
        self._started_s = started_s
        self._table = Table()
        self._good: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._present: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self._leaving_ms: dict[str, int] = {}
        self._synced = False
        self._told: set[tuple[str, ...]] = set()
        self._healthy: set[str] = set()
        known = tuple(instance for instance in baseline if goal.covers(instance))
        self._table.apply(Update(complete=True, changed=known))
        self._healthy.update(instance.uid for instance in known if goal.reached_by(instance))
        self._from_start = frozenset(self._healthy)
        self._has_failed: dict[str, Instance] = {}
        self._most = 0
        self._waited_for_command = False

    @property
    def command(self) -> str:
        """The run of the release command that is waited for, `release.7`; "" when none is."""
        app = self._table.apps.get(self.goal.app)
        candidate = app.candidate if app else None
        its_own = candidate is not None and candidate.release == self.goal.release
        return candidate.run if candidate and its_own else ""

    @property
    def is_done(self) -> bool:
        return self._settles and all(
            self._good[name] == quantity == self._present[name]
            for name, quantity in self._wanted().items()
        )

    @property
    def has_failed(self) -> bool:
        """Nothing that is still missing comes by itself."""
        return self._settles and all(
            self._good[name] + self._failed[name] == quantity == self._present[name]
            for name, quantity in self._wanted().items()
        )

    @property
    def _settles(self) -> bool:
        return self._synced and not self.command

    @property
    def undone(self) -> str:
        """Why the release that was waited for was taken back, or another took its place before
        its command had passed; "" when neither is so."""
        app, release = self._table.apps.get(self.goal.app), self.goal.release
        if app is None or not release:
            return ""
        if app.rollout.undone_release == release:
            return f"v{release} was taken back: {app.rollout.reason}"
        if self._waited_for_command and not self.command and app.release != release:
            return f"v{release} was not rolled out: v{app.newest} has taken its place"
        return ""

    @property
    def held(self) -> str:
        """Why the release goes no further now, on purpose; "" when it does."""
        app = self._table.apps.get(self.goal.app)
        if app is None or not self.goal.release or app.release != self.goal.release:
            return ""
        if app.rollout.paused:
            return f"v{app.release} is paused; go on with formctl rollout resume"
        new = [i for i in self._covered() if i.is_good and i.status.release == app.release]
        if app.rollout.canary and len(new) >= app.rollout.canary:
            names = " ".join(sorted(i.slot.short for i in new))
            return f"canary: {names} run v{app.release}; go on with formctl rollout promote"
        return ""

    def failing(self) -> list[Instance]:
        """Those whose output may tell why: the first one of each type, or what was taken back."""
        if self.undone:
            return list(self._has_failed.values())
        found: dict[str, Instance] = {}
        for instance in sorted(self._covered(), key=lambda i: (i.slot, i.uid)):
            if self._fails(instance) and not self._is_leaving(instance):
                found.setdefault(instance.slot.type, instance)
        return list(found.values())

    def feed(self, update: Update, *, now_s: float, now_ms: int) -> list[str]:
        before = {uid: self._table.instances.get(uid) for uid in (i.uid for i in update.changed)}
        gone = self._table.apply(update)
        self._follow_command()
        self._count(update, before, gone)
        self._follow_formation(update)
        for leaving in (i for i in update.changed if i.surplus):
            self._leaving_ms.setdefault(leaving.uid, now_ms)
        lines = [self._left(instance) for instance in gone]
        lines += [self._seen(instance, now_s, now_ms) for instance in update.changed]
        lines.append(self._held_up())
        self._synced = self._synced or update.complete
        return [line for line in lines if line]

    def summary(self, *, now_s: float) -> str:
        wanted = {name: n for name, n in self._wanted().items() if name in self.goal.wanted}
        good = [i for i in self._covered() if i.is_good]
        finished = sum(i.state is InstanceState.FINISHED for i in good)
        healthy = len(good) - finished
        counts = [f"{healthy} healthy"] if healthy else []
        counts += [f"{finished} finished"] if finished else []
        took = f"in {now_s - self._started_s:.1f} s"
        target = " ".join(sorted(slot.short for slot in self.goal.slots)) or show(wanted)
        text = f"{target or self.goal.app}: {', '.join(counts) or 'none left'} {took}"
        silent = sum(i.surplus and i.host_silent for i in self._covered())
        return f"{text}; {silent} on silent hosts, stopped when they return" if silent else text

    def step(self) -> Step:
        """How many of how many changes have arrived, and what of it comes next."""
        if not self._synced:
            return Step(what="waiting for the leader to see the change")
        if self.command:
            found = (i for i in self._table.instances.values() if i.run == self.command)
            where = next((f" {wording.state(i)}{_on(i)}" for i in found), "")
            return Step(what=f"{self.command}{where}")
        left = self._left_to_do()
        self._most = max(self._most, left)
        open_ = [i for i in self._covered() if not self.goal.reached_by(i)]
        # First what is on its way, then what is to go, then those whose turn has not come.
        open_.sort(key=lambda i: (_waits_its_turn(i), i.surplus, i.slot, i.uid))
        waiting = [
            f"{i.slot.short} {'to be replaced' if _waits_its_turn(i) else wording.state(i)}"
            for i in open_
            if not (i.surplus and i.host_silent)
        ]
        return Step(done=self._most - left, total=self._most, what=named(waiting))

    def _left_to_do(self) -> int:
        """Instances that are to become good, or to go."""
        return sum(
            max(abs(quantity - self._good[name]), abs(quantity - self._present[name]))
            for name, quantity in self._wanted().items()
        )

    def missing(self, *, now_ms: int) -> list[str]:
        """What is still in the way, for a person whose patience has ended."""
        if self.command or self._waited_for_command:
            return []
        waiting = [i for i in self._covered() if not self.goal.reached_by(i)]
        waiting = [i for i in waiting if not i.surplus or self._is_stuck(i, now_ms)] or waiting
        lines = [
            f"{i.slot.short} {wording.state(i)}{_on(i)}{_because(i, now_ms)}"
            for i in sorted(waiting, key=lambda i: (i.slot, i.uid))
            if not (i.surplus and i.host_silent)
        ]
        for name, quantity in self._wanted().items():
            if self._synced and self._present[name] != quantity:
                lines.append(f"{name}: {self._present[name]} where {quantity} are wanted")
        if not self._synced:
            lines.append("the coordinator has not shown the change yet")
        if len(lines) > _MISSING_LINES_MAX:
            more = len(lines) - _MISSING_LINES_MAX
            lines = [*lines[:_MISSING_LINES_MAX], f"and {more} more"]
        note = self._table.note
        return [*lines, note] if note and note not in self._reasons() else lines

    def _wanted(self) -> dict[str, int]:
        if self.goal.slots:
            asked = Counter(slot.type for slot in self.goal.slots)
            return {name: min(asked[name], n) for name, n in self.goal.wanted.items()}
        # Types that are not wanted at all: none of them may be left.
        others = set(self._present) if self.goal.whole else set()
        return {**self.goal.wanted, **dict.fromkeys(sorted(others - set(self.goal.wanted)), 0)}

    def _covered(self) -> list[Instance]:
        return [i for i in self._table.instances.values() if self.goal.covers(i)]

    def _count(
        self, update: Update, before: Mapping[str, Instance | None], gone: Iterable[Instance]
    ) -> None:
        """Keeps the two numbers per type without going through the whole table."""
        if update.complete:
            self._good.clear()
            self._failed.clear()
            self._present.clear()
            self._kept.clear()
        else:
            left = (instance for instance in gone if instance.uid not in before)
            for old in (*before.values(), *left):
                if old is not None:
                    self._tally(old, -1)
        for uid in before:
            if uid in self._table.instances:
                self._tally(self._table.instances[uid], 1)

    def _tally(self, instance: Instance, by: int) -> None:
        if self.goal.covers(instance):
            self._good[instance.slot.type] += by * self.goal.reached_by(instance)
            self._failed[instance.slot.type] += by * self.goal.failed_by(instance)
            self._kept[instance.slot.type] += by * (not (instance.surplus or instance.surge))
            self._present[instance.slot.type] += by * (
                not (instance.surplus and instance.host_silent)
            )

    def _follow_command(self) -> None:
        app = self._table.apps.get(self.goal.app)
        if self.command:
            self._waited_for_command = True
        elif app is not None and app.release == self.goal.release:
            self._waited_for_command = False

    def _follow_formation(self, update: Update) -> None:
        """Somebody else may scale meanwhile: the formation as it is now is what counts."""
        if update.apps is None:
            return
        app = self._table.apps.get(self.goal.app)
        formation = app.formation if app else {}
        wanted = {name: formation.get(name, 0) for name in self.goal.wanted}
        self.goal = replace(self.goal, wanted=wanted)

    def _seen(self, instance: Instance, now_s: float, now_ms: int) -> str:
        if not self.goal.covers(instance):
            return self._seen_command(instance)
        if self.goal.reached_by(instance):
            return self._arrived(instance, now_s)
        self._healthy.discard(instance.uid)
        status = instance.status
        if instance.state is InstanceState.STOPPED:
            return self._left(instance)
        if self._fails(instance) and not self._is_leaving(instance):
            if status.release == self.goal.release:
                self._has_failed[instance.slot.type] = instance
            once = (instance.uid, str(status.attempt), instance.state.name, status.reason)
            word = _FAILING[instance.state]
            text = f"{instance.slot.short} {word}{_on(instance)}{_because(instance, now_ms)}"
            return self._once(once, text)
        if instance.state is InstanceState.PENDING and status.reason and not instance.surplus:
            return self._once((instance.slot.type, status.reason), _waits(instance))
        return ""

    def _seen_command(self, instance: Instance) -> str:
        """Its end is told with what becomes of the release."""
        if not instance.run or instance.run != self.command:
            return ""
        if instance.state is InstanceState.PENDING:
            return self._once((instance.run, instance.status.reason), _waits(instance))
        if instance.status.pid:
            return self._once((instance.run, "runs"), f"{instance.slot.short} runs{_on(instance)}")
        return ""

    def _fails(self, instance: Instance) -> bool:
        return instance.state in _FAILING and self.goal.was_tried(instance)

    def _is_leaving(self, instance: Instance) -> bool:
        """On its way out, also when the leader has not said of all of them which ones go."""
        kind = instance.slot.type
        too_many = not self.goal.slots and self._kept[kind] > self._wanted().get(kind, 0)
        return instance.surplus or not instance.current or too_many

    def _is_stuck(self, instance: Instance, now_ms: int) -> bool:
        return now_ms - self._leaving_ms.get(instance.uid, now_ms) >= _STUCK_MS

    def _arrived(self, instance: Instance, now_s: float) -> str:
        if instance.uid in self._healthy or instance.uid in self._from_start:
            return ""
        self._healthy.add(instance.uid)
        port = f" (port {instance.status.port})" if instance.status.port else ""
        took = f"{now_s - self._started_s:.1f}s"
        if instance.state is InstanceState.FINISHED:
            return f"{instance.slot.short} finished{_on(instance)} {took}"
        return f"{instance.slot.short} healthy{_on(instance)}{port} {took}"

    def _left(self, instance: Instance) -> str:
        if not instance.is_placed or not self.goal.covers(instance):
            return ""
        text = f"{instance.slot.short} stopped{_on(instance)}"
        return self._once((instance.uid, "stopped"), text)

    def _held_up(self) -> str:
        """The leader's sentence matters while something waits for a place."""
        note = self._table.note
        if not note or ("note", note) in self._told:
            return ""
        reasons = self._reasons()
        # It may be one of the reasons, and those have been told.
        wanted = self._table.standstill or (reasons and note not in reasons)
        return self._once(("note", note), note) if wanted else ""

    def _reasons(self) -> set[str]:
        """Why there is no place."""
        found = {i.status.reason for i in self._covered() if not i.is_placed}
        return found - {""}

    def _once(self, key: tuple[str, ...], text: str) -> str:
        if key in self._told:
            return ""
        self._told.add(key)
        return text


def _waits_its_turn(instance: Instance) -> bool:
    running = instance.state is InstanceState.HEALTHY
    return running and not instance.current and not instance.surplus


def _on(instance: Instance) -> str:
    return f" on {instance.host}" if instance.host else ""


def _because(instance: Instance, now_ms: int) -> str:
    why = wording.trouble(instance, now_ms)
    return f": {why}" if why else ""


def _waits(instance: Instance) -> str:
    return f"{instance.slot.short} waits for a place: {instance.status.reason}"
