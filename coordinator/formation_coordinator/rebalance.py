"""Better balance by a bounded number of moves: which they would be, and making them. Pure.

Placement never moves what runs, so a host that joins stays empty until something changes or an
operator asks. A type is out of balance when zones, or hosts of one zone, that would take it differ
by more than one. Each move goes from the fullest to the emptiest, so there are as few as can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from formation.model import Slot
from formation.requests import Move
from formation_coordinator.book import Ints, TypeKey
from formation_coordinator.desk import Desk
from formation_coordinator.draft import Wish
from formation_coordinator.fit import Fit
from formation_coordinator.stays import OfType, Stay
from formation_coordinator.world import Change

MOVES_MAX = 100


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
    """From where to where: between zones if those differ by more than one, else inside one."""
    level, targets = fit.level, np.flatnonzero(fit.room > 0)
    sources = np.flatnonzero(fit.book.connected & (level > 0))
    if not len(targets) or not len(sources):
        return None
    between = _of_zones(fit, sources, targets) if fit.groups() else None
    return between or _of_hosts(fit, sources, targets)


def _of_zones(fit: Fit, sources: Ints, targets: Ints) -> tuple[int, int] | None:
    zones = fit.groups()[0]
    totals = np.bincount(zones, weights=fit.level)
    fullest = max(np.unique(zones[sources]).tolist(), key=lambda zone: totals[zone])
    emptiest = min(np.unique(zones[targets]).tolist(), key=lambda zone: totals[zone])
    if totals[fullest] - totals[emptiest] <= 1:
        return None
    source = _most(fit, sources[zones[sources] == fullest])
    return source, _least(fit, targets[zones[targets] == emptiest])


def _of_hosts(fit: Fit, sources: Ints, targets: Ints) -> tuple[int, int] | None:
    """Inside the zone whose hosts differ most."""
    zones = fit.groups()[0] if fit.groups() else np.zeros(len(fit.level), dtype=np.int64)
    best: tuple[int, tuple[int, int]] | None = None
    for zone in np.intersect1d(zones[sources], zones[targets]).tolist():
        source = _most(fit, sources[zones[sources] == zone])
        target = _least(fit, targets[zones[targets] == zone])
        apart = int(fit.level[source] - fit.level[target])
        if apart > 1 and (best is None or apart > best[0]):
            best = apart, (source, target)
    return best[1] if best else None


def _most(fit: Fit, rows: Ints) -> int:
    return int(rows[np.lexsort((fit.book.by_name[rows], -fit.level[rows]))[0]])


def _least(fit: Fit, rows: Ints) -> int:
    keys = (fit.book.by_name[rows], -fit.room[rows], fit.level[rows], -fit.tiers()[rows])
    return int(rows[np.lexsort(keys)[0]])


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
        if move.from_host not in hosts or move.to_host not in desk.book.rows:
            continue
        yield move
        if hosts == {move.from_host} and move.slot not in desk.draft.touched:
            begin.append(found[0])
            to[move.slot.ordinal] = desk.book.rows[move.to_host]
    desk.moves.leave(of_type, [(stay, "for better balance") for stay in begin], to)
