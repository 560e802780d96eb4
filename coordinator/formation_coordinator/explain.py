"""Why an instance is where it is, or nowhere: placement's own checks and terms, in words. Pure.

Nothing is decided here. The checks are those of `fit`, the order of hosts is the one in which
`placement` would take them, and the remedy is the host that fails least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from formation.model import HostState, Slot
from formation.requests import OVER, Run
from formation_coordinator import runs
from formation_coordinator.book import MILLI, Book, needs_milli
from formation_coordinator.desk import Desk, Now, open_desk
from formation_coordinator.draft import Wish
from formation_coordinator.fit import Fit, amount
from formation_coordinator.stays import OfType
from formation_coordinator.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """What decides between hosts that fit; the first that differs does."""

    name: str
    value: int
    more_is_better: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One host on one more instance of a type. `rank`: 1 would be taken; 0: it does not fit."""

    host: str
    fits: bool
    checks: tuple[CheckResult, ...]
    terms: tuple[Term, ...]
    rank: int = 0
    current: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`host` "": it is nowhere. `reason`: why it came there, or why it is nowhere."""

    slot: Slot
    host: str
    reason: str
    verdicts: tuple[Verdict, ...]
    remedy: str = ""


class UnknownSlot(LookupError):
    """There is no such instance, and none is wanted."""


def explain(
    world: World, book: Book, slot: Slot, *, now_s: float, replace_after_s: float, pending: str = ""
) -> Explanation:
    """Raises `UnknownSlot`. `pending`: the leader's reason when it has no host."""
    now = Now(monotonic_s=now_s, wall_ms=0, replace_after_s=replace_after_s)
    desk = open_desk(world, book, now, lambda: "", {})
    run = world.runs.get((slot.app, slot.short))
    if run is not None and run.state not in OVER:
        return _of_run(desk, run, pending)
    wish = wish_of(world, slot)
    of_type = OfType(wish, wish.app.formation.get(slot.type, 0), book, desk.states)
    found = of_type.of_slot(slot.ordinal)
    if not found and not pending:
        raise UnknownSlot(str(slot))
    stay = max(found, key=lambda s: (s.healthy, s.current), default=None)
    draft = desk.draft
    fit = draft.fit_without(wish, stay.row, stay.assignment) if stay else draft.fit(wish)
    verdicts = judged(fit, {s.host for s in found})
    return Explanation(
        slot=slot,
        host=stay.host if stay else "",
        reason=(stay.assignment.reason or "wanted") if stay else pending,
        verdicts=tuple(verdicts),
        remedy="" if stay or any(v.fits for v in verdicts) else remedy(fit),
    )


def _of_run(desk: Desk, run: Run, pending: str) -> Explanation:
    wish = runs.wish_of(desk.world, run)
    if wish is None:
        raise UnknownSlot(str(run.slot))
    fit = desk.draft.fit(wish)
    verdicts = judged(fit, {run.host})
    fits = any(verdict.fits for verdict in verdicts)
    return Explanation(
        slot=run.slot,
        host=run.host,
        reason=f"run by {run.who}" if run.host else pending or "wanted",
        verdicts=tuple(verdicts),
        remedy="" if run.host or fits else remedy(fit),
    )


def wish_of(world: World, slot: Slot) -> Wish:
    app = world.apps.get(slot.app)
    release = world.current_release(app) if app else None
    spec = release.type_named(slot.type) if release else None
    if app is None or release is None or spec is None:
        raise UnknownSlot(str(slot))
    return Wish(app=app, spec=spec, release=release)


def judged(fit: Fit, current: set[str]) -> list[Verdict]:
    """Every known host, best first; then those that do not fit, by name."""
    ranked = {row: index for index, row in enumerate(in_order(fit), start=1)}
    rows = [*ranked, *(row for row in fit.rows() if row not in ranked)]
    return [_verdict(fit, row, ranked.get(row, 0), current) for row in rows]


def _verdict(fit: Fit, row: int, rank: int, current: set[str]) -> Verdict:
    host = fit.book.names[row]
    checks = tuple(
        CheckResult(name=c.name, passed=bool(c.passed[row]), detail=c.words(row))
        for c in fit.checks
        if c.name != "joined"
    )
    return Verdict(
        host=host,
        fits=rank > 0,
        checks=checks,
        terms=tuple(_terms(fit, row)),
        rank=rank,
        current=host in current,
    )


def in_order(fit: Fit) -> list[int]:
    """Rows that fit, in the order in which one more instance would go there."""
    columns = fit.columns()
    rows = np.flatnonzero(columns.room > 0)
    keys = [columns.rank[rows], -columns.room[rows], columns.level[rows]]
    for groups in reversed(columns.groups):
        levels = np.bincount(groups, weights=columns.level)
        rooms = np.bincount(groups, weights=np.maximum(columns.room, 0))
        keys += [groups[rows], -rooms[groups[rows]], levels[groups[rows]]]
    keys.append(-columns.tier[rows])
    return [int(row) for row in rows[np.lexsort(keys)]]


def _terms(fit: Fit, row: int) -> list[Term]:
    spec = fit.spec
    found = []
    if fit.looping():
        found.append(Term(name="keeps crashing there", value=int(row in fit.looping())))
    if spec.where.prefer:
        value = int(fit.preferences()[row])
        found.append(Term(name="preferences", value=value, more_is_better=True))
    labels = [label for label in spec.where.spread if len(fit.book.codes(label)[1]) > 1]
    for label, groups in zip(labels, fit.groups(), strict=True):
        level = int(np.bincount(groups, weights=fit.level)[groups[row]])
        value_of = fit.book.labels(row).get(label, "none")
        found.append(Term(name=f"of this type in {label} {value_of}", value=level))
    found.append(Term(name="of this type on it", value=int(fit.level[row])))
    room = max(0, int(fit.columns().room[row]))
    found.append(Term(name="room for more", value=room, more_is_better=True))
    return found


# ---------------------------------------------------------------------- what would help


def remedy(fit: Fit) -> str:
    """The smallest change that would make one more fit: on the host that fails least."""
    rows = fit.rows()
    if not rows:
        return "start an agent: no host has joined"
    failing = {row: [c.name for c in fit.checks if not c.passed[row]] for row in rows}
    row = min(rows, key=lambda r: (_weight(failing[r]), _shortfall(fit, r), fit.book.by_name[r]))
    host = fit.book.names[row]
    helps = [_help(fit, row, name) for name in failing[row]]
    return f"it would fit on {host} {' and '.join(helps)}"


# The easier a thing is to change, the less it weighs.
_EFFORT = {
    "cordon": 1, "max per host": 2, "instances": 2, "memory": 3, "cpus": 3, "labels": 3, "port": 4,
    "apart": 4, "history": 5, "abilities": 6, "state": 8,
}  # fmt: skip


def _weight(names: Sequence[str]) -> int:
    return sum(_EFFORT.get(name, 9) for name in names)


def _shortfall(fit: Fit, row: int) -> float:
    """How much of what it needs is missing there."""
    book, space, needs = fit.book, fit.space, fit.spec.resources
    short = 0.0
    if needs.memory_bytes:
        free = book.memory_bytes[row] - space.memory_used[row]
        short += max(0.0, needs.memory_bytes - float(free)) / needs.memory_bytes
    if cpus := needs_milli(fit.spec):
        free = book.cpus_milli[row] - space.cpus_used[row]
        short += max(0.0, cpus - float(free)) / cpus
    return short


def _help(fit: Fit, row: int, name: str) -> str:
    if name in _HELP:
        return _HELP[name](fit, row)
    words = next(check.words(row) for check in fit.checks if check.name == name)
    return f"if it were not so: {words}"


def _more_memory(fit: Fit, row: int) -> str:
    free = max(0, int(fit.book.memory_bytes[row] - fit.space.memory_used[row]))
    return f"with {amount(fit.spec.resources.memory_bytes - free)} more memory free"


def _more_cpus(fit: Fit, row: int) -> str:
    free = max(0, int(fit.book.cpus_milli[row] - fit.space.cpus_used[row]))
    return f"with {(needs_milli(fit.spec) - free) / MILLI:g} more cpus free"


def _other_labels(fit: Fit, row: int) -> str:
    labels = fit.book.labels(row)
    missing = [str(c) for c in fit.spec.where.require if not c.allows(labels)]
    host = fit.book.names[row]
    return f"with labels that match {', '.join(missing)} (formctl hosts label {host} …)"


def _its_agent(fit: Fit, row: int) -> str:
    state = fit.states.get(row, HostState.READY)
    return "when its agent is back" if state is not HostState.READY else "when it is heard again"


_HELP: Mapping[str, Callable[[Fit, int], str]] = {
    "memory": _more_memory,
    "cpus": _more_cpus,
    "labels": _other_labels,
    "state": _its_agent,
    "cordon": lambda fit, row: f"after formctl uncordon {fit.book.names[row]}",
    "instances": lambda fit, row: "with a higher --max-instances",
    "max per host": lambda fit, row: f"with placement.max_per_host = {int(fit.level[row]) + 1}",
}
