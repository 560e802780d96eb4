"""(world, now) → Plan: everything the leader should write next, as values. Pure.

Level, not edge: a plan depends on the world as it is, never on what happened before, so the loop is
right after any number of lost events and a pass over a satisfied world changes nothing.

Theory of operation, per process type:

1. Stays whose app or type is gone are dropped; so is a host's document entry that nobody wants. An
   app whose record or release cannot be read is left alone.
2. A slot with two stays (one was replaced while its host was silent) keeps the better one; the
   other goes only when the kept one is healthy, or at once where the kept one has moved away from.
3. More slots than wanted: `placement.choose_surplus` says which go.
4. What is left hears of a retry that was asked for: the same stay, with a grown mark.
5. A slot whose every stay sits on a lost host is placed again elsewhere, unless the brake is on.
   The entry on the lost host stays until rule 2 drops it: if the host comes back first, nothing was
   lost. What is over (FINISHED, FAILED) is not run again because its host went away.
6. Missing slots get the lowest free ordinals and are placed: one of every type, then the rest.
7. Stale stays (older release, restart asked for) are replaced as `rollout` allows: in place, or
   elsewhere when the host cannot run the new release; when nobody can, the old one goes on.
8. Last, with what room is left, crash-looping stays hop to other hosts as `hops` allows.

What is placed because of 5 goes to hosts that its slot left by 8 only when no other takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count as count_from

from formation.model import (
    App,
    Assignment,
    AssignmentDocument,
    HostState,
    ProcessType,
    Slot,
)
from formation_coordinator import moves, placement, rollout, stays
from formation_coordinator.draft import FRESH, Draft, NewUid, Past
from formation_coordinator.moves import Moves, failed_there
from formation_coordinator.stays import OfType, Stay
from formation_coordinator.world import (
    World,
    brake_is_on,
    departed,
    host_state,
    is_current,
    is_over,
)

# Slots without room beyond these are counted, not listed one by one.
PENDING_NAMED_MAX = 1_000
BRAKE = (
    "the brake is on: most hosts are silent, so nothing is replaced until they return "
    "or are given up with formctl hosts forget"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to write, when to look again without an event, and one sentence about it.

    `pending`: slots that are not where they should be, with the reason. `left_alone`: apps of which
    nothing is changed, with the reason.
    """

    documents: tuple[AssignmentDocument, ...] = ()
    wake_at_s: float | None = None
    sentence: str = "nothing to do"
    pending: Mapping[Slot, str] = field(default_factory=dict)
    left_alone: Mapping[str, str] = field(default_factory=dict)
    brake: bool = False


@dataclass(frozen=True, slots=True)
class _Demand:
    app: App
    spec: ProcessType
    slot: Slot
    moved: bool
    first_of_type: bool
    past: Past = FRESH


def reconcile(
    world: World, *, now_s: float, epoch: int, replace_after_s: float, new_uid: NewUid
) -> Plan:
    """The next step towards what users want.

    `new_uid(slot)` gives a uid that was never used; `now_s` is of the clock that stamped the
    world's silences. Raises nothing: what cannot be placed is in `Plan.pending` with its reasons.
    """
    return _Pass(world, now_s, epoch, replace_after_s, new_uid).run()


class _Pass:
    def __init__(
        self, world: World, now_s: float, epoch: int, replace_after_s: float, new_uid: NewUid
    ) -> None:
        self.world, self.epoch = world, epoch
        self.replace_after_s = replace_after_s
        self.states = {
            name: host_state(entry, now_s=now_s, replace_after_s=replace_after_s)
            for name, entry in world.hosts.items()
        }
        self.brake = brake_is_on(world)
        self.draft = Draft(world, self.states, new_uid)
        self.room = self.draft.room()
        self.stays = stays.index(world, self.states)
        self.unnamed = 0  # wanted, beyond all room, and too many to list one by one
        self.demands: list[_Demand] = []
        self.pending: dict[Slot, str] = {}
        self.left_alone: dict[str, str] = {}
        self.moves = Moves(self.draft)
        self.tally = dict.fromkeys(("placed", "moved", "replaced", "removed", "told to retry"), 0)

    def run(self) -> Plan:
        self._leave_unreadable_alone()
        for app in sorted(self.world.apps.values(), key=lambda item: item.name):
            release = self.world.current_release(app)
            for spec in release.types if release else ():
                self._one_type(app, spec)
        self._drop_unwanted_types()
        self._place_demands()
        self.moves.carry_out()
        self.tally["replaced"] += self.moves.replaced
        self.pending |= self.moves.pending
        return self._plan()

    def _leave_unreadable_alone(self) -> None:
        """What we cannot read is no reason to stop what runs."""
        unreadable = self.world.unreadable
        for app in self.world.apps.values():
            if self.world.current_release(app) is None:
                key = ("releases", (app.name, str(app.release)))
                why = unreadable.get(key, f"release v{app.release} is missing")
                self.left_alone[app.name] = f"{app.name} is left alone: {why}; apply it again"
        for (kind, names), why in unreadable.items():
            if kind == "apps":
                self.left_alone[names[0]] = f"{names[0]} is left alone: {why}"
        for of_type in [key for key in self.stays if key[0] in self.left_alone]:
            del self.stays[of_type]

    def _one_type(self, app: App, spec: ProcessType) -> None:
        slots = self.stays.pop((app.name, spec.name), {})
        if app.name in self.left_alone:
            return
        best = {ordinal: self._settle_doubles(app, found) for ordinal, found in slots.items()}
        quantity = app.formation.get(spec.name, 0)
        for ordinal in stays.surplus(best, len(best) - quantity):
            del best[ordinal]
            for stay in slots.pop(ordinal):
                self._drop(stay)
        of_type = OfType(app, spec, quantity, slots, best)
        if app.retry_marks:
            self._tell_to_retry(of_type)
        self._demand_lost(of_type)
        self._demand_missing(of_type)
        self._replace_stale(of_type)
        if not self.brake:
            self.moves.find_hops(of_type)

    def _settle_doubles(self, app: App, found: list[Stay]) -> Stay:
        """The better stay of a slot. The others leave `found` once that one is healthy."""
        if len(found) == 1:
            return found[0]
        best = stays.better(app, found, self.draft.count)
        for stay in [stay for stay in found if stay is not best]:
            if best.healthy or stays.left_behind(stay, best):
                self._drop(stay)
                found.remove(stay)
        return best

    def _drop(self, stay: Stay) -> None:
        self.draft.drop(stay.host, stay.assignment)
        self.tally["removed"] += 1

    def _drop_unwanted_types(self) -> None:
        """What no app of this world defines any more."""
        for slots in self.stays.values():
            for stay in (stay for found in slots.values() for stay in found):
                self._drop(stay)

    # ------------------------------------------------------------------ what is asked for

    def _tell_to_retry(self, of_type: OfType) -> None:
        for stay in (stay for found in of_type.slots.values() for stay in found):
            mark = of_type.app.retry_mark(stay.slot.type, stay.slot.ordinal)
            if stay.assignment.retry_mark < mark:
                stay.assignment = self.draft.tell_to_retry(stay.host, stay.assignment, mark)
                self.tally["told to retry"] += 1

    def _demand_lost(self, of_type: OfType) -> None:
        app, spec = of_type.app, of_type.spec
        for stay in of_type.best.values():
            if stay.state is not HostState.LOST:
                continue
            current = is_current(app, stay.assignment)
            if current and is_over(stay.status):
                continue
            if self.brake and not departed(stay.entry):
                self.pending[stay.slot] = BRAKE
                continue
            past = Past(avoided_hosts=stay.assignment.avoided_hosts) if current else FRESH
            self.demands.append(
                _Demand(app, spec, stay.slot, moved=True, first_of_type=False, past=past)
            )

    def _demand_missing(self, of_type: OfType) -> None:
        app, spec, best = of_type.app, of_type.spec, of_type.best
        free = (ordinal for ordinal in count_from(1) if ordinal not in best)
        missing = max(0, of_type.quantity - len(best))
        asked = min(missing, self.room + PENDING_NAMED_MAX)
        self.unnamed += missing - asked
        for index in range(asked):
            slot = Slot(app.name, spec.name, next(free))
            first = index == 0 and not best
            self.demands.append(_Demand(app, spec, slot, moved=False, first_of_type=first))

    def _replace_stale(self, of_type: OfType) -> None:
        app, spec = of_type.app, of_type.spec
        ready = {o: stay for o, stay in of_type.best.items() if stay.state is HostState.READY}
        stuck = self._stuck(of_type, ready)
        steps = [
            rollout.Stay(
                ordinal=ordinal,
                stale=not is_current(app, stay.assignment) and ordinal not in stuck,
                available=stay.healthy,
                demanded=_demanded(app, stay.assignment),
            )
            for ordinal, stay in ready.items()
        ]
        for ordinal in rollout.replaceable(steps, of_type.quantity):
            stay = ready[ordinal]
            if self.draft.misfit(stay.entry, spec, stay.slot):
                self.moves.replace(of_type, stay)
            else:
                self.draft.drop(stay.host, stay.assignment)
                self.draft.add(app, spec, stay.slot, stay.host, FRESH)
                self.tally["replaced"] += 1

    def _stuck(self, of_type: OfType, ready: Mapping[int, Stay]) -> set[int]:
        """Stale ones whose new release fits nowhere: they must not hold up the others."""
        app, spec = of_type.app, of_type.spec
        if not (spec.port or spec.requires):
            return set()
        misfits = {
            ordinal
            for ordinal, stay in ready.items()
            if not is_current(app, stay.assignment)
            and self.draft.misfit(stay.entry, spec, stay.slot)
        }
        offers = self.draft.offers(app.name, spec) if misfits else ()
        if any(offer.free for offer in offers):
            return set()
        why = moves.not_replaced(placement.place(1, offers).reason())
        named = sorted(misfits)[:PENDING_NAMED_MAX]
        self.unnamed += len(misfits) - len(named)
        self.pending |= {ready[ordinal].slot: why for ordinal in named}
        return misfits

    # ------------------------------------------------------------------ where it goes

    def _place_demands(self) -> None:
        """First one of every type, so that none starves, then the rest; per type in one go."""
        firsts = [demand for demand in self.demands if demand.first_of_type]
        rest = [demand for demand in self.demands if not demand.first_of_type]
        for round_ in (firsts, rest):
            by_type: dict[tuple[str, str], list[_Demand]] = {}
            for demand in round_:
                by_type.setdefault((demand.app.name, demand.slot.type), []).append(demand)
            for demands in by_type.values():
                self._place([d for d in demands if not d.past.avoided_hosts], {})
                for demand in demands:
                    avoided = demand.past.avoided_hosts
                    if avoided and not self._place([demand], failed_there(avoided)):
                        self._place([demand], {})

    def _place(self, demands: Sequence[_Demand], barred: Mapping[str, str]) -> bool:
        """Demands of one type. False when one is still without a host."""
        if not demands:
            return True
        app, spec = demands[0].app, demands[0].spec
        offers = self.draft.offers(app.name, spec, barred)
        result = placement.place(len(demands), offers)
        waiting = iter(sorted(demands, key=lambda demand: demand.slot))
        for host in _deal(result.counts, {offer.host: offer.of_type for offer in offers}):
            demand = next(waiting)
            self.draft.add(app, spec, demand.slot, host, demand.past)
            self.pending.pop(demand.slot, None)
            self.tally["moved" if demand.moved else "placed"] += 1
        for demand in waiting:
            self.pending[demand.slot] = result.reason()
        return not result.unplaced

    # ------------------------------------------------------------------ the plan

    def _plan(self) -> Plan:
        return Plan(
            documents=tuple(self.draft.documents(self.epoch)),
            wake_at_s=self._wake_at_s(),
            sentence=self._sentence(),
            pending=self.pending,
            left_alone=self.left_alone,
            brake=self.brake,
        )

    def _wake_at_s(self) -> float | None:
        """When the first suspect host becomes lost."""
        due = [
            entry.silent_since_s + self.replace_after_s
            for name, entry in self.world.hosts.items()
            if self.states[name] is HostState.SUSPECT and entry.silent_since_s is not None
        ]
        return min(due, default=None)

    def _sentence(self) -> str:
        done = [f"{number} {verb}" for verb, number in self.tally.items() if number]
        if self.moves.hopped:
            more = len(self.moves.hopped) - 1
            done.append(self.moves.hopped[0] + (f" (and {more} more)" if more else ""))
        if self.pending:
            done.append(
                f"{len(self.pending) + self.unnamed} pending ({next(iter(self.pending.values()))})"
            )
        done += self.left_alone.values()
        if self.brake:
            done.append(BRAKE)
        return ", ".join(done) or "nothing to do"


def _demanded(app: App, assignment: Assignment) -> bool:
    """Did an operator ask to restart this very slot, and is nothing else stale about it?"""
    named = app.restart_marks.get(assignment.slot.short, 0)
    return named > 0 and assignment.release == app.release


def _deal(counts: Mapping[str, int], levels: Mapping[str, int]) -> list[str]:
    """A host per instance, emptiest first, so that neighbouring ordinals land on different ones."""
    units = [(levels[host] + index, host) for host, n in counts.items() for index in range(n)]
    return [host for _, host in sorted(units)]
