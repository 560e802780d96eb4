"""Better balance by a bounded number of moves: which they would be, and making them. Pure.

Placement never moves what runs, so a host that joins stays empty until something changes or an
operator asks. A type is out of balance when the difference between hosts that would take it is over
one; moving from the fullest to the emptiest until it is not is the least number of moves there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from formation.requests import Move
from formation_coordinator.desk import Desk
from formation_coordinator.draft import Wish
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
