"""What one pass has used up so far of every host, over the book. Pure.

Mutable, and private to one pass; the book below it is never changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from formation.model import ProcessType, Slot
from formation_coordinator.book import Book, needs_milli
from formation_coordinator.tallies import Ints, TypeKey
from formation_coordinator.world import HostEntry

_COLUMNS = (
    "known", "connected", "departed", "cordoned", "abilities", "limit", "cpus_milli",
    "memory_bytes", "by_name",
)  # fmt: skip


class Space:
    """What one pass has used up so far, over the book. Copied at the first change."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.total, self.cpus_used, self.memory_used = book.total, book.cpus_used, book.memory_used
        self._counts: dict[TypeKey, Ints] = {}
        self._ports: dict[tuple[int, int], set[Slot]] = {}
        self._own = False

    def count(self, key: TypeKey) -> Ints:
        own = self._counts.get(key)
        return own if own is not None else self.book.of(key).count

    def holders(self, row: int, port: int) -> set[Slot]:
        return self.book.held_ports(row).get(port, set()) | self._ports.get((row, port), set())

    def port_rows(self, port: int) -> set[int]:
        found = {row for row, _ in self.book.rows_with_ports(port)}
        return found | {row for row, other in self._ports if other == port}

    def _copy_totals(self) -> None:
        if not self._own:
            self.total, self._own = self.total.copy(), True
            self.cpus_used, self.memory_used = self.cpus_used.copy(), self.memory_used.copy()

    def _copy(self, key: TypeKey) -> Ints:
        self._copy_totals()
        if key not in self._counts:
            self._counts[key] = self.count(key).copy()
        return self._counts[key]

    def give_back(self, key: TypeKey, row: int) -> None:
        """A place; what its process uses is free only when that is gone."""
        self._copy(key)[row] -= 1
        self.total[row] -= 1

    def take(self, key: TypeKey, spec: ProcessType, row: int, slot: Slot) -> None:
        self._copy(key)[row] += 1
        self.total[row] += 1
        self.cpus_used[row] += needs_milli(spec)
        self.memory_used[row] += spec.resources.memory_bytes
        if spec.port:
            self._ports.setdefault((row, spec.port), set()).add(slot)

    def take_run(self, spec: ProcessType, row: int) -> None:
        self._copy_totals()
        self.total[row] += 1
        self.cpus_used[row] += needs_milli(spec)
        self.memory_used[row] += spec.resources.memory_bytes

    def take_many(self, key: TypeKey, spec: ProcessType, counts: Ints) -> None:
        """Of types without a fixed port."""
        self._copy(key)
        self._counts[key] += counts
        self.total += counts
        self.cpus_used += counts * needs_milli(spec)
        self.memory_used += counts * spec.resources.memory_bytes

    def free(self, spec: ProcessType, row: int) -> None:
        """What a process holds that will be gone before the one that was taken for it starts."""
        self._copy_totals()
        self.cpus_used[row] -= needs_milli(spec)
        self.memory_used[row] -= spec.resources.memory_bytes


class OneRow(Space):
    """One host alone, as row 0: a question about it costs nothing for all the others."""

    def __init__(self, space: Space, row: int) -> None:
        self.book = cast(Book, _RowBook(space.book, row))
        self.total = space.total[row : row + 1]
        self.cpus_used = space.cpus_used[row : row + 1]
        self.memory_used = space.memory_used[row : row + 1]
        self._counts, self._ports, self._own = {}, {}, False
        self._whole, self._row = space, row

    def count(self, key: TypeKey) -> Ints:
        own = self._counts.get(key)
        return own if own is not None else self._whole.count(key)[self._row : self._row + 1]

    def holders(self, row: int, port: int) -> set[Slot]:
        return self._whole.holders(self._row, port)

    def port_rows(self, port: int) -> set[int]:
        return {0} if self.holders(0, port) else set()


class Freed(Space):
    """As if one stay had gone already, with all that it holds."""

    def __init__(self, space: Space, row: int, slot: Slot, spec: ProcessType | None) -> None:
        self.book, self._below, self._row, self._slot = space.book, space, row, slot
        self.total, self.cpus_used = space.total, space.cpus_used
        self.memory_used = space.memory_used
        self._counts, self._ports, self._own = {}, {}, False
        self.give_back((slot.app, slot.type), row)
        if spec is not None:
            self.free(spec, row)

    def count(self, key: TypeKey) -> Ints:
        own = self._counts.get(key)
        return own if own is not None else self._below.count(key)

    def holders(self, row: int, port: int) -> set[Slot]:
        found = self._below.holders(row, port)
        return found - {self._slot} if row == self._row else found

    def port_rows(self, port: int) -> set[int]:
        return {row for row in self._below.port_rows(port) if self.holders(row, port)}


class _RowBook:
    """What `fit` asks of a book, of one row."""

    def __init__(self, book: Book, row: int) -> None:
        self._book, self._row = book, row
        for name in _COLUMNS:
            setattr(self, name, getattr(book, name)[row : row + 1])
        self.names = [book.names[row]]
        self.rows = {book.names[row]: 0}
        self.draining = {0} if row in book.draining else set()
        self.types: Mapping[TypeKey, Any] = {}

    def entry(self, row: int) -> HostEntry:
        return self._book.entry(self._row)

    def labels(self, row: int) -> Mapping[str, str]:
        return self._book.labels(self._row)

    def codes(self, label: str) -> tuple[Ints, list[str]]:
        codes, values = self._book.codes(label)
        return codes[self._row : self._row + 1], values
