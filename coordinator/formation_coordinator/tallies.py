"""What the book writes down: of each host, and of each type over all hosts."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from formation.model import Bundle, Slot
from formation_coordinator.world import HostEntry

TypeKey = tuple[str, str]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

NOWHERE = -1


@dataclass(slots=True)
class RowType:
    """The stays of one type on one host, runs not among them."""

    bundles: list[Bundle] = field(default_factory=list)
    count: int = 0
    healthy: int = 0


@dataclass(slots=True)
class Row:
    """What one host's entry adds to the sums."""

    entry: HostEntry
    total: int = 0
    cpus_milli: int = 0
    memory_bytes: int = 0
    types: dict[TypeKey, RowType] = field(default_factory=dict)
    looping: set[TypeKey] = field(default_factory=set)
    runs: list[Bundle] = field(default_factory=list)
    ports: dict[int, set[Slot]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    incomplete: bool = False


@dataclass(slots=True)
class TypeBook:
    """One type over all hosts. The sets hold rows that have at least one such stay."""

    count: Ints
    where: array[int] = field(default_factory=lambda: array("l", [NOWHERE]))
    doubles: dict[int, list[int]] = field(default_factory=dict)
    slots: int = 0
    total: int = 0
    healthy: int = 0
    unwell: set[int] = field(default_factory=set)
    stale: set[int] = field(default_factory=set)
    to_retry: set[int] = field(default_factory=set)
    looping: set[int] = field(default_factory=set)
    ending: set[int] = field(default_factory=set)
    surge: set[int] = field(default_factory=set)
    judged_by: object = None

    def enter(self, ordinal: int, row: int) -> None:
        if ordinal >= len(self.where):
            grown = max(ordinal + 1, 2 * len(self.where))
            self.where.extend([NOWHERE] * (grown - len(self.where)))
        if self.where[ordinal] == NOWHERE:
            self.where[ordinal] = row
            self.slots += 1
        else:
            self.doubles.setdefault(ordinal, [self.where[ordinal]]).append(row)

    def leave(self, ordinal: int, row: int) -> None:
        rows = self.doubles.get(ordinal)
        if rows is None:
            self.where[ordinal] = NOWHERE
            self.slots -= 1
            return
        rows.remove(row)
        self.where[ordinal] = rows[0]
        if len(rows) == 1:
            del self.doubles[ordinal]

    def rows_of(self, ordinal: int) -> list[int]:
        if ordinal in self.doubles:
            return self.doubles[ordinal]
        row = self.where[ordinal] if ordinal < len(self.where) else NOWHERE
        return [] if row == NOWHERE else [row]

    def free_ordinals(self, number: int) -> Ints:
        """The lowest that no slot has, from 1 on."""
        taken = np.frombuffer(self.where, dtype=np.int64)
        free = np.flatnonzero(taken[1:] == NOWHERE)[:number] + 1
        beyond = np.arange(len(taken), len(taken) + number - len(free))
        return np.concatenate((free, beyond)).astype(np.int64)
