"""What a change would come to: the leader's own passes on a world changed in thought. Pure.

Every agent is taken to obey at once and every new instance to be well, so that a change of many
steps can be seen to its end. What is not well now stays as it is. Nothing is decided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count

from msgspec import structs

from formation.model import Assignment, HostStatus, InstanceState, InstanceStatus, Slot
from formation.requests import Move, Rebalance
from formation_coordinator import explain, rebalance, timeline
from formation_coordinator.book import Book
from formation_coordinator.desk import Now, open_desk
from formation_coordinator.plan import Plan
from formation_coordinator.reconcile import reconcile
from formation_coordinator.tallies import TypeKey
from formation_coordinator.world import Change, HostEntry, World, apply

PASSES_MAX = 500
# How long it is taken to have been well: longer than any change wants to see.
_LONG_S = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`kind`: start, stop, replace (on the same host), move, or surge (only meanwhile)."""

    kind: str
    slot: Slot
    from_host: str = ""
    to_host: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplaced:
    app: str
    type: str
    count: int
    reason: str
    remedy: str = ""
    verdicts: tuple[explain.Verdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of a type, before and after: how many, and `rebalance.skew`."""

    app: str
    type: str
    before: int
    after: int
    skew_before: int
    skew_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """`revision`: of the decisions that it builds on. `notes`: what else people should know."""

    revision: int
    steps: tuple[Step, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    types: tuple[Spread, ...] = ()
    notes: tuple[str, ...] = ()
    moves: tuple[Move, ...] = field(default=())


class Seer:
    """`book` may be any; it is brought up to date, and is of another world afterwards."""

    def __init__(
        self, world: World, book: Book, *, now_s: float, wall_ms: int, replace_after_s: float
    ) -> None:
        self.world, self._book = world, book
        self._now = Now(monotonic_s=now_s, wall_ms=wall_ms, replace_after_s=replace_after_s)
        self._stems = (f"plan{n}" for n in count(1))

    # ------------------------------------------------------------------ questions

    def after(self, changes: Sequence[Change]) -> Forecast:
        """What these records would lead to, beyond what happens anyway."""
        before = self._to_its_end(self.world)
        changed = apply(self.world, changes, revision=self.world.revision + 1, now_s=0.0)
        return self._compared(before, self._to_its_end(changed))

    def confirmed(self, change: Change) -> Forecast:
        """What an operator's word on a held cluster (`change`) would lead to, beginning with what
        hosts run now."""
        running = [
            Change(kind="assignments", names=(entry.name,), record=timeline.as_reported(entry))
            for entry in self.world.hosts.values()
            if entry.connected
        ]
        now_s, revision = self._now.monotonic_s, self.world.revision
        before = apply(self.world, running, revision=revision, now_s=now_s)
        changed = apply(self.world, [change], revision=revision + 1, now_s=now_s)
        after = self._to_its_end(changed)
        hosts = {change.names[0] for change in running}
        return self._compared(
            _End(before, Plan(), {}, set()), replace(after, touched=after.touched | hosts)
        )

    def balanced(self, app: str, moves_max: int) -> Forecast:
        """The moves of a rebalance, of one app or ("") of all."""
        desk = open_desk(self.world, self._book, self._now, lambda: "", {})
        moves = tuple(rebalance.better_moves(desk, app, moves_max))
        record = Rebalance(moves=moves)
        change = Change(kind="rebalance", names=(), record=record if moves else None)
        return replace(self.after([change]), moves=moves)

    # ------------------------------------------------------------------ looking ahead

    def _to_its_end(self, world: World) -> _End:
        surges: dict[Slot, tuple[str, str]] = {}
        touched: set[str] = set()
        plan = Plan()
        for _ in range(PASSES_MAX):
            plan = self._pass(world, plan)
            if not plan.writes:
                return _End(world, plan, surges, touched)
            for document in plan.documents:
                touched.add(document.host)
                for bundle in document.bundles:
                    if bundle.terms.surge:
                        slots = [
                            Slot(bundle.terms.app, bundle.terms.type, o) for o in bundle.ordinals
                        ]
                        surges |= dict.fromkeys(slots, (document.host, bundle.terms.reason))
            world = self._obeyed(world, plan)
        return _End(world, plan, surges, touched)

    def _pass(self, world: World, before: Plan) -> Plan:
        now = self._now
        return reconcile(
            world,
            now_s=now.monotonic_s,
            wall_ms=now.wall_ms,
            epoch=0,
            replace_after_s=now.replace_after_s,
            new_stem=lambda: next(self._stems),
            book=self._book,
            progress=before.progress,
        )

    def _obeyed(self, world: World, plan: Plan) -> World:
        changes = [*plan.records]
        changes += [
            Change(kind="assignments", names=(document.host,), record=document)
            for document in plan.documents
        ]
        written = apply(world, changes, revision=world.revision + 1, now_s=self._now.monotonic_s)
        said = [
            Change(kind="status", names=(entry.name,), record=_said(entry))
            for document in plan.documents
            if (entry := written.hosts[document.host]).connected
        ]
        return apply(written, said, revision=written.revision, now_s=-_LONG_S)

    # ------------------------------------------------------------------ in words

    def _compared(self, before: _End, after: _End) -> Forecast:
        steps = list(self._steps(before, after))
        were, wait = _waiting(before), _waiting(after)
        keys = sorted({(s.slot.app, s.slot.type) for s in steps} | wait.keys())
        unplaced = [self._unplaced(key, wait[key], after) for key in wait if wait[key] > were[key]]
        old, new = self._levels(self.world, keys), self._levels(after.world, keys)
        spreads = [
            Spread(
                app=key[0],
                type=key[1],
                before=old[key][0],
                after=new[key][0],
                skew_before=old[key][1],
                skew_after=new[key][1],
            )
            for key in keys
        ]
        return Forecast(
            revision=self.world.decided_revision,
            steps=tuple(steps),
            unplaced=tuple(unplaced),
            types=tuple(spreads),
            notes=tuple(self._notes(before)),
        )

    def _notes(self, before: _End) -> Iterator[str]:
        if before.plan.standstill:
            yield before.plan.standstill
        if before.touched:
            yield "the cluster is not at rest: some changes are under way already"

    def _steps(self, before: _End, after: _End) -> Iterator[Step]:
        """Between what would be anyway and what would be then."""
        touched = before.touched | after.touched
        old, new = _stays(before.world, touched), _stays(after.world, touched)
        for slot in sorted(old.keys() | new.keys()):
            was, is_ = old.get(slot), new.get(slot)
            if was is None and is_ is not None:
                yield Step(kind="start", slot=slot, to_host=is_[0], reason=is_[1].reason)
            elif was is not None and is_ is None:
                yield Step(kind="stop", slot=slot, from_host=was[0])
            elif was is not None and is_ is not None and was[1].uid != is_[1].uid:
                if _planned(was[1]) and _planned(is_[1]) and was[0] == is_[0]:
                    continue
                kind = "replace" if was[0] == is_[0] else "move"
                reason = is_[1].reason
                yield Step(kind=kind, slot=slot, from_host=was[0], to_host=is_[0], reason=reason)
        for slot, (host, reason) in sorted(after.surges.items()):
            if slot not in old and slot not in new:
                yield Step(kind="surge", slot=slot, to_host=host, reason=reason)

    def _unplaced(self, key: TypeKey, number: int, after: _End) -> Unplaced:
        told = (why for slot, why in after.plan.pending.items() if (slot.app, slot.type) == key)
        found = Unplaced(app=key[0], type=key[1], count=number, reason=next(told, ""))
        desk = open_desk(after.world, self._book, self._now, lambda: "", {})
        try:
            fit = desk.draft.fit(explain.wish_of(after.world, Slot(*key, 1)))
        except explain.UnknownSlot:
            return found
        verdicts = explain.judged(fit, set())
        fits = any(verdict.fits for verdict in verdicts)
        remedy = "" if fits else explain.remedy(fit)
        reason = found.reason or fit.reason()
        return replace(found, reason=reason, remedy=remedy, verdicts=tuple(verdicts))

    def _levels(self, world: World, keys: Sequence[TypeKey]) -> dict[TypeKey, tuple[int, int]]:
        """Of each type: how many there are, and its skew over the hosts that would take it."""
        desk = open_desk(world, self._book, self._now, lambda: "", {})
        found = {}
        for key in keys:
            skew = 0
            if key[0] in world.apps:
                with suppress(explain.UnknownSlot):
                    wish = explain.wish_of(world, Slot(*key, 1))
                    skew = rebalance.skew(desk.draft.fit(wish))
            found[key] = (int(self._book.of(key).count.sum()), skew)
        return found


@dataclass(frozen=True, slots=True)
class _End:
    """Where a world comes to rest. `surges`: slots that were only there meanwhile, with host and
    reason; `touched`: hosts whose documents changed on the way."""

    world: World
    plan: Plan
    surges: Mapping[Slot, tuple[str, str]]
    touched: set[str]


def _waiting(end: _End) -> Counter[TypeKey]:
    return Counter(end.plan.unnamed) + Counter((s.app, s.type) for s in end.plan.pending)


def _stays(world: World, hosts: set[str]) -> dict[Slot, tuple[str, Assignment]]:
    """The one of each slot that counts, on these hosts."""
    found: dict[Slot, tuple[str, Assignment]] = {}
    for name in sorted(hosts):
        entry = world.hosts.get(name)
        for item in entry.assigned if entry else ():
            if item.run or item.ending:
                continue
            if item.slot not in found or (entry is not None and entry.connected):
                found[item.slot] = (name, item)
    return found


def _planned(item: Assignment) -> bool:
    """Made by a look ahead: its uid means nothing."""
    return item.uid.rpartition("-")[2].startswith("plan")


def _said(entry: HostEntry) -> HostStatus:
    """It runs what it is told; what it did not know before is well."""
    known, document = entry.observed(), entry.document
    assert document is not None
    table = [known.get(item.uid) or _well(item) for item in entry.assigned if not item.ending]
    status = entry.status or HostStatus(host=entry.name, agent_id=entry.name)
    return structs.replace(status, instances=tuple(table), generation=document.generation)


def _well(item: Assignment) -> InstanceStatus:
    return InstanceStatus(
        uid=item.uid, slot=item.slot, release=item.release, state=InstanceState.HEALTHY
    )
