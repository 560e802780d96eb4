"""(world, now) → Plan: everything the leader should write next, as values. Pure.

Level, not edge: a plan depends on the world as it is, never on what happened before, so the loop is
right after any number of lost events and a pass over a satisfied world changes nothing.

Theory of operation, per process type:

1. Stays whose app or type is gone are dropped; so is a host's document entry that nobody wants.
2. A slot with two stays (one was replaced while its host was silent) keeps the better one; the
   other goes only when the kept one is healthy.
3. More slots than wanted: `placement.choose_surplus` says which go.
4. A slot whose every stay sits on a lost host is placed again elsewhere, unless the brake is on.
   The entry on the lost host stays until rule 2 drops it: if the host comes back first, nothing was
   lost.
5. Missing slots get the lowest free ordinals and are placed: one of every type, then the rest.
6. Stale stays (older release, restart asked for) are replaced in place as `rollout` allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count as count_from

from formation.model import App, Assignment, AssignmentDocument, HostState, Slot
from formation_coordinator import placement, rollout
from formation_coordinator.world import (
    HostEntry,
    World,
    brake_is_on,
    departed,
    host_state,
    is_current,
    is_healthy,
)

NewUid = Callable[[Slot], str]
# Slots without room beyond these are counted, not listed one by one.
PENDING_NAMED_MAX = 1_000
BRAKE = (
    "the brake is on: most hosts are silent, so nothing is replaced until they return "
    "or are given up with formctl hosts forget"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to write, when to look again without an event, and one sentence about it."""

    documents: tuple[AssignmentDocument, ...] = ()
    wake_at_s: float | None = None
    sentence: str = "nothing to do"
    pending: Mapping[Slot, str] = field(default_factory=dict)
    brake: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class _Stay:
    """One document entry with all that is known about it. Mutable: private to one pass."""

    assignment: Assignment
    entry: HostEntry
    state: HostState
    healthy: bool


@dataclass(frozen=True, slots=True)
class _Demand:
    app: App
    slot: Slot
    moved_from: str
    first_of_type: bool


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
        self.world, self.now_s, self.epoch = world, now_s, epoch
        self.replace_after_s, self.new_uid = replace_after_s, new_uid
        self.states = {
            name: host_state(entry, now_s=now_s, replace_after_s=replace_after_s)
            for name, entry in world.hosts.items()
        }
        self.brake = brake_is_on(world)
        self.kept: dict[str, dict[str, Assignment]] = {name: {} for name in world.hosts}
        self.of_type: dict[str, Counter[tuple[str, str]]] = {
            name: Counter() for name in world.hosts
        }
        self.stays: dict[tuple[str, str], dict[int, list[_Stay]]] = {}
        self.room = sum(offer.free for offer in self._offers("", ""))
        self.unnamed = 0  # wanted, beyond all room, and too many to list one by one
        self.demands: list[_Demand] = []
        self.pending: dict[Slot, str] = {}
        self.tally = {"placed": 0, "moved": 0, "replaced": 0, "removed": 0}

    def run(self) -> Plan:
        self._index()
        for app in sorted(self.world.apps.values(), key=lambda item: item.name):
            release = self.world.current_release(app)
            if release is None:
                self._leave_alone(app)
                continue
            for spec in release.types:
                self._one_type(app, spec.name)
        self._drop_unwanted_types()
        self._place_demands()
        return self._plan()

    def _index(self) -> None:
        """Group every document entry by app and type, then by ordinal."""
        for entry in self.world.hosts.values():
            observed = entry.observed()
            for item in entry.assigned:
                self.kept[entry.name][item.uid] = item
                stay = _Stay(
                    assignment=item,
                    entry=entry,
                    state=self.states[entry.name],
                    healthy=is_healthy(entry, observed.get(item.uid)),
                )
                key = (item.slot.app, item.slot.type)
                self.of_type[entry.name][key] += 1
                self.stays.setdefault(key, {}).setdefault(item.slot.ordinal, []).append(stay)

    def _one_type(self, app: App, type_name: str) -> None:
        slots = self.stays.pop((app.name, type_name), {})
        quantity = app.formation.get(type_name, 0)
        best = {ordinal: self._settle_doubles(app, stays) for ordinal, stays in slots.items()}
        for ordinal in self._surplus(best, len(best) - quantity):
            for stay in slots[ordinal]:
                self._drop(stay)
            del best[ordinal]
        self._demand_lost(app, best)
        self._demand_missing(app, type_name, best, quantity)
        self._replace_stale(app, best, quantity)

    def _leave_alone(self, app: App) -> None:
        """Its release cannot be read: that is no reason to stop what runs."""
        for key in [key for key in self.stays if key[0] == app.name]:
            del self.stays[key]
        why = f"release v{app.release} of {app.name} cannot be read; apply it again"
        self.pending |= {Slot(app.name, name, 1): why for name in sorted(app.formation)[:1]}

    def _settle_doubles(self, app: App, stays: list[_Stay]) -> _Stay:
        """The better stay of a slot. The others leave `stays` once that one is healthy."""
        if len(stays) == 1:
            return stays[0]
        best = max(stays, key=lambda stay: self._preference(app, stay))
        if best.healthy:
            for stay in stays:
                if stay is not best:
                    self._drop(stay)
            stays[:] = [best]
        return best

    def _preference(self, app: App, stay: _Stay) -> tuple[bool, bool, bool, bool, int, str]:
        """Of two good ones the better spread: a host that returns gets its instances back."""
        slot = stay.assignment.slot
        return (
            stay.healthy,
            stay.state is not HostState.LOST,
            stay.entry.connected,
            is_current(app, stay.assignment),
            -self.of_type[stay.entry.name][slot.app, slot.type],
            stay.assignment.uid,
        )

    def _surplus(self, best: Mapping[int, _Stay], surplus: int) -> tuple[int, ...]:
        if surplus <= 0:
            return ()
        candidates = [
            placement.Candidate(
                uid=str(ordinal),
                host=stay.entry.name,
                zone=_zone(stay.entry),
                healthy=stay.healthy,
                ordinal=ordinal,
            )
            for ordinal, stay in best.items()
        ]
        return tuple(int(uid) for uid in placement.choose_surplus(candidates, surplus))

    def _drop(self, stay: _Stay) -> None:
        self._unassign(stay)
        self.tally["removed"] += 1

    def _unassign(self, stay: _Stay) -> None:
        slot = stay.assignment.slot
        del self.kept[stay.entry.name][stay.assignment.uid]
        self.of_type[stay.entry.name][slot.app, slot.type] -= 1

    def _demand_lost(self, app: App, best: Mapping[int, _Stay]) -> None:
        for stay in best.values():
            if stay.state is not HostState.LOST:
                continue
            slot = stay.assignment.slot
            if self.brake and not departed(stay.entry):
                self.pending[slot] = BRAKE
            else:
                self.demands.append(_Demand(app, slot, stay.entry.name, first_of_type=False))

    def _demand_missing(
        self, app: App, type_name: str, best: Mapping[int, _Stay], quantity: int
    ) -> None:
        free = (ordinal for ordinal in count_from(1) if ordinal not in best)
        missing = max(0, quantity - len(best))
        asked = min(missing, self.room + PENDING_NAMED_MAX)
        self.unnamed += missing - asked
        for index in range(asked):
            slot = Slot(app.name, type_name, next(free))
            first = index == 0 and not best
            self.demands.append(_Demand(app, slot, "", first_of_type=first))

    def _replace_stale(self, app: App, best: Mapping[int, _Stay], quantity: int) -> None:
        ready = {o: stay for o, stay in best.items() if stay.state is HostState.READY}
        steps = [
            rollout.Stay(
                uid=stay.assignment.uid,
                ordinal=ordinal,
                stale=not is_current(app, stay.assignment),
                available=stay.healthy,
                demanded=_demanded(app, stay.assignment),
            )
            for ordinal, stay in ready.items()
        ]
        by_uid = {stay.assignment.uid: stay for stay in ready.values()}
        for uid in rollout.replaceable(steps, quantity):
            stay = by_uid[uid]
            self._unassign(stay)
            self._assign(app, stay.assignment.slot, stay.entry.name)
            self.tally["replaced"] += 1

    def _assign(self, app: App, slot: Slot, host: str) -> None:
        uid = self.new_uid(slot)
        self.kept[host][uid] = Assignment(
            uid=uid,
            slot=slot,
            release=app.release,
            restart_mark=app.restart_mark(slot.type, slot.ordinal),
        )
        self.of_type[host][slot.app, slot.type] += 1

    def _drop_unwanted_types(self) -> None:
        """What no app of this world defines any more."""
        for slots in self.stays.values():
            for stays in slots.values():
                for stay in stays:
                    self._drop(stay)

    def _place_demands(self) -> None:
        """First one of every type, so that none starves, then the rest; per type in one go."""
        firsts = [demand for demand in self.demands if demand.first_of_type]
        rest = [demand for demand in self.demands if not demand.first_of_type]
        for round_ in (firsts, rest):
            by_type: dict[tuple[str, str], list[_Demand]] = {}
            for demand in round_:
                by_type.setdefault((demand.app.name, demand.slot.type), []).append(demand)
            for demands in by_type.values():
                self._place_type(demands)

    def _place_type(self, demands: Sequence[_Demand]) -> None:
        slot = demands[0].slot
        offers = self._offers(slot.app, slot.type)
        result = placement.place(len(demands), offers)
        waiting = iter(sorted(demands, key=lambda demand: demand.slot))
        for host in _deal(result.counts, {offer.host: offer.of_type for offer in offers}):
            demand = next(waiting)
            self._assign(demand.app, demand.slot, host)
            self.tally["moved" if demand.moved_from else "placed"] += 1
        for demand in waiting:
            self.pending[demand.slot] = result.reason()

    def _offers(self, app: str, type_name: str) -> list[placement.Offer]:
        return [
            placement.Offer(
                host=entry.name,
                zone=_zone(entry),
                of_type=self.of_type[entry.name][app, type_name],
                total=len(self.kept[entry.name]),
                instances_max=entry.status.capacity.instances_max if entry.status else 0,
                refusal=self._refusal(entry),
            )
            for entry in self.world.hosts.values()
            if entry.known
        ]

    def _refusal(self, entry: HostEntry) -> str:
        if departed(entry):
            return "its agent was stopped"
        state = self.states[entry.name]
        return "" if state is HostState.READY else state.name.lower()

    def _plan(self) -> Plan:
        documents = []
        for entry in self.world.hosts.values():
            wanted = self.kept[entry.name]
            if set(wanted) == {item.uid for item in entry.assigned}:
                continue
            documents.append(
                AssignmentDocument(
                    host=entry.name,
                    generation=(entry.document.generation if entry.document else 0) + 1,
                    epoch=self.epoch,
                    instances=tuple(sorted(wanted.values(), key=lambda item: item.slot)),
                )
            )
        return Plan(
            documents=tuple(documents),
            wake_at_s=self._wake_at_s(),
            sentence=self._sentence(),
            pending=self.pending,
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
        if self.pending:
            done.append(
                f"{len(self.pending) + self.unnamed} pending ({next(iter(self.pending.values()))})"
            )
        if self.brake:
            done.append(BRAKE)
        return ", ".join(done) or "nothing to do"


def _zone(entry: HostEntry) -> str:
    return entry.status.labels.get(placement.ZONE_LABEL, "") if entry.status else ""


def _demanded(app: App, assignment: Assignment) -> bool:
    """Did an operator ask to restart this very slot, and is nothing else stale about it?"""
    named = app.restart_marks.get(assignment.slot.short, 0)
    return named > 0 and assignment.release == app.release


def _deal(counts: Mapping[str, int], levels: Mapping[str, int]) -> list[str]:
    """A host per instance, emptiest first, so that neighbouring ordinals land on different ones."""
    units = [(levels[host] + index, host) for host, n in counts.items() for index in range(n)]
    return [host for _, host in sorted(units)]
