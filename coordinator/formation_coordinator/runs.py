"""Runs: commands that are started once and come to an end, by hand or by a schedule. Pure.

A run is a record. It is PENDING until the leader writes, in one transaction, the document that
lists it and the record that says PLACED: so it is started once, whoever leads. When its agent says
that it is over the record says how, and after that the document lists it no more. A tick of a
schedule is a record whose id is made of the type and the minute, so it cannot be made twice.

A run whose host falls silent is left alone: it may go on there, and to start it again would be
twice. Only when its host is given up nobody will ever know its end. A host that said goodbye has
stopped it.

Release commands (`candidates`) differ in two things: never two of an app at once, so what is to go
is listed as ending until it surely has gone; and they have a time in which they must be over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from formation.model import App, Assignment, Bundle, InstanceState, ProcessType, Slot, Terms
from formation.requests import OVER, Run, RunState
from formation.rules import Overlap
from formation_coordinator import candidates, placement, schedule
from formation_coordinator.book import Book
from formation_coordinator.draft import Draft, Wish
from formation_coordinator.world import Change, World, departed, is_over, surely_gone

# They are written together with their documents, in one transaction.
PLACED_AT_ONCE = 25
ONE_OFFS_KEPT = 50
_MINUTE_MS = 60_000


@dataclass(slots=True)
class Outcome:
    """What comes of one look at all runs. `hosts`: whose documents belong into one transaction
    with the records. `made`: how many new ones each app has."""

    changes: list[Change]
    hosts: set[str]
    pending: dict[Slot, str]
    made: dict[str, int]
    placed: int = 0
    wake_at_ms: int | None = None


class Runs:
    def __init__(self, world: World, book: Book, draft: Draft, wall_ms: int) -> None:
        self._world, self._book, self._draft, self._wall_ms = world, book, draft, wall_ms
        self._out = Outcome([], set(), {}, {})

    def look(self) -> Outcome:
        """Ticks become runs, pending ones are placed, what is over is noted and cleared away."""
        self._tick()
        by_type: dict[tuple[str, str], list[Run]] = {}
        for key, run in self._world.runs.items():
            by_type.setdefault((run.slot.app, run.slot.type), []).append(run)
            self._one(key, run)
        self._clear_strangers()
        for runs in by_type.values():
            self._forget_old(runs)
        return self._out

    def _note(self, run: Run | None, app: str, run_id: str) -> None:
        self._out.changes.append(Change(kind="runs", names=(app, run_id), record=run))

    def _one(self, key: tuple[str, str], run: Run) -> None:
        row = self._book.runs.get(key)
        stay = self._stay(row, key) if row is not None else None
        if run.state in OVER:
            self._note_end(run)
            if stay is not None and row is not None:
                self._clear(row, stay)
        elif self._goes_on(run, row, stay) and run.state is RunState.PENDING and stay is None:
            self._place(run)

    def _stay(self, row: int, key: tuple[str, str]) -> Assignment | None:
        data = self._book.data[row]
        bundles = data.runs if data else []
        return next(
            (b.stay(b.ordinals[0]) for b in bundles if (b.terms.app, b.terms.run) == key), None
        )

    def _goes_on(self, run: Run, row: int | None, stay: Assignment | None) -> bool:
        """False for one that is over, or is to end, which is noted."""
        if run.state is RunState.PLACED and self._has_ended(run, row, stay):
            return False
        return not candidates.is_release_run(run) or self._is_wanted(run)

    def _has_ended(self, run: Run, row: int | None, stay: Assignment | None) -> bool:
        if row is None or stay is None:
            why = f"host {run.host} was given up"
            self._end(run, RunState.LOST, reason=why)
            return True
        entry = self._book.entry(row)
        status = entry.observed().get(stay.uid)
        if status is not None and is_over(status):
            finished = status.state is InstanceState.FINISHED
            state = RunState.FINISHED if finished else RunState.FAILED
            self._end(run, state, last_exit=status.last_exit, reason=status.reason)
        elif status is not None and status.unbuildable:
            self._end(run, RunState.FAILED, reason=status.unbuildable)
        elif departed(entry):
            why = f"host {run.host} said goodbye before it was over"
            self._end(run, RunState.FAILED, reason=why)
        else:
            return False
        return True

    def _is_wanted(self, run: Run) -> bool:
        """Of a release command."""
        why = candidates.unwanted(self._world, run, self._wall_ms)
        if why:
            self._end(run, RunState.CANCELLED, reason=why)
            return False
        self._wake(candidates.due_at_ms(self._world, run))
        return True

    def _wake(self, at_ms: int | None) -> None:
        if at_ms is not None:
            known = self._out.wake_at_ms
            self._out.wake_at_ms = at_ms if known is None else min(known, at_ms)

    def _note_end(self, run: Run) -> None:
        """Releases remember how their commands ended; runs are forgotten in time."""
        if candidates.is_release_run(run):
            release = candidates.with_its_end(self._world, run)
            if release is not None:
                names = (release.app, str(release.number))
                self._out.changes.append(Change(kind="releases", names=names, record=release))

    def _clear(self, row: int, stay: Assignment) -> None:
        """Its host is to have it no longer."""
        entry = self._book.entry(row)
        status = entry.observed().get(stay.uid)
        if not candidates.is_release_run(stay) or is_over(status):
            self._draft.drop(row, stay)
        elif not stay.ending:
            self._draft.end(row, stay, "not wanted any more")
        elif surely_gone(entry, status):
            self._draft.drop(row, stay)

    def _end(self, run: Run, state: RunState, **fields: str) -> None:
        over = replace(run, state=state, ended_at_ms=self._wall_ms, **fields)  # type: ignore[arg-type]
        self._note(over, run.slot.app, run.id)

    def _clear_strangers(self) -> None:
        """Stays of runs that no record knows: their app was deleted, or the record was."""
        for key, row in tuple(self._book.runs.items()):
            if key not in self._world.runs:
                stay = self._stay(row, key)
                if stay is not None:
                    self._clear(row, stay)

    # ------------------------------------------------------------------ where it runs

    def _place(self, run: Run) -> None:
        wish = wish_of(self._world, run)
        if wish is None:
            self._end(run, RunState.FAILED, reason=f"v{run.release} does not define it any more")
            return
        if why := self._held(run):
            self._out.pending[run.slot] = why
            return
        if self._out.placed >= PLACED_AT_ONCE:
            return
        fit = self._draft.fit(wish)
        rows = np.flatnonzero(placement.place(1, fit.columns()))
        if not len(rows):
            self._out.pending[run.slot] = fit.reason()
            return
        row = int(rows[0])
        self._draft.add_run(_bundle(run), wish.spec, row)
        host = self._book.names[row]
        self._note(replace(run, state=RunState.PLACED, host=host), run.slot.app, run.id)
        self._out.hosts.add(host)
        self._out.placed += 1

    def _held(self, run: Run) -> str:
        """Why a release command may not start beside what there is; or ""."""
        if not candidates.is_release_run(run):
            return ""
        for key, row in self._book.runs.items():
            earlier = self._stay(row, key) if key[0] == run.slot.app else None
            if earlier is not None and candidates.is_release_run(earlier):
                return candidates.why_it_waits(earlier.run, self._book.entry(row))
        return ""

    # ------------------------------------------------------------------ schedules

    def _tick(self) -> None:
        for app in self._world.apps.values():
            release = self._world.current_release(app)
            for spec in release.types if release else ():
                if spec.schedule is not None and app.formation.get(spec.name, 0):
                    self._tick_type(app, spec)

    def _tick_type(self, app: App, spec: ProcessType) -> None:
        assert spec.schedule is not None
        key = (app.name, spec.name)
        mine = [r for r in self._world.runs.values() if (r.slot.app, r.slot.type) == key]
        last_ms = max((r.tick_ms for r in mine), default=0) or self._first_ms(app)
        tick_ms = schedule.due_tick_ms(spec.schedule, last_ms, self._wall_ms)
        if tick_ms is not None:
            running = [run for run in mine if run.state not in OVER]
            self._run_tick(app, spec, tick_ms, running)
        self._wake(schedule.next_tick_ms(spec.schedule, self._wall_ms))

    def _first_ms(self, app: App) -> int:
        """A type that never ran has missed nothing before its release was made."""
        release = self._world.current_release(app)
        return release.created_at_ms if release and release.created_at_ms else self._wall_ms

    def _run_tick(self, app: App, spec: ProcessType, tick_ms: int, running: list[Run]) -> None:
        assert spec.schedule is not None
        made = self._out.made
        skip = bool(running) and spec.schedule.overlap is Overlap.SKIP
        if running and spec.schedule.overlap is Overlap.REPLACE:
            for run in running:
                self._end(run, RunState.CANCELLED, reason="its next time had come")
        for index in range(1 if skip else app.formation[spec.name]):
            made[app.name] = made.get(app.name, 0) + 1
            suffix = f"-{index + 1}" if index else ""
            run = Run(
                id=f"{spec.name}-{tick_ms // _MINUTE_MS}{suffix}",
                slot=Slot(app.name, spec.name, app.runs_made + made[app.name]),
                release=app.release,
                who="schedule",
                created_at_ms=self._wall_ms,
                tick_ms=tick_ms,
            )
            if skip:
                why = f"{running[0].slot.short} was still running"
                run = replace(run, state=RunState.CANCELLED, reason=why, ended_at_ms=self._wall_ms)
            self._note(run, app.name, run.id)

    def _forget_old(self, runs: list[Run]) -> None:
        """Of those that are over the newest stay known, and always the last of a schedule."""
        over = sorted(
            (run for run in runs if run.state in OVER),
            key=lambda run: (run.tick_ms, run.created_at_ms, run.slot.ordinal),
        )
        for run in over[: max(0, len(over) - self._kept(runs[0]))]:
            if (run.slot.app, run.id) not in self._book.runs:
                self._note(None, run.slot.app, run.id)

    def _kept(self, run: Run) -> int:
        app = self._world.apps.get(run.slot.app)
        release = self._world.current_release(app) if app else None
        spec = release.type_named(run.slot.type) if release else None
        return max(1, spec.schedule.keep) if spec and spec.schedule else ONE_OFFS_KEPT


def wish_of(world: World, run: Run) -> Wish | None:
    """What a host needs to have for it; None: its release does not define it."""
    app = world.apps.get(run.slot.app)
    release = world.releases.get((run.slot.app, run.release))
    if app is None or release is None:
        return None
    if run.command and not run.like:
        spec: ProcessType | None = ProcessType(name=run.slot.type, command=run.command)
    else:
        spec = release.type_named(run.like or run.slot.type)
    if spec is None:
        return None
    settings = replace(spec, name=run.slot.type, port=0 if run.command else spec.port)
    return Wish(app=app, spec=settings, release=release)


def _bundle(run: Run) -> Bundle:
    terms = Terms(
        app=run.slot.app,
        type=run.slot.type,
        release=run.release,
        stem="",
        run=run.id,
        command=run.command,
        like=run.like,
        reason=f"run by {run.who}" if run.who else "run",
    )
    return Bundle(terms, (run.slot.ordinal,))
