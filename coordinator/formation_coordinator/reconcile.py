"""(world, now) → Plan: everything the leader should write next, as values. Pure.

Level, not edge: a plan depends on the world as it is, never on what happened before, so the loop is
right after any number of lost events and a pass over a satisfied world changes nothing. Two things
are handed from pass to pass, and both may be lost: the `Book` (sums over the world, so that a pass
costs what changed, and when the brake was on) and `progress` (since when a change has not come
further).

Before all that: a store that is older than what hosts follow decides nothing (`timeline`).

Theory of operation, per process type (the rules are in `upkeep`, their reasons in
docs/design/reconcile.md):

1. Stays whose app or type is gone are dropped. An app whose record or release cannot be read is
   left alone.
2. A stay that is `ending` is dropped when its agent surely has stopped it.
3. A slot with two stays keeps the better one; the other goes only when the kept one works, or at
   once where the kept one has moved away from it.
4. More slots than wanted: `placement.choose_surplus` says which go.
5. What is left hears of a retry that was asked for: the same stay, with a grown mark.
6. A slot whose every stay sits on a lost host is placed again elsewhere, unless the brake is on.
   The entry on the lost host stays until rule 3 drops it: if the host comes back first, nothing was
   lost. What is over (FINISHED, FAILED) is not run again because its host went away.
7. Missing slots get the lowest free ordinals and are placed: one of every type, then the rest.
8. Stale stays (another definition, restart asked for) are replaced as `rollout` allows: in place,
   or elsewhere when the host cannot run the new release; when nobody can, the old one goes on.
9. Last, with what room is left, stays leave hosts that are drained, that no longer fit or where
   they crash, and make the moves of a rebalance.

Exclusive types differ in one thing: a copy is never placed while another may run. What is withdrawn
is marked `ending` first; a silent host is waited for until its agent has surely stopped its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np

from formation.model import App, HostState, ProcessType, Release, Slot
from formation.seen import Rollout
from formation_coordinator import candidates, placement, rollout, timeline
from formation_coordinator.book import Book
from formation_coordinator.desk import Demand, Desk, Now, open_desk
from formation_coordinator.draft import FRESH, NewStem, Wish
from formation_coordinator.fit import Fit
from formation_coordinator.plan import BRAKE, Decision, Plan
from formation_coordinator.rebalance import follow_rebalance
from formation_coordinator.rollout import Progress
from formation_coordinator.runs import Runs
from formation_coordinator.stays import OfType
from formation_coordinator.tallies import TypeKey
from formation_coordinator.upkeep import Upkeep
from formation_coordinator.world import Change, World

__all__ = ["BRAKE", "Plan", "reconcile", "standstill"]


def reconcile(
    world: World,
    *,
    now_s: float,
    wall_ms: int,
    epoch: int,
    replace_after_s: float,
    new_stem: NewStem,
    book: Book | None = None,
    progress: Mapping[TypeKey, Progress] | None = None,
) -> Plan:
    """The next step towards what users want.

    `new_stem()` gives a text that was never used; `now_s` is of the clock that stamped the world's
    silences, `wall_ms` the wall clock's, for schedules. `book` is brought up to date. Raises
    nothing: what cannot be placed is in `Plan.pending` with its reasons.
    """
    now = Now(monotonic_s=now_s, wall_ms=wall_ms, replace_after_s=replace_after_s)
    desk = open_desk(world, book or Book(), now, new_stem, progress or {})
    why = _held(world, desk.book)
    if why:
        return Plan(held=why, sentence=why)
    if desk.book.behind:
        return _catch_up(desk, epoch)
    return _Pass(desk, epoch).run()


def standstill(world: World, book: Book, now_s: float) -> str:
    """`Plan.standstill` of such a pass, without one: it costs what has changed."""
    book.look(world)
    brake = book.brake(now_s) and not book.behind
    return _held(world, book) or (BRAKE if brake else "")


def _held(world: World, book: Book) -> str:
    return timeline.held(world, [book.names[row] for row in book.ahead])


def _catch_up(desk: Desk, epoch: int) -> Plan:
    """Before anything else: documents of the cluster's new epoch, of what hosts really run."""
    hosts = sorted((desk.book.entry(row) for row in desk.book.behind), key=lambda host: host.name)
    return Plan(
        documents=tuple(timeline.caught_up(desk.world, host, epoch) for host in hosts),
        records=tuple(timeline.raised_numbers(desk.world)),
        sentence=f"{len(hosts)} hosts come into the cluster's new epoch as they are",
    )


class _Changed(NamedTuple):
    """A type that differs between an app's last stable release and the wanted one."""

    upkeep: Upkeep
    arrived: bool


class _Pass:
    def __init__(self, desk: Desk, epoch: int) -> None:
        self.desk, self.epoch = desk, epoch
        self.world, self.book, self.draft = desk.world, desk.book, desk.draft
        self.room = int(np.maximum(self.book.limit - self.book.total, 0)[self.book.connected].sum())

    def run(self) -> Plan:
        desk = self.desk
        self._leave_unreadable_alone()
        self._judge_candidates()
        known: set[TypeKey] = set()
        for app in sorted(self.world.apps.values(), key=lambda item: item.name):
            release = self.world.current_release(app)
            if app.name not in desk.left_alone and release is not None:
                self._one_app(app, release, known)
        self._drop_unwanted_types(known)
        self._place_demands()
        runs = Runs(self.world, self.book, self.draft, desk.now.wall_ms).look()
        moves_left = list(follow_rebalance(desk))
        desk.moves.carry_out()
        desk.tally["replaced"] += desk.moves.replaced
        desk.tally["moving"] += desk.moves.moving
        desk.pending |= desk.moves.pending | runs.pending
        desk.tally["placed"] += runs.placed
        for name, made in runs.made.items():
            app = desk.apps.get(name, self.world.apps[name])
            desk.apps[name] = replace(app, runs_made=app.runs_made + made)
        records = [*self._app_records(), *runs.changes, *moves_left]
        if runs.wake_at_ms is not None:
            desk.wake(desk.now.monotonic_s + (runs.wake_at_ms - desk.now.wall_ms) / 1000)
        return self._plan(records, sorted(runs.hosts))

    def _leave_unreadable_alone(self) -> None:
        """What we cannot read is no reason to stop what runs."""
        unreadable, left_alone = self.world.unreadable, self.desk.left_alone
        for app in self.world.apps.values():
            if app.release and self.world.current_release(app) is None:
                key = ("releases", (app.name, str(app.release)))
                why = unreadable.get(key, f"release v{app.release} is missing")
                left_alone[app.name] = f"{app.name} is left alone: {why}; apply it again"
        for (kind, names), why in unreadable.items():
            if kind == "apps":
                left_alone[names[0]] = f"{names[0]} is left alone: {why}"

    def _judge_candidates(self) -> None:
        """Of releases whose command was waited for."""
        for app in sorted(self.world.apps.values(), key=lambda item: item.name):
            verdict = candidates.judge(self.world, app)
            if verdict is not None:
                self.desk.apps[app.name] = verdict.app
                self.desk.decisions.append(verdict.decision)

    # ------------------------------------------------------------------ one app

    def _one_app(self, app: App, release: Release, known: set[TypeKey]) -> None:
        changed: list[_Changed] = []
        for spec in release.types:
            if spec.schedule is not None:
                continue
            known.add((app.name, spec.name))
            upkeep = self._one_type(Wish(app=app, spec=spec, release=release))
            if self._is_changing(app, spec):
                changed.append(_Changed(upkeep, _has_arrived(upkeep)))
        if app.release != app.stable_release and app.name not in self.desk.apps:
            self._judge_change(app, changed)

    def _one_type(self, wish: Wish) -> Upkeep:
        quantity = wish.app.formation.get(wish.spec.name, 0)
        of_type = OfType(wish, quantity, self.book, self.desk.states)
        upkeep = Upkeep(self.desk, of_type, self.room)
        if self._needs_upkeep(of_type):
            upkeep.run()
        return upkeep

    def _needs_upkeep(self, of_type: OfType) -> bool:
        """Cheap: is there anything about this type that a rule may act on?"""
        book = of_type.book
        return bool(
            of_type.spec.per_host
            or of_type.spec.where.require
            or book.slots != of_type.quantity
            or book.doubles
            or book.stale
            or book.ending
            or book.surge
            or book.to_retry
            or book.looping
            or self.book.silent
            or self.book.draining
            or not self.book.same(
                of_type.key, of_type.app.stable_release or of_type.app.release, of_type.app.release
            )
        )

    def _is_changing(self, app: App, spec: ProcessType) -> bool:
        stable = app.stable_release
        return not stable or not self.book.same((app.name, spec.name), stable, app.release)

    def _judge_change(self, app: App, changed: Sequence[_Changed]) -> None:
        """The whole app's change has arrived, or goes on, or has failed."""
        if all(item.arrived for item in changed):
            self._settle(app)
            return
        if not app.stable_release or app.rollout.paused:
            return
        for item in changed:
            why = "" if item.arrived else self._failure(app, item.upkeep)
            if why:
                self._undo(app, item.upkeep.spec, why)
                return

    def _settle(self, app: App) -> None:
        self.desk.apps[app.name] = replace(app, stable_release=app.release, rollout=_kept_word(app))
        if app.stable_release:
            self.desk.decisions.append(
                Decision(
                    action="arrived",
                    app=app.name,
                    before=f"v{app.stable_release}",
                    after=f"v{app.release}",
                )
            )

    def _failure(self, app: App, upkeep: Upkeep) -> str:
        views = upkeep.views
        why = rollout.failure(views)
        if why or upkeep.step.held:
            return why
        rules, known = upkeep.spec.rollout, self.desk.progress.get(upkeep.key)
        if known is None:
            return ""
        within_s = rules.deadline_s + self._build_s(app)
        due_s = known.since_s + within_s + self._drain_s(app, upkeep.spec.name)
        self.desk.wake(due_s)
        if self.desk.now.monotonic_s < due_s:
            return ""
        waits = next((f"; {view.waits}" for view in views if view.waits and not view.stale), "")
        return f"no further {upkeep.spec.name} came to work within {within_s:g} s{waits}"

    def _build_s(self, app: App) -> float:
        """How long a host may build before an instance of the release can start on it."""
        release = self.desk.world.releases.get((app.name, app.release))
        return release.build.timeout_s if release and release.artifact and release.build else 0.0

    def _drain_s(self, app: App, name: str) -> float:
        """How long one that is replaced drains before its successor can start in its place: that
        says nothing about the new release."""
        numbers = {app.stable_release, app.release}
        releases = (self.desk.world.releases.get((app.name, number)) for number in numbers)
        specs = (release.type_named(name) for release in releases if release)
        return max((spec.stop_drain_s for spec in specs if spec), default=0.0)

    def _undo(self, app: App, spec: ProcessType, why: str) -> None:
        if not spec.rollout.rollback:
            self.desk.pending[Slot(app.name, spec.name, 0)] = (
                f"the change to v{app.release} has failed: {why}"
            )
            return
        undone = Rollout(undone_release=app.release, reason=why)
        self.desk.apps[app.name] = replace(app, release=app.stable_release, rollout=undone)
        self.desk.decisions.append(
            Decision(
                action="undo",
                app=app.name,
                before=f"v{app.release}",
                after=f"v{app.stable_release}",
                why=why,
            )
        )

    # ------------------------------------------------------------------ what nobody wants

    def _drop_unwanted_types(self, known: set[TypeKey]) -> None:
        """What no app of this world defines any more."""
        for key in [key for key in self.book.types if key not in known]:
            if key[0] in self.desk.left_alone:
                continue
            for row, data in enumerate(self.book.data):
                if data is None or key not in data.types:
                    continue
                for bundle in data.types[key].bundles:
                    for ordinal in bundle.ordinals:
                        self.draft.drop(row, bundle.stay(ordinal))
                        self.desk.tally["removed"] += 1

    # ------------------------------------------------------------------ where it goes

    def _place_demands(self) -> None:
        """First one of every type, so that none starves; then what is hardest to place."""
        order = sorted(self.desk.demands, key=_hardest_first)
        for _, group in groupby(order, key=_kind):
            demands = list(group)
            if demands[0].past.avoided_hosts:
                for demand in demands:
                    self._place_single(demand)
            elif demands[0].lost is not None:
                self._place_lost(demands)
            else:
                for demand in demands:
                    self._place(demand)

    def _place(self, demand: Demand) -> None:
        wish = demand.wish
        fit = self.draft.fit(wish)
        columns = fit.columns()
        counts = placement.place(len(demand.ordinals), columns)
        rows = placement.deal(counts, columns.level, columns.rank)
        placed = demand.ordinals[: len(rows)]
        if _needs_single_steps(wish, demand):
            for ordinal, row in zip(placed, rows.tolist(), strict=True):
                slot = Slot(wish.app.name, wish.spec.name, ordinal)
                self.draft.add(wish, slot, row, demand.reason, surge=demand.surge)
        elif len(rows):
            self.draft.add_many(wish, np.array(placed, dtype=np.int64), rows, demand.reason)
        self.desk.tally["placed"] += len(rows)
        self._leave_waiting(demand, len(rows))

    def _leave_waiting(self, demand: Demand, placed: int) -> None:
        rest = demand.ordinals[placed:]
        if not rest:
            return
        wish = demand.wish
        why = self.draft.fit(wish).reason()
        if demand.surge:
            why = f"no room for one more while v{wish.app.release} comes; {why}"
        self.desk.wait([Slot(wish.app.name, wish.spec.name, o) for o in rest], why)

    def _place_lost(self, demands: Sequence[Demand]) -> None:
        """Of one type, in one go."""
        fit = self.draft.fit(demands[0].wish)
        columns = fit.columns()
        counts = placement.place(len(demands), columns)
        rows = placement.deal(counts, columns.level, columns.rank).tolist()
        for demand, row in zip(demands, rows, strict=False):
            self._follow(demand, row)
        if len(rows) < len(demands):
            why = self.draft.fit(demands[0].wish).reason()
            self.desk.wait([d.slot for d in demands[len(rows) :]], why)

    def _place_single(self, demand: Demand) -> None:
        avoided = demand.past.avoided_hosts
        barred = {
            self.book.rows[host]: "it kept failing there"
            for host in avoided
            if host in self.book.rows
        }
        fit = self._try_single(demand, barred)
        if fit is not None and barred:
            fit = self._try_single(demand, {})
        if fit is not None:
            self.desk.wait([demand.slot], fit.reason())

    def _try_single(self, demand: Demand, barred: Mapping[int, str]) -> Fit | None:
        """None when it has a place now."""
        fit = self.draft.fit(demand.wish, barred)
        rows = np.flatnonzero(placement.place(1, fit.columns()))
        if not len(rows):
            return fit
        self._follow(demand, int(rows[0]))
        return None

    def _follow(self, demand: Demand, row: int) -> None:
        wish, lost = demand.wish, demand.lost
        self.draft.add(
            wish, demand.slot, row, demand.reason, past=demand.past, surge=demand.surge,
            moved_from=lost.host if lost else "", after_loss=lost is not None,
        )  # fmt: skip
        self.desk.tally["moved" if lost else "placed"] += 1
        if lost is not None and wish.spec.exclusive:
            # Should that host return, it must not start its own again.
            self.desk.end(lost, demand.reason)
            self.desk.absent.add(lost.host)

    # ------------------------------------------------------------------ the plan

    def _app_records(self) -> list[Change]:
        return [
            Change(kind="apps", names=(name,), record=app)
            for name, app in sorted(self.desk.apps.items())
        ]

    def _plan(self, records: Sequence[Change], together: Sequence[str]) -> Plan:
        desk = self.desk
        self._wake_for_silent_hosts()
        return Plan(
            documents=tuple(self.draft.documents(self.epoch)),
            records=tuple(records),
            together=tuple(together),
            absent=tuple(sorted(desk.absent)),
            wake_at_s=desk.wake_at_s,
            sentence=self._sentence(),
            pending=desk.pending,
            unnamed=desk.unnamed,
            left_alone=desk.left_alone,
            brake=desk.brake,
            decisions=tuple(desk.decisions),
            progress=desk.progress,
        )

    def _wake_for_silent_hosts(self) -> None:
        """When the first suspect host becomes lost."""
        for row in self.book.silent:
            since_s = self.book.entry(row).silent_since_s
            if self.desk.states[row] is HostState.SUSPECT and since_s is not None:
                counts_from_s = max(since_s, self.book.braked_at_s)
                self.desk.wake(counts_from_s + self.desk.now.replace_after_s)

    def _sentence(self) -> str:
        desk = self.desk
        done = [f"{number} {verb}" for verb, number in desk.tally.items() if number]
        done += [_told(decision) for decision in desk.decisions]
        if desk.moves.hopped:
            more = len(desk.moves.hopped) - 1
            done.append(desk.moves.hopped[0] + (f" (and {more} more)" if more else ""))
        if desk.pending:
            number = len(desk.pending) + desk.unnamed.total()
            done.append(f"{number} pending ({next(iter(desk.pending.values()))})")
        done += desk.left_alone.values()
        if desk.brake:
            done.append(BRAKE)
        return ", ".join(done) or "nothing to do"


def _has_arrived(upkeep: Upkeep) -> bool:
    """For a first release all that is wanted being healthy is enough: nothing was there before."""
    book = upkeep.of_type.book
    if not upkeep.app.stable_release:
        return not book.total or (book.healthy == book.total and not book.stale)
    return rollout.arrived(upkeep.views) and not upkeep.of_type.book.stale


def _kept_word(app: App) -> Rollout:
    """What was taken back stays known until the next release."""
    return Rollout(undone_release=app.rollout.undone_release, reason=app.rollout.reason)


def _hardest_first(demand: Demand) -> tuple[object, ...]:
    needs, where = demand.wish.spec.resources, demand.wish.spec.where
    return (
        not demand.first,
        demand.lost is None,
        -needs.memory_bytes,
        -needs.cpus,
        -len(where.require),
        demand.wish.key,
        demand.past.avoided_hosts != (),
        demand.ordinals,
    )


def _kind(demand: Demand) -> tuple[object, ...]:
    return demand.wish.key, demand.lost is None, demand.past.avoided_hosts != ()


def _needs_single_steps(wish: Wish, demand: Demand) -> bool:
    """A fixed port is taken by a slot, and a mark may be about one."""
    marks = {**wish.app.restart_marks, **wish.app.retry_marks}
    of_slots = any(key.rpartition(".")[0] == wish.spec.name for key in marks)
    return bool(wish.spec.port) or of_slots or demand.surge or demand.past is not FRESH


def _told(decision: Decision) -> str:
    why = f": {decision.why}" if decision.why else ""
    return f"{decision.app} {decision.action} {decision.before} -> {decision.after}{why}"
