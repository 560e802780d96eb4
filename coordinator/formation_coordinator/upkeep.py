"""One process type in one pass: from what is there to what is wanted, rule by rule. Pure.

The rules are numbered in `reconcile`. Each looks only at hosts that the book points at, so a type
with nothing to do costs a few comparisons, however large it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from msgspec import structs

from formation.model import HostState, Slot
from formation.policy import surely_stopped_s
from formation.rules import LossAction
from formation_coordinator import moves, rollout, stays
from formation_coordinator.desk import Demand, Desk
from formation_coordinator.draft import FRESH, Past, Wish
from formation_coordinator.fit import matching
from formation_coordinator.plan import PENDING_NAMED_MAX
from formation_coordinator.stays import OfType, Stay
from formation_coordinator.tallies import Flags
from formation_coordinator.world import HostEntry, departed, is_over, surely_gone


class Upkeep:
    def __init__(self, desk: Desk, of_type: OfType, room: int) -> None:
        self.desk, self.of_type, self._room = desk, of_type, room
        self.app, self.spec, self.key = of_type.app, of_type.spec, of_type.key
        self.now_s = desk.now.monotonic_s
        self.best: dict[int, Stay] = {}
        self.blocked: set[int] = set()
        self._ended: dict[int, Stay] = {}
        self.slots = of_type.book.slots
        self.step = rollout.Step()
        self._of_change: dict[int, Stay] = {}
        self._are_stuck: set[int] = set()
        self._why_stuck = ""
        self._views: list[rollout.Stay] = []

    def run(self) -> None:
        book = self.of_type.book
        if book.ending:
            self._confirm_endings()
        if book.doubles:
            self._settle_doubles()
        if self.is_changing:
            self._look_at_change()
        self._drop_surplus()
        if book.to_retry:
            self._tell_to_retry()
        if self.desk.book.silent:
            self._demand_lost()
        self._demand_missing()
        self._replace()
        if not (self.desk.brake or self.spec.per_host):
            self.desk.moves.find_hops(self.of_type)
        self._find_leavers()

    @property
    def is_changing(self) -> bool:
        book = self.of_type.book
        if book.stale or book.surge:
            return True
        stable = self.app.stable_release
        return bool(stable) and not self.desk.book.same(self.key, stable, self.app.release)

    @property
    def views(self) -> list[rollout.Stay]:
        return self._views

    def _kept(self, stay: Stay) -> bool:
        return self.best.get(stay.ordinal, stay) is stay

    # ------------------------------------------------------------------ 2, 3: on its way out

    def _confirm_endings(self) -> None:
        for row in tuple(self.of_type.book.ending):
            for stay in self.of_type.at(row):
                if not stay.assignment.ending:
                    continue
                if _surely_gone(stay):
                    self.of_type.gone.add(stay.assignment.uid)
                    self._ended[stay.ordinal] = stay
                    self.desk.draft.drop(row, stay.assignment)
                    self.desk.tally["removed"] += 1
                elif not self._stopped_itself(stay):
                    self.blocked.add(stay.ordinal)

    def _stopped_itself(self, stay: Stay) -> bool:
        """Its agent has heard nobody for so long that it has ended it by its own clock."""
        since_s = stay.entry.silent_since_s
        if stay.entry.connected or since_s is None:
            return False
        at_s = since_s + surely_stopped_s(self.spec.stop_grace_s)
        self.desk.wake(at_s)
        return self.now_s >= at_s

    def _settle_doubles(self) -> None:
        """The better stay of a slot. The others go once that one works."""
        keep = self.spec.on_host_loss.keep
        level = self.of_type.book.count
        for ordinal in sorted(self.of_type.book.doubles):
            found = self.of_type.of_slot(ordinal)
            lasting = [stay for stay in found if not self._drain_is_late(stay)] or found
            best = self.best[ordinal] = stays.better(lasting, keep, lambda row: int(level[row]))
            for stay in found:
                late = self._drain_is_late(stay)
                may_go = late or (not _follows(stay, best) and self._may_go(stay, best))
                if stay is not best and may_go:
                    self.desk.drop(self.of_type, stay)

    def _may_go(self, stay: Stay, best: Stay) -> bool:
        if stays.left_behind(stay, best):
            return True
        if _follows(best, stay):
            at_s = best.steady_at_s(self.spec.rollout.healthy_s)
            self.desk.wake(at_s)
            return at_s is not None and at_s <= self.now_s
        return best.healthy

    # ------------------------------------------------------------------ 4: too many

    def _drop_surplus(self) -> None:
        extra = self.slots - self._wanted()
        if extra <= 0:
            return
        chosen = set(self._surplus_per_host()) if self.spec.per_host else self._surplus(extra)
        for stay in self.of_type.all():
            if stay.ordinal in chosen:
                self.desk.drop(self.of_type, stay)
        self.slots -= len(chosen)

    def _surplus(self, extra: int) -> set[int]:
        """First those that run for a change which has no more use for them."""
        kept = [stay for stay in self.of_type.all() if self._kept(stay)]
        surging = [stay for stay in kept if stay.assignment.surge]
        spare = min(extra, len(surging) - self.step.surge)
        chosen = set(stays.surplus(surging, spare))
        rest = [stay for stay in kept if stay.ordinal not in chosen]
        return chosen | set(stays.surplus(rest, extra - len(chosen)))

    def _wanted(self) -> int:
        if self.spec.per_host:
            return int(self._per_host_counts().sum())
        return self.of_type.quantity + self.step.surge

    # ------------------------------------------------------------------ 5: another try

    def _tell_to_retry(self) -> None:
        for stay in self.of_type.on(self.of_type.book.to_retry):
            mark = self.app.retry_mark(stay.slot.type, stay.slot.ordinal)
            if stay.assignment.retry_mark < mark:
                told = structs.replace(stay.assignment, retry_mark=mark)
                self.desk.draft.change(stay.row, told)
                stay.assignment = told
                self.desk.tally["told to retry"] += 1

    # ------------------------------------------------------------------ 6: lost hosts

    def _demand_lost(self) -> None:
        if self.spec.per_host:
            return
        for row in sorted(self.desk.book.silent):
            if not self.of_type.book.count[row]:
                continue
            entry = self.desk.book.entry(row)
            gone = departed(entry)
            if not gone and self.spec.on_host_loss.action is LossAction.WAIT:
                self._hold(row, f"host {entry.name} is silent, and on_host_loss.action is wait")
            elif gone or (self._waited_for(entry) and not self.desk.brake):
                self._demand_of_silent(row)

    def _hold(self, row: int, why: str) -> None:
        """Once no more are named, stays are only counted: all hosts may be silent."""
        if len(self.desk.pending) < PENDING_NAMED_MAX:
            self.desk.wait([stay.slot for stay in self._lost_at(row)], why)
            return
        data = self.desk.book.data[row]
        assert data is not None
        part = data.types[self.key]
        self.desk.unnamed[self.key] += part.count - part.healthy

    def _lost_at(self, row: int) -> list[Stay]:
        found = self.of_type.on([row])
        return [s for s in found if self._kept(s) and not (s.current and is_over(s.status))]

    def _demand_of_silent(self, row: int) -> None:
        for stay in self._lost_at(row):
            past = Past(avoided_hosts=stay.assignment.avoided_hosts) if stay.current else FRESH
            demand = Demand(
                wish=self._fill(),
                ordinals=(stay.ordinal,),
                reason=f"{stay.host} {'was stopped' if departed(stay.entry) else 'was lost'}",
                past=past,
                lost=stay,
                surge=stay.assignment.surge,
            )
            self.desk.demands.append(demand)

    def _waited_for(self, entry: HostEntry) -> bool:
        since_s = entry.silent_since_s
        assert since_s is not None, entry
        wait_s = max(self.desk.now.replace_after_s, self.spec.on_host_loss.after_s)
        if self.spec.exclusive:
            wait_s = max(wait_s, surely_stopped_s(self.spec.stop_grace_s))
        after_brake_s = self.desk.book.braked_at_s + self.desk.now.replace_after_s
        at_s = max(since_s + wait_s, after_brake_s)
        self.desk.wake(at_s)
        return self.now_s >= at_s

    # ------------------------------------------------------------------ 7: missing ones

    def _fill(self) -> Wish:
        """What a new one runs: the release before, while the new one is held back."""
        word, wish = self.app.rollout, self.of_type.wish
        if not (word.paused or word.canary) or self.app.release == self.app.stable_release:
            return wish
        stable = self.desk.world.releases.get((self.app.name, self.app.stable_release))
        spec = stable.type_named(self.spec.name) if stable else None
        if stable is None or spec is None:
            return wish
        if word.canary and not word.paused and self._new() < word.canary:
            return wish
        return Wish(app=self.app, spec=spec, release=stable)

    def _new(self) -> int:
        return sum(not view.stale for view in self._views)

    def _demand_missing(self) -> None:
        if self.spec.per_host:
            self._add_per_host()
            return
        missing = self._wanted() - self.slots - len(self.blocked)
        if missing <= 0:
            return
        asked = min(missing, self._room + PENDING_NAMED_MAX)
        self.desk.unnamed[self.key] += missing - asked
        ordinals = self._free_ordinals(asked)
        extra = min(self.step.surge, sum(view.surge for view in self._views))
        plain = max(0, self.of_type.quantity - (self.slots - extra) - len(self.blocked))
        first = not self.of_type.book.total
        self._demand(ordinals[:plain], surge=False, first=first)
        self._demand(ordinals[plain:], surge=True, first=False)

    def _free_ordinals(self, number: int) -> tuple[int, ...]:
        free = self.of_type.book.free_ordinals(number + len(self.blocked)).tolist()
        return tuple([o for o in free if o not in self.blocked] if self.blocked else free)[:number]

    def _demand(self, ordinals: tuple[int, ...], *, surge: bool, first: bool) -> None:
        if not ordinals:
            return
        reason = f"for the change to v{self.app.release}" if surge else "wanted"
        followers = [o for o in ordinals if o in self._ended]
        for ordinal in followers:
            self._demand_follower(ordinal)
        ordinals = tuple(o for o in ordinals if o not in followers) if followers else ordinals
        if not ordinals:
            return
        wish = self.of_type.wish if surge else self._fill()
        demand = Demand(wish=wish, ordinals=ordinals, reason=reason, surge=surge, first=first)
        if first and len(ordinals) > 1:
            self.desk.demands.append(replace(demand, ordinals=ordinals[:1]))
            demand = replace(demand, ordinals=ordinals[1:], first=False)
        self.desk.demands.append(demand)

    def _demand_follower(self, ordinal: int) -> None:
        """Of an exclusive one that had to end first."""
        ended = self._ended[ordinal]
        item = ended.assignment
        past = (
            Past(failures=item.failures, avoided_hosts=item.avoided_hosts)
            if ended.current
            else FRESH
        )
        self.desk.demands.append(
            Demand(wish=self._fill(), ordinals=(ordinal,), reason=item.reason, past=past)
        )

    # ------------------------------------------------------------------ one on every host

    def _per_host_counts(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """How many each host is to have: of those that match, also of silent ones."""
        book, level = self.desk.book, self.of_type.book.count
        wanted = np.where(self._matches(), self.of_type.quantity, 0)
        held = ~book.connected | book.cordoned
        return np.where(held, np.minimum(level, wanted), wanted)

    def _matches(self) -> Flags:
        book = self.desk.book
        passed = book.known.copy()
        for constraint in self.spec.where.require:
            passed &= matching(book, constraint)
        return passed

    def _surplus_per_host(self) -> Iterator[int]:
        extra = self.of_type.book.count - self._per_host_counts()
        for row in np.flatnonzero(extra > 0).tolist():
            found = self.of_type.on([row])
            yield from (stay.ordinal for stay in found[-int(extra[row]) :])

    def _add_per_host(self) -> None:
        missing = self._per_host_counts() - self.of_type.book.count
        rows = np.flatnonzero(missing > 0)
        if not len(rows):
            return
        fit = self.desk.draft.fit(self._fill())
        free = iter(self._free_ordinals(int(missing[rows].sum())))
        for row in rows.tolist():
            if row in self.of_type.book.ending:
                continue
            for _ in range(int(missing[row])):
                slot = Slot(self.app.name, self.spec.name, next(free))
                if fit.room[row] <= 0:
                    host = self.desk.book.names[row]
                    self.desk.wait([slot], f"{host}: {fit.why_not(row)}")
                    continue
                self.desk.draft.add(self._fill(), slot, row, "one for every host")
                self.desk.tally["placed"] += 1
                fit.room[row] -= 1

    # ------------------------------------------------------------------ 8: changes

    def _look_at_change(self) -> None:
        kept = [stay for stay in self.of_type.all() if self._kept(stay)]
        self._of_change = {stay.ordinal: stay for stay in kept}
        self._are_stuck = self._stuck(kept)
        self._views = [self._view(stay, self._are_stuck) for stay in kept]
        quantity = len(kept) if self.spec.per_host else self.of_type.quantity
        self.step = rollout.step(self._views, quantity, self.spec.rollout, self.app.rollout)
        done = sum(view.works and not view.stale for view in self._views)
        towards = (self.app.release, self.app.rollout, tuple(self.app.restart_marks.items()))
        self.desk.progress[self.key] = rollout.progress(
            self.desk.before.get(self.key), towards, done, self.now_s
        )

    def _view(self, stay: Stay, stuck: set[int]) -> rollout.Stay:
        healthy_s = 0.0 if stay.current is False else self.spec.rollout.healthy_s
        if stay.healthy and stay.current:
            self.desk.wake(stay.steady_at_s(healthy_s))
        item = stay.assignment
        named = self.app.restart_marks.get(stay.slot.short, 0)
        return rollout.Stay(
            ordinal=stay.ordinal,
            stale=not stay.current,
            # What an app of that name left that was deleted is worth nothing to this one.
            works=stay.steady(self.now_s, healthy_s)
            and self.desk.book.knows(self.app.name, item.release),
            broken=stay.broken(alone=int(self.desk.book.connected.sum()) <= 1),
            waits=stay.waits,
            surge=item.surge,
            demanded=named > item.restart_mark and item.release == self.app.release,
            fixed=stay.state is not HostState.READY or stay.ordinal in stuck,
        )

    def _stuck(self, kept: list[Stay]) -> set[int]:
        """Stale ones whose new release fits nowhere: they must not hold up the others."""
        spec = self.spec
        if not (spec.port or spec.requires or spec.resources.cpus or spec.resources.memory_bytes):
            return set()
        draft, wish = self.desk.draft, self.of_type.wish
        stale = [stay for stay in kept if not stay.current and stay.state is HostState.READY]
        misfits = [stay for stay in stale if draft.misfit(stay.row, wish, stay.assignment)]
        if not misfits:
            return set()
        fit = draft.fit(wish)
        if int(fit.room.sum()):
            return set()
        self._why_stuck = moves.not_replaced(fit.reason())
        return {stay.ordinal for stay in misfits}

    def _replace(self) -> None:
        stuck = [self._of_change[ordinal] for ordinal in sorted(self._are_stuck)]
        left = [stay.slot for stay in stuck if stay.assignment.uid not in self.of_type.gone]
        self.desk.wait(left, self._why_stuck)
        for ordinal in self.step.replace:
            stay = self._of_change[ordinal]
            if stay.assignment.uid in self.of_type.gone:
                continue
            reason = self._why_replaced(stay)
            if stay.entry.draining and not self.spec.per_host:
                self.desk.moves.replace(self.of_type, stay, f"{stay.host} is drained")
            elif self.desk.draft.misfit(stay.row, self.of_type.wish, stay.assignment):
                self.desk.moves.replace(self.of_type, stay, reason)
            else:
                self._replace_in_place(stay, reason)

    def _why_replaced(self, stay: Stay) -> str:
        if stay.assignment.release == self.app.release:
            return "restarted"
        return f"v{self.app.release} instead of v{stay.assignment.release}"

    def _replace_in_place(self, stay: Stay, reason: str) -> None:
        self.of_type.gone.add(stay.assignment.uid)
        if self.spec.exclusive:
            self.desk.end(stay, reason)
            return
        self.desk.draft.replace(self.of_type.wish, stay.row, stay.assignment, reason)
        self.desk.tally["replaced"] += 1

    # ------------------------------------------------------------------ 9: leaving a host

    def _find_leavers(self) -> None:
        leaving = [
            found for found in self._leavers() if found[0].assignment.uid not in self.of_type.gone
        ]
        if not leaving:
            return
        late = [stay for stay, _ in leaving if self._drain_is_late(stay)]
        for stay in late:
            self.desk.drop(self.of_type, stay)
        rest = [found for found in leaving if found[0].assignment.uid not in self.of_type.gone]
        if self.spec.exclusive:
            self._end_to_leave(rest)
        elif not self.spec.per_host:
            self.desk.moves.leave(self.of_type, rest)

    def _leavers(self) -> Iterator[tuple[Stay, str]]:
        book, count = self.desk.book, self.of_type.book.count
        rows = [row for row in book.draining if count[row]]
        for stay in self.of_type.on(rows):
            idle = stay.current and is_over(stay.status)
            stays_on = self.spec.per_host and not self._is_last_there(stay)
            if self._kept(stay) and stay.state is HostState.READY and not (idle or stays_on):
                yield stay, f"{stay.host} is drained"
        if self.spec.where.require and not self.spec.per_host:
            misplaced = np.flatnonzero((count > 0) & ~self._matches() & ~book.cordoned)
            for stay in self.of_type.on(misplaced.tolist()):
                if self._kept(stay) and stay.state is HostState.READY and stay.current:
                    yield stay, f"{stay.host} no longer has what the type requires"

    def _is_last_there(self, stay: Stay) -> bool:
        """Those that every host has go when all others have."""
        data = self.desk.book.data[stay.row]
        assert data is not None
        world = self.desk.world
        for app, name in data.types:
            release = world.current_release(world.apps[app]) if app in world.apps else None
            spec = release.type_named(name) if release else None
            if spec is not None and not spec.per_host:
                return False
        return not data.runs

    def _drain_is_late(self, stay: Stay) -> bool:
        entry = stay.entry
        if not entry.draining:
            return False
        if self.spec.per_host:
            return True
        assert entry.host is not None
        if not entry.host.drain_deadline_s or entry.draining_since_s is None:
            return False
        at_s = entry.draining_since_s + entry.host.drain_deadline_s
        self.desk.wake(at_s)
        return self.now_s >= at_s

    def _end_to_leave(self, leaving: list[tuple[Stay, str]]) -> None:
        """One after the other, when another host would take it, and as a change may take away."""
        fit = self.desk.draft.fit(self.of_type.wish)
        if not int(fit.room.sum()):
            self.desk.wait([stay.slot for stay, _ in leaving], fit.reason())
            return
        if self.blocked or self.of_type.gone:
            return
        quantity = self.of_type.quantity
        work = sum(self._kept(stay) and _serves(stay) for stay in self.of_type.all())
        spare = work - (quantity - rollout.unavailable_max(self.spec.rollout, quantity))
        for stay, reason in leaving:
            if spare > 0 or not _serves(stay):
                self.of_type.gone.add(stay.assignment.uid)
                self.desk.end(stay, reason, moves.past_of(stay))
                return
            self.desk.wait([stay.slot], f"{reason}; it waits until others work")


def _serves(stay: Stay) -> bool:
    return stay.healthy and stay.state is HostState.READY


def _follows(stay: Stay, best: Stay) -> bool:
    """It is to take over from the one that is still better: give it time."""
    return stays.follows_on(stay, best) and not stay.assignment.after_loss


def _surely_gone(stay: Stay) -> bool:
    return surely_gone(stay.entry, stay.status)
