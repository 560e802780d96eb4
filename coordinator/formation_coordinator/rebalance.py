"""Better balance by a bounded number of moves: which they would be, and making them. Pure.

Placement never moves what runs, so a host that joins stays empty until something changes or an
operator asks. A type is out of balance when hosts that it prefers have room and others run it, or
when zones, or hosts of one zone, of one tier differ by more than one. Each move goes from the
fullest to the emptiest, so there are as few as can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from formation.model import Slot
from formation.requests import Move
from formation_coordinator.desk import Desk
from formation_coordinator.draft import Wish
from formation_coordinator.fit import Fit
from formation_coordinator.stays import OfType, Stay
from formation_coordinator.tallies import Ints, TypeKey
from formation_coordinator.world import Change

MOVES_MAX = 100
Floats = NDArray[np.float64]


def follow_rebalance(desk: Desk) -> Iterator[Change]:
    """Begins the moves that may begin now. Gives the record without those that are made or can
    not be made any more, when there are such."""
    wanted = desk.world.rebalance
    if wanted is None:
        return
    left: list[Move] = []
    by_type: dict[tuple[str, str], list[Move]] = {}
    for move in wanted.moves:
        by_type.setdefault((move.slot.app, move.slot.type), []).append(move)
    for key, moves in by_type.items():
        of_type = _of_type(desk, key)
        if of_type is not None:
            left += _of_one_type(desk, of_type, moves)
    if len(left) < len(wanted.moves):
        record = replace(wanted, moves=tuple(left)) if left else None
        yield Change(kind="rebalance", names=(), record=record)


def _of_type(desk: Desk, key: tuple[str, str]) -> OfType | None:
    app = desk.world.apps.get(key[0])
    release = desk.world.current_release(app) if app else None
    spec = release.type_named(key[1]) if release else None
    if app is None or release is None or spec is None or key not in desk.book.types:
        return None
    wish = Wish(app=app, spec=spec, release=release)
    return OfType(wish, app.formation.get(key[1], 0), desk.book, desk.states)


# ---------------------------------------------------------------------- which moves


def better_moves(desk: Desk, app: str, moves_max: int) -> Iterator[Move]:
    """At most so many, of one app or ("") of all; first of the types that are worst off."""
    keys = [key for key in desk.book.types if app in ("", key[0])]
    levels = {key: desk.book.of(key).count for key in keys}
    for key in sorted(keys, key=lambda key: (-int(levels[key].max()), key)):
        of_type = _of_type(desk, key)
        if of_type is None or of_type.spec.per_host or of_type.spec.exclusive:
            continue  # one is nowhere else, the other would be down meanwhile
        for move in _of_better(desk, of_type):
            if moves_max == 0:
                return
            moves_max -= 1
            yield move


def _of_better(desk: Desk, of_type: OfType) -> Iterator[Move]:
    space, wish, names = desk.draft.space, of_type.wish, desk.book.names
    while True:
        pair = _worst_pair(desk.draft.fit(wish))
        slot = _newest_on(desk, of_type.key, pair[0]) if pair else None
        if pair is None or slot is None:
            return
        source, target = pair
        desk.draft.touched.add(slot)
        space.give_back(wish.key, source)
        space.free(wish.spec, source)
        space.take(wish.key, wish.spec, target, slot)
        yield Move(slot=slot, from_host=names[source], to_host=names[target])


def _worst_pair(fit: Fit) -> tuple[int, int] | None:
    """From where to where: up to a tier that is preferred and has room, else inside a tier."""
    tiers, sources = fit.tiers(), np.flatnonzero(fit.book.connected & (fit.level > 0))
    for tier in np.unique(tiers[fit.room > 0])[::-1].tolist():
        targets = np.flatnonzero((fit.room > 0) & (tiers == tier))
        below = sources[tiers[sources] < tier]
        if len(below):
            lowest = below[tiers[below] == tiers[below].min()]
            return _fullest(fit, _parts(fit), lowest), _emptiest(fit, _parts(fit), targets)
        for parents, parts in _levels(fit):
            apart = _apart(fit, parents, parts[0], sources[tiers[sources] == tier], targets)
            parent = int(apart.argmax())
            if apart[parent] > 1:
                inside = sources[(tiers[sources] == tier) & (parents[sources] == parent)]
                beside = targets[parents[targets] == parent]
                return _fullest(fit, parts, inside), _emptiest(fit, parts, beside)
    return None


def skew(fit: Fit) -> int:
    """The most by which two zones, or two hosts of one zone, of the same tier differ, among those
    that have one or would take one."""
    on, tiers, found = (fit.room > 0) | (fit.level > 0), fit.tiers(), 0
    for tier in np.unique(tiers[on]).tolist():
        rows = np.flatnonzero(on & (tiers == tier))
        for parents, parts in _levels(fit):
            found = max(found, int(_apart(fit, parents, parts[0], rows, rows).max()))
    return found


def _parts(fit: Fit) -> tuple[Ints, ...]:
    """Zones (of each label that it spreads by), then hosts: each row's."""
    return *fit.groups(), np.arange(len(fit.level))


def _levels(fit: Fit) -> Iterator[tuple[Ints, tuple[Ints, ...]]]:
    """What is to be level in what: the parents, and from their children on what is inside."""
    parts, parents = _parts(fit), np.zeros(len(fit.level), dtype=np.int64)
    for index in range(len(parts)):
        yield parents, parts[index:]
        parents = parts[index]


def _apart(fit: Fit, parents: Ints, children: Ints, sources: Ints, targets: Ints) -> Floats:
    """For each parent: its fullest child among the sources less its emptiest among the targets."""
    totals = np.bincount(children, weights=fit.level)
    most, least = (np.full(int(parents.max()) + 1, sign * np.inf) for sign in (-1, 1))
    np.maximum.at(most, parents[sources], totals[children[sources]])
    np.minimum.at(least, parents[targets], totals[children[targets]])
    found: Floats = most - least
    return found


def _fullest(fit: Fit, parts: tuple[Ints, ...], rows: Ints) -> int:
    """The row of the fullest host, in the fullest of each part."""
    for codes in parts:
        totals = np.bincount(codes, weights=fit.level)[codes[rows]]
        rows = rows[totals == totals.max()]
    return int(rows[np.argmin(fit.book.by_name[rows])])


def _emptiest(fit: Fit, parts: tuple[Ints, ...], rows: Ints) -> int:
    for codes in parts:
        totals = np.bincount(codes, weights=fit.level)[codes[rows]]
        rows = rows[totals == totals.min()]
    return int(rows[np.lexsort((fit.book.by_name[rows], -fit.room[rows]))[0]])


def _newest_on(desk: Desk, key: TypeKey, row: int) -> Slot | None:
    data = desk.book.data[row]
    if data is None or key not in data.types:
        return None
    ordinals = [o for b in data.types[key].bundles if not b.terms.ending for o in b.ordinals]
    free = [o for o in ordinals if Slot(*key, o) not in desk.draft.touched]
    return Slot(*key, max(free)) if free else None


def _of_one_type(desk: Desk, of_type: OfType, moves: list[Move]) -> Iterator[Move]:
    begin: list[Stay] = []
    to: dict[int, int] = {}
    for move in moves:
        found = of_type.of_slot(move.slot.ordinal)
        hosts = {stay.host for stay in found}
        if move.from_host not in hosts or not _may_take(desk, of_type, move.to_host):
            continue
        yield move
        if hosts == {move.from_host} and move.slot not in desk.draft.touched:
            begin.append(found[0])
            to[move.slot.ordinal] = desk.book.rows[move.to_host]
    desk.moves.leave(of_type, [(stay, "for better balance") for stay in begin], to)


def _may_take(desk: Desk, of_type: OfType, host: str) -> bool:
    """Is it still there, with the labels that the type requires? Room it may have again."""
    if host not in desk.book.rows:
        return False
    labels = desk.book.labels(desk.book.rows[host])
    return all(one.allows(labels) for one in of_type.spec.where.require)
