"""Stays that leave a host that is heard, carried out when all else has its place. Pure.

For one of two reasons:

* Its host cannot run the new release. Until another one can, the old release goes on.
* It crash-loops there, and `hops` allows another try elsewhere. When no host is left it stays.

Mutable, and private to one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from formation.model import HostState, Slot
from formation.policy import LOOP_FAILURES, LOOP_WITHIN_S
from formation_coordinator import hops, placement
from formation_coordinator.draft import FRESH, Draft, Past
from formation_coordinator.stays import OfType, Stay
from formation_coordinator.world import is_current

# Each costs a look at every host. What was written starts the next pass, which goes on.
MOVES_MAX = 50


@dataclass(frozen=True, slots=True)
class _Move:
    """`barred`: hosts that it does not go to, each with the reason."""

    of_type: OfType
    stay: Stay
    past: Past
    barred: Mapping[str, str]


class Moves:
    def __init__(self, draft: Draft) -> None:
        self.replaced = 0
        self.hopped: list[str] = []
        self.pending: dict[Slot, str] = {}
        self._draft = draft
        self._left = MOVES_MAX
        self._replacements: list[_Move] = []
        self._hops: list[tuple[list[_Move], int]] = []  # of one type, and how many of them may go

    def replace(self, of_type: OfType, stay: Stay) -> None:
        """Ask for a new stay of the current release, on another host than this one."""
        barred = of_type.hosts_of(stay.slot.ordinal)
        self._replacements.append(_Move(of_type, stay, FRESH, barred))

    def find_hops(self, of_type: OfType) -> None:
        """Of the current release only: what is stale gets another chance with its new one."""
        leaving = [stay for stay in of_type.best.values() if _leaves(of_type, stay)]
        if not leaving:
            return
        current = (s for s in of_type.best.values() if is_current(of_type.app, s.assignment))
        allowed = hops.allowance(current, of_type.quantity)
        if allowed:
            by_ordinal = sorted(leaving, key=lambda stay: stay.slot)
            self._hops.append(([_hop_of(of_type, stay) for stay in by_ordinal], allowed))

    def carry_out(self) -> None:
        for move in self._replacements:
            self._replace(move)
        for moves, allowed in self._hops:
            self._hop(moves, allowed)

    def _replace(self, move: _Move) -> None:
        if self._left == 0:
            return
        host, why = self._move(move)
        if host:
            self.replaced += 1
        else:
            self.pending[move.stay.slot] = not_replaced(why)

    def _hop(self, moves: Sequence[_Move], allowed: int) -> None:
        """As many of these as find another host; those that find none hold up nobody."""
        fitting = self._fitting(moves[0].of_type)
        for move in moves:
            if allowed == 0 or self._left == 0:
                return
            if fitting <= move.barred.keys():
                continue
            host, why = self._move(move)
            assert host, why
            self.hopped.append(_sentence(move.stay, host))
            allowed -= 1
            fitting = self._fitting(move.of_type)

    def _fitting(self, of_type: OfType) -> set[str]:
        offers = self._draft.offers(of_type.app.name, of_type.spec)
        return {offer.host for offer in offers if offer.free}

    def _move(self, move: _Move) -> tuple[str, str]:
        """The stay ends and its slot goes on elsewhere. Gives the host, or why there is none."""
        self._left -= 1
        app, spec = move.of_type.app, move.of_type.spec
        result = placement.place(1, self._draft.offers(app.name, spec, move.barred))
        if result.unplaced:
            return "", result.reason()
        (host,) = result.counts
        self._draft.drop(move.stay.host, move.stay.assignment)
        self._draft.add(app, spec, move.stay.slot, host, move.past)
        return host, ""


def failed_there(hosts: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(hosts, "it kept failing there")


def not_replaced(why: str) -> str:
    return f"its new release fits nowhere, the old one goes on; {why}"


def _leaves(of_type: OfType, stay: Stay) -> bool:
    return (
        hops.may_leave(stay)
        and stay.state is HostState.READY
        and is_current(of_type.app, stay.assignment)
    )


def _hop_of(of_type: OfType, stay: Stay) -> _Move:
    past = hops.past_after(stay)
    barred = of_type.hosts_of(stay.slot.ordinal) | failed_there(past.avoided_hosts)
    return _Move(of_type, stay, past, barred)


def _sentence(stay: Stay, host: str) -> str:
    last = f" ({stay.status.last_exit})" if stay.status and stay.status.last_exit else ""
    failed = f"failed {LOOP_FAILURES} times within {LOOP_WITHIN_S / 60:g} min there"
    return f"{stay.slot} moved from {stay.host} to {host}: {failed}{last}"
