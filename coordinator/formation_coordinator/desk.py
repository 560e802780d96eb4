"""What the rules of one pass share: the world, the draft, and what was found out so far. Pure.

Mutable, and private to one pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from formation.model import App, HostState, Slot
from formation_coordinator.book import Book
from formation_coordinator.draft import FRESH, Draft, NewStem, Past, Wish
from formation_coordinator.moves import Moves
from formation_coordinator.plan import PENDING_NAMED_MAX, Decision
from formation_coordinator.rollout import Progress
from formation_coordinator.stays import OfType, Stay
from formation_coordinator.tallies import TypeKey
from formation_coordinator.world import World, host_state

TALLIES = ("placed", "moved", "replaced", "removed", "moving", "ending", "told to retry")


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """`monotonic_s` is of the clock that stamped the world; `wall_ms` is for schedules."""

    monotonic_s: float
    wall_ms: int
    replace_after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Instances of one type that want a host. `lost`: the stay that this one follows; with it, and
    with a past, it is a single one."""

    wish: Wish
    ordinals: tuple[int, ...]
    reason: str
    surge: bool = False
    past: Past = FRESH
    lost: Stay | None = None
    first: bool = False

    @property
    def slot(self) -> Slot:
        """Of the first, which is the only one of a single demand."""
        return Slot(self.wish.app.name, self.wish.spec.name, self.ordinals[0])


@dataclass(slots=True)
class Desk:
    world: World
    book: Book
    now: Now
    states: Mapping[int, HostState]
    draft: Draft
    moves: Moves
    before: Mapping[TypeKey, Progress]
    brake: bool
    demands: list[Demand] = field(default_factory=list)
    pending: dict[Slot, str] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)
    apps: dict[str, App] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    progress: dict[TypeKey, Progress] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    tally: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TALLIES, 0))
    # Wanted, and too many to list one by one.
    unnamed: Counter[TypeKey] = field(default_factory=Counter)
    wake_at_s: float | None = None

    def wake(self, at_s: float | None) -> None:
        if at_s is not None and at_s > self.now.monotonic_s:
            self.wake_at_s = at_s if self.wake_at_s is None else min(self.wake_at_s, at_s)

    def wait(self, slots: Sequence[Slot], why: str) -> None:
        """These, of one type, lack what they want; beyond a number they are only counted."""
        room = max(0, PENDING_NAMED_MAX - len(self.pending))
        if len(slots) > room:
            self.unnamed[slots[0].app, slots[0].type] += len(slots) - room
        for slot in slots[:room]:
            self.pending[slot] = why

    def drop(self, of_type: OfType, stay: Stay) -> None:
        """At once; or told to end first where two copies must never run."""
        of_type.gone.add(stay.assignment.uid)
        if of_type.spec.exclusive:
            self.end(stay, "no longer wanted there")
            return
        self.draft.drop(stay.row, stay.assignment)
        self.tally["removed"] += 1

    def end(self, stay: Stay, reason: str, past: Past = FRESH) -> None:
        """See `Draft.end`."""
        self.draft.end(stay.row, stay.assignment, reason, past)
        self.tally["ending"] += 1


def open_desk(
    world: World,
    book: Book,
    now: Now,
    new_stem: NewStem,
    before: Mapping[TypeKey, Progress],
) -> Desk:
    book.look(world)
    brake = book.brake(now.monotonic_s)
    states = {
        row: host_state(
            book.entry(row),
            now_s=now.monotonic_s,
            replace_after_s=now.replace_after_s,
            judged_from_s=book.braked_at_s,
        )
        for row in book.silent
    }
    draft = Draft(world, book, states, new_stem)
    return Desk(world, book, now, states, draft, Moves(draft), before, brake)
