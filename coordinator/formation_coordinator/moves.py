"""Stays that leave a host that is heard, carried out when all else has its place. Pure.

For one of these reasons:

* Its host cannot run the new release. Until another one can, the old release goes on.
* It crash-loops there, and `hops` allows another try elsewhere. When no host is left it stays.
* Its host is being drained, or no longer has the labels that the type requires.
* An operator asked for better balance (`Rebalance`).

For the first two the slot's old stay ends when the new one is written. For the others the new stay
comes first and the old one goes when it works (`reconcile` settles the two), so many at once as a
change of the type may surge; where two copies must never run, the old one ends first.

Mutable, and private to one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from formation.model import HostState, Slot
from formation.policy import LOOP_FAILURES, LOOP_WITHIN_S
from formation_coordinator import hops, placement, rollout
from formation_coordinator.draft import FRESH, Draft, Past
from formation_coordinator.fit import Fit
from formation_coordinator.stays import OfType, Stay

# Each costs a look at every host. What was written starts the next pass, which goes on.
MOVES_MAX = 50


@dataclass(frozen=True, slots=True)
class _Move:
    """`barred`: rows that it does not go to, each with the reason. `to`: the only one it may go
    to."""

    of_type: OfType
    stay: Stay
    past: Past
    barred: Mapping[int, str]
    reason: str
    to: int | None = None


class Moves:
    def __init__(self, draft: Draft) -> None:
        self.replaced = 0
        self.moving = 0
        self.hopped: list[str] = []
        self.pending: dict[Slot, str] = {}
        self._draft = draft
        self._left = MOVES_MAX
        self._replacements: list[_Move] = []
        self._hops: list[tuple[list[_Move], int]] = []  # of one type, and how many of them may go
        self._leaving: list[tuple[list[_Move], int]] = []

    def replace(self, of_type: OfType, stay: Stay, reason: str) -> None:
        """Ask for a new stay of the current release, on another host than this one."""
        barred = _there_already(of_type, stay)
        self._replacements.append(_Move(of_type, stay, FRESH, barred, reason))

    def find_hops(self, of_type: OfType) -> None:
        """Of the current release only: what is stale gets another chance with its new one."""
        leaving = [stay for stay in of_type.on(of_type.book.looping) if _hops(stay)]
        if not leaving:
            return
        unwell = (stay for stay in of_type.on(of_type.book.unwell) if stay.current)
        allowed = hops.allowance(unwell, of_type.quantity)
        if allowed:
            self._hops.append(([_hop_of(of_type, stay) for stay in leaving], allowed))

    def leave(
        self,
        of_type: OfType,
        leaving: Iterable[tuple[Stay, str]],
        to: Mapping[int, int] | None = None,
    ) -> None:
        """These are to run elsewhere, each for the reason beside it, when a new stay works there.

        `to`: by ordinal the row where it is to go.
        """
        moves = [
            _Move(
                of_type, stay, past_of(stay), _there_already(of_type, stay), reason,
                to.get(stay.ordinal) if to else None,
            )
            for stay, reason in leaving
            if len(of_type.of_slot(stay.ordinal)) == 1
        ]  # fmt: skip
        at_once = max(1, rollout.surge_max(of_type.spec.rollout, of_type.quantity))
        under_way = sum(
            any(stay.assignment.moved_from for stay in of_type.of_slot(ordinal))
            for ordinal in of_type.book.doubles
        )
        if moves:
            self._leaving.append((moves, at_once - under_way))

    def carry_out(self) -> None:
        for move in self._replacements:
            self._replace(move)
        for moves, allowed in self._hops:
            self._hop(moves, allowed)
        for moves, allowed in self._leaving:
            self._leave(moves, allowed)

    def _replace(self, move: _Move) -> None:
        if self._left == 0 or self._is_gone(move):
            return
        row, fit = self._place(move)
        if row is None:
            self.pending[move.stay.slot] = not_replaced(fit.reason())
            return
        self._end(move)
        if not move.of_type.spec.exclusive:
            self._add(move, row)
        self.replaced += 1

    def _hop(self, moves: Sequence[_Move], allowed: int) -> None:
        """As many of these as find another host; those that find none hold up nobody."""
        for move in moves:
            if allowed == 0 or self._left == 0:
                return
            if self._is_gone(move):
                continue
            row, _ = self._place(move)
            if row is None:
                continue
            self._end(move)
            if not move.of_type.spec.exclusive:
                self._add(move, row, moved_from=move.stay.assignment.moved_from)
            self.hopped.append(_sentence(move.stay, self._draft.book.names[row]))
            allowed -= 1

    def _leave(self, moves: Sequence[_Move], allowed: int) -> None:
        for move in moves:
            if self._left == 0 or self._is_gone(move):
                continue
            if allowed <= 0:
                return
            row, fit = self._place(move)
            if row is None:
                self.pending[move.stay.slot] = f"{move.reason}, and {fit.reason()}"
                continue
            self._add(move, row, moved_from=move.stay.host)
            self.moving += 1
            allowed -= 1

    def _is_gone(self, move: _Move) -> bool:
        """Something else was decided of it since, in this pass."""
        known = move.stay.assignment.uid in move.of_type.gone
        return known or move.stay.slot in self._draft.touched

    def _place(self, move: _Move) -> tuple[int | None, Fit]:
        self._left -= 1
        fit = self._draft.fit(move.of_type.wish, move.barred)
        if move.to is not None:
            return (move.to if fit.room[move.to] > 0 else None), fit
        rows = np.flatnonzero(placement.place(1, fit.columns()))
        return (int(rows[0]) if len(rows) else None), fit

    def _add(self, move: _Move, row: int, *, moved_from: str = "") -> None:
        wish, stay = move.of_type.wish, move.stay
        self._draft.add(
            wish, stay.slot, row, move.reason, past=move.past,
            surge=stay.assignment.surge, moved_from=moved_from,
        )  # fmt: skip

    def _end(self, move: _Move) -> None:
        """At once; an exclusive one's successor comes when it has surely stopped."""
        stay = move.stay
        move.of_type.gone.add(stay.assignment.uid)
        if move.of_type.spec.exclusive:
            self._draft.end(stay.row, stay.assignment, move.reason, move.past)
        else:
            self._draft.drop(stay.row, stay.assignment)


def not_replaced(why: str) -> str:
    return f"its new release fits nowhere, the old one goes on; {why}"


def _there_already(of_type: OfType, stay: Stay) -> dict[int, str]:
    return {s.row: "it is there already" for s in of_type.of_slot(stay.ordinal)}


def past_of(stay: Stay) -> Past:
    """What keeps failing somewhere is not sent there by another reason either."""
    return Past(avoided_hosts=stay.assignment.avoided_hosts) if stay.current else FRESH


def _hops(stay: Stay) -> bool:
    return hops.may_leave(stay) and stay.state is HostState.READY and stay.current


def _hop_of(of_type: OfType, stay: Stay) -> _Move:
    past = hops.past_after(stay)
    barred = _there_already(of_type, stay)
    book = of_type.rows
    barred |= {book[host]: "it kept failing there" for host in past.avoided_hosts if host in book}
    return _Move(of_type, stay, past, barred, f"it kept failing on {stay.host}")


def _sentence(stay: Stay, host: str) -> str:
    last = f" ({stay.status.last_exit})" if stay.status and stay.status.last_exit else ""
    failed = f"failed {LOOP_FAILURES} times within {LOOP_WITHIN_S / 60:g} min there"
    return f"{stay.slot} moved from {stay.host} to {host}: {failed}{last}"
