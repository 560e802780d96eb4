"""What every host says to one more instance of a type: how many it takes, or why none. Pure.

The one place that knows what fits. The leader places by its columns; `plan`, `explain` and every
"no host" put its checks into words, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from formation.model import Ability, HostState, ProcessType
from formation.rules import Constraint
from formation_coordinator import placement
from formation_coordinator.book import MILLI, PLENTY, Book, ability_bits, needs_milli
from formation_coordinator.space import Space
from formation_coordinator.tallies import Flags, Ints, TypeKey

NAMED_MAX = 10
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a host must pass. `words(row)`: how it is there, with numbers."""

    name: str
    passed: Flags
    words: Callable[[int], str]


class Fit:
    """For one type, as things are in `space`. `apart`: types that share no host with it, either
    way round. `barred`: rows that take none, with the reason."""

    def __init__(
        self,
        space: Space,
        key: TypeKey,
        spec: ProcessType,
        *,
        states: Mapping[int, HostState],
        apart: Sequence[TypeKey] = (),
        barred: Mapping[int, str] | None = None,
    ) -> None:
        self.space, self.book, self.key, self.spec = space, space.book, key, spec
        self.states, self._apart, self._barred = states, apart, barred or {}
        self.checks = [check for check in self._checks() if check is not None]
        passed = reduce(np.logical_and, (check.passed for check in self.checks))
        self.room: Ints = np.where(passed, self._room(), 0)

    # ------------------------------------------------------------------ what fits

    def _checks(self) -> list[Check | None]:
        return [
            self._known(),
            self._state(),
            self._not_cordoned(),
            self._labels(),
            self._abilities(),
            self._alone(),
            self._port(),
            self._bars(),
            self._instances(),
            self._of_type(),
            self._cpus(),
            self._memory(),
        ]

    def _room(self) -> Ints:
        """How many fit by number and size alone."""
        book, space, spec = self.book, self.space, self.spec
        room = book.limit - space.total
        if spec.where.max_per_host:
            room = np.minimum(room, spec.where.max_per_host - self.level)
        if cpus := needs_milli(spec):
            room = np.minimum(room, (book.cpus_milli - space.cpus_used) // cpus)
        if memory := spec.resources.memory_bytes:
            room = np.minimum(room, (book.memory_bytes - space.memory_used) // memory)
        return np.minimum(room, 1) if spec.port else room

    @property
    def level(self) -> Ints:
        return self.space.count(self.key)

    def columns(self) -> placement.Columns:
        return placement.Columns(
            room=self.room,
            level=self.level,
            tier=self.tiers(),
            groups=self.groups(),
            rank=self.book.by_name,
        )

    def preferences(self) -> Ints:
        """The first that is met weighs more than all that follow."""
        score = np.zeros(len(self.room), dtype=np.int64)
        for constraint in self.spec.where.prefer:
            score = 2 * score + matching(self.book, constraint)
        return score

    def tiers(self) -> Ints:
        """A host where this type keeps crashing comes after all others."""
        score = self.preferences()
        for row in self.looping():
            score[row] -= 2 ** len(self.spec.where.prefer)
        return score

    def looping(self) -> set[int]:
        book = self.book.types.get(self.key)
        return book.looping if book else set()

    def groups(self) -> tuple[Ints, ...]:
        found: list[Ints] = []
        for label in self.spec.where.spread:
            codes, values = self.book.codes(label)
            if len(values) == 1:
                continue
            if found:
                _, codes = np.unique(found[-1] * len(values) + codes, return_inverse=True)
            found.append(codes)
        return tuple(found)

    # ------------------------------------------------------------------ in words

    def why_not(self, row: int) -> str:
        """The first check that fails, in words and numbers; "" when it takes one."""
        for check in self.checks:
            if not check.passed[row]:
                return check.words(row)
        return ""

    def reason(self) -> str:
        """One line: hosts by name and why not."""
        rows = self.rows()
        if not rows:
            return "no host has joined"
        named = [f"{self.book.names[row]}: {self.why_not(row)}" for row in rows[:NAMED_MAX]]
        more = len(rows) - len(named)
        return "no host: " + "; ".join(named) + (f"; and {more} more" if more else "")

    def rows(self) -> list[int]:
        """Of all known hosts, by name."""
        book = self.book
        return [row for _, row in sorted(book.rows.items()) if book.known[row]]

    # ------------------------------------------------------------------ the checks

    def _known(self) -> Check:
        return Check("joined", self.book.known, lambda row: "forgotten")

    def _state(self) -> Check:
        def words(row: int) -> str:
            if self.book.departed[row]:
                return "its agent was stopped"
            return self.states.get(row, HostState.READY).name.lower()

        return Check("state", self.book.connected, words)

    def _not_cordoned(self) -> Check:
        def words(row: int) -> str:
            if row in self.book.draining:
                return "it is being drained"
            return "cordoned" if self.book.cordoned[row] else "takes new ones"

        return Check("cordon", ~self.book.cordoned, words)

    def _labels(self) -> Check | None:
        require = self.spec.where.require
        if not require:
            return None
        passed = reduce(np.logical_and, (matching(self.book, item) for item in require))
        return Check("labels", passed, self._label_words)

    def _label_words(self, row: int) -> str:
        labels = self.book.labels(row)
        failed = next((c for c in self.spec.where.require if not c.allows(labels)), None)
        if failed is None:
            return ", ".join(map(str, self.spec.where.require))
        value = labels.get(failed.label)
        has = f"has {failed.label}={value}" if value else f"has no {failed.label}"
        return f"needs {failed}, {has}"

    def _abilities(self) -> Check | None:
        needed = self.spec.requires
        if not needed:
            return None
        bits = ability_bits(needed)

        def words(row: int) -> str:
            status = self.book.entry(row).status
            has = status.abilities if status else ()
            missing = [ability.value for ability in needed if ability not in has]
            if not missing:
                return f"enforces {_listed(needed)}"
            why = f" ({status.inability})" if status and status.inability else ""
            return f"cannot enforce {', '.join(missing)}{why}"

        return Check("abilities", self.book.abilities & bits == bits, words)

    def _alone(self) -> Check | None:
        if not self._apart:
            return None
        passed = reduce(np.logical_and, (self.space.count(other) == 0 for other in self._apart))

        def words(row: int) -> str:
            there = [_short(o, self.key) for o in self._apart if self.space.count(o)[row]]
            return f"apart from {', '.join(there)}, which is there" if there else "alone enough"

        return Check("apart", passed, words)

    def _port(self) -> Check | None:
        port = self.spec.port
        if not port:
            return None
        passed = np.ones(len(self.book.known), dtype=bool)
        passed[list(self.space.port_rows(port))] = False

        def words(row: int) -> str:
            holders = self.space.holders(row, port)
            return f"port {port} is taken by {min(holders)}" if holders else f"port {port} is free"

        return Check("port", passed, words)

    def _bars(self) -> Check | None:
        if not self._barred:
            return None
        passed = np.ones(len(self.book.known), dtype=bool)
        passed[list(self._barred)] = False
        return Check("history", passed, lambda row: self._barred.get(row, "nothing against it"))

    def _instances(self) -> Check:
        book, space = self.book, self.space

        def words(row: int) -> str:
            full = "full " if space.total[row] >= book.limit[row] else ""
            return f"{full}({space.total[row]} of {book.limit[row]} instances)"

        return Check("instances", space.total < book.limit, words)

    def _of_type(self) -> Check | None:
        most = self.spec.where.max_per_host
        if not most:
            return None
        return Check(
            "max per host",
            self.level < most,
            lambda row: f"has {self.level[row]} of at most {most} {self.key[1]}",
        )

    def _cpus(self) -> Check | None:
        need = needs_milli(self.spec)
        if not need:
            return None
        size, used = self.book.cpus_milli, self.space.cpus_used

        def words(row: int) -> str:
            if size[row] == PLENTY:
                return "does not say how many cpus it has"
            free = max(0, int(size[row] - used[row]))
            return f"needs {need / MILLI:g} cpus, {free / MILLI:g} of {size[row] / MILLI:g} free"

        return Check("cpus", size - used >= need, words)

    def _memory(self) -> Check | None:
        need = self.spec.resources.memory_bytes
        if not need:
            return None
        size, used = self.book.memory_bytes, self.space.memory_used

        def words(row: int) -> str:
            if size[row] == PLENTY:
                return "does not say how much memory it has"
            free = max(0, int(size[row] - used[row]))
            return f"needs {amount(need)}, {amount(free)} of {amount(int(size[row]))} free"

        return Check("memory", size - used >= need, words)


def matching(book: Book, constraint: Constraint) -> Flags:
    """Which rows have a label that it allows; each value is looked at once."""
    label = constraint.label
    codes, values = book.codes(label)
    allowed = [constraint.allows({label: value} if value else {}) for value in values]
    return np.array(allowed, dtype=bool)[codes]


def amount(size: int) -> str:
    """Of memory, in words: `512 MiB`, `1.5 GiB`."""
    for unit, name in _UNITS:
        if size >= unit:
            return f"{round(size / unit, 1):g} {name}"
    return f"{size} B"


def _short(key: TypeKey, beside: TypeKey) -> str:
    return key[1] if key[0] == beside[0] else "/".join(key)


def _listed(abilities: Sequence[Ability]) -> str:
    return ", ".join(ability.value for ability in abilities)
