"""The documents as one pass of the leader leaves them: what is kept, taken away and added. Pure.

Mutable, and private to one pass. What should be where is `reconcile`'s decision. Only hosts that
something was done to get a new document.

What a process holds (its reservation, its fixed port) nothing frees within a pass: what is dropped
now has its process until the agent says that it is gone, and that starts the next pass. Only the
slot that holds a port may take it over, since its next stay waits for the last one.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import structs

from formation.model import (
    App,
    Assignment,
    AssignmentDocument,
    Bundle,
    HostState,
    ProcessType,
    Release,
    Slot,
    Terms,
)
from formation_coordinator.book import Book
from formation_coordinator.fit import Fit
from formation_coordinator.space import Freed, OneRow, Space
from formation_coordinator.tallies import Ints, TypeKey
from formation_coordinator.world import World, bundle_order

NewStem = Callable[[], str]
# So few bundles are put in their places, instead of sorting all.
FEW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What a new stay takes over from the one before in its slot."""

    failures: int = 0
    avoided_hosts: tuple[str, ...] = ()


FRESH = Past()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A type of an app as it is to run: of one release, which need not be the current one."""

    app: App
    spec: ProcessType
    release: Release

    @property
    def key(self) -> TypeKey:
        return self.app.name, self.spec.name


class Draft:
    """`new_stem()` gives a text that was never used, for the uids of one app's new stays."""

    def __init__(
        self, world: World, book: Book, states: Mapping[int, HostState], new_stem: NewStem
    ) -> None:
        self.world, self.book, self.states = world, book, states
        self.space = Space(book)
        self.touched: set[Slot] = set()
        self._new_stem = new_stem
        self._stems: dict[str, str] = {}
        self._templates: dict[tuple[object, ...], Terms] = {}
        self._dropped: dict[int, set[str]] = {}
        self._changed: dict[int, dict[str, Assignment]] = {}
        self._added: dict[int, dict[int, tuple[Terms, list[int]]]] = {}
        self._made: dict[int, list[Bundle]] = {}
        self._apart: dict[TypeKey, set[TypeKey]] | None = None

    # ------------------------------------------------------------------ changes

    def drop(self, row: int, item: Assignment) -> None:
        """At once, and only once."""
        dropped = self._dropped.setdefault(row, set())
        assert item.uid not in dropped, item
        dropped.add(item.uid)
        if not item.run:
            self.space.give_back((item.slot.app, item.slot.type), row)

    def change(self, row: int, item: Assignment) -> None:
        """The same stay, with what may grow during it."""
        self._changed.setdefault(row, {})[item.uid] = item

    def end(self, row: int, item: Assignment, reason: str, past: Past = FRESH) -> None:
        """It is to stop, and listed until it has; its successor comes for the same reason, and
        with this past."""
        ending = structs.replace(
            item,
            ending=True,
            reason=reason,
            failures=past.failures,
            avoided_hosts=past.avoided_hosts,
        )
        self.change(row, ending)

    def add(
        self, wish: Wish, slot: Slot, row: int, reason: str, *, past: Past = FRESH,
        surge: bool = False, moved_from: str = "", after_loss: bool = False,
    ) -> None:  # fmt: skip
        """A new stay; one for each slot in a pass."""
        template = self._template(
            wish,
            restart_mark=wish.app.restart_mark(slot.type, slot.ordinal),
            retry_mark=wish.app.retry_mark(slot.type, slot.ordinal),
            failures=past.failures,
            avoided_hosts=past.avoided_hosts,
            surge=surge,
            moved_from=moved_from,
            after_loss=after_loss,
            reason=reason,
        )
        assert slot not in self.touched, slot
        self.touched.add(slot)
        self._append(row, template, slot.ordinal)
        self.space.take(wish.key, wish.spec, row, slot)

    def replace(self, wish: Wish, row: int, item: Assignment, reason: str) -> None:
        """The slot's next stay on the same host: it waits until this one's process is gone."""
        before = self._spec_of(item)
        self.drop(row, item)
        self.add(wish, item.slot, row, reason, surge=item.surge)
        if before is not None:
            self.space.free(before, row)

    def add_many(self, wish: Wish, ordinals: Ints, rows: Ints, reason: str) -> None:
        """Of a type without a fixed port or marks of single slots: an ordinal for each row."""
        name = wish.spec.name
        template = self._template(
            wish,
            restart_mark=wish.app.restart_mark(name, 0),
            retry_mark=wish.app.retry_mark(name, 0),
            reason=reason,
        )
        order = np.argsort(rows, kind="stable")
        sorted_rows, sorted_ordinals = rows[order], ordinals[order].tolist()
        made = self._made
        hosts, starts = np.unique(sorted_rows, return_index=True)
        ends = [*starts.tolist()[1:], len(sorted_ordinals)]
        for row, start, end in zip(hosts.tolist(), starts.tolist(), ends, strict=True):
            bundle = Bundle(template, tuple(sorted_ordinals[start:end]))
            made.setdefault(row, []).append(bundle)
        counts = np.bincount(rows, minlength=len(self.book.names))
        self.space.take_many(wish.key, wish.spec, counts)

    def add_run(self, bundle: Bundle, spec: ProcessType, row: int) -> None:
        stem, revision = self._stem(bundle.terms.app), self.world.revision
        stamped = structs.replace(bundle.terms, stem=stem, revision=revision)
        self._made.setdefault(row, []).append(Bundle(stamped, bundle.ordinals))
        self.space.take_run(spec, row)

    def _append(self, row: int, template: Terms, ordinal: int) -> None:
        of_row = self._added.setdefault(row, {})
        known = of_row.get(id(template))
        if known is None:
            of_row[id(template)] = (template, [ordinal])
        else:
            known[1].append(ordinal)

    def _template(self, wish: Wish, **fields: object) -> Terms:
        key = (wish.key, wish.release.number, *fields.values(), *fields)
        template = self._templates.get(key)
        if template is None:
            plain = Terms(
                app=wish.app.name,
                type=wish.spec.name,
                release=wish.release.number,
                stem=self._stem(wish.app.name),
                revision=self.world.revision,
            )
            template = self._templates[key] = structs.replace(plain, **fields)  # type: ignore[arg-type]
        return template

    def _stem(self, app: str) -> str:
        if app not in self._stems:
            self._stems[app] = self._new_stem()
        return self._stems[app]

    # ------------------------------------------------------------------ what comes of it

    def documents(self, epoch: int) -> Iterator[AssignmentDocument]:
        """A document of the next generation for every host that changed, by name."""
        rows = self._dropped.keys() | self._changed.keys() | self._added.keys() | self._made.keys()
        for row in sorted(rows, key=lambda row: int(self.book.by_name[row])):
            entry = self.book.entry(row)
            yield AssignmentDocument(
                host=entry.name,
                generation=(entry.document.generation if entry.document else 0) + 1,
                epoch=epoch,
                # A document that is not of the present one is `timeline`'s to write anew.
                cluster_epoch=(
                    entry.document.cluster_epoch if entry.document else self.world.cluster_epoch
                ),
                bundles=self._bundles(row, entry.bundles),
            )

    def _bundles(self, row: int, before: Sequence[Bundle]) -> tuple[Bundle, ...]:
        """In order, as those before are."""
        dropped, changed = self._dropped.get(row, set()), self._changed.get(row, {})
        new = list(self._new_bundles(row))
        if dropped or changed or len(new) > FEW:
            return tuple(sorted((*_rest_of(before, dropped, changed), *new), key=bundle_order))
        kept = list(before)
        for bundle in new:
            insort(kept, bundle, key=bundle_order)
        return tuple(kept)

    def _new_bundles(self, row: int) -> Iterator[Bundle]:
        yield from self._made.get(row, ())
        for terms, ordinals in self._added.get(row, {}).values():
            yield Bundle(terms, tuple(sorted(ordinals)))

    # ------------------------------------------------------------------ what hosts take

    def fit(self, wish: Wish, barred: Mapping[int, str] | None = None) -> Fit:
        apart = sorted(self.apart_from(wish.key))
        return Fit(self.space, wish.key, wish.spec, states=self.states, apart=apart, barred=barred)

    def apart_from(self, key: TypeKey) -> set[TypeKey]:
        """Who shares no host with this type, whichever of the two says so."""
        if self._apart is None:
            self._apart = _apart(self.world)
        return self._apart.get(key, set())

    def fit_without(self, wish: Wish, row: int, item: Assignment) -> Fit:
        """As if this stay had gone already."""
        return self._fit_in(Freed(self.space, row, item.slot, self._spec_of(item)), wish)

    def misfit(self, row: int, wish: Wish, item: Assignment) -> str:
        """Why this stay's host cannot run this instead in its place; empty when it can.

        What the stay itself holds is no hindrance, nor is the host's state.
        """
        one = Freed(OneRow(self.space, row), 0, item.slot, self._spec_of(item))
        fit = self._fit_in(one, wish)
        failed = [c for c in fit.checks if not c.passed[0] and c.name not in _OF_THE_HOST]
        return failed[0].words(0) if failed else ""

    def _fit_in(self, space: Space, wish: Wish) -> Fit:
        apart = sorted(self.apart_from(wish.key))
        return Fit(space, wish.key, wish.spec, states=self.states, apart=apart)

    def _spec_of(self, item: Assignment) -> ProcessType | None:
        release = self.world.releases.get((item.slot.app, item.release))
        return release.type_named(item.slot.type) if release else None


_OF_THE_HOST = frozenset({"joined", "state", "cordon"})


def _apart(world: World) -> dict[TypeKey, set[TypeKey]]:
    found: dict[TypeKey, set[TypeKey]] = {}
    for app in world.apps.values():
        release = world.current_release(app)
        for spec in release.types if release else ():
            for text in spec.where.apart_from:
                other_app, _, name = text.rpartition("/")
                one, other = (app.name, spec.name), (other_app or app.name, name)
                found.setdefault(one, set()).add(other)
                found.setdefault(other, set()).add(one)
    return found


def _rest_of(
    bundles: Iterable[Bundle], dropped: set[str], changed: Mapping[str, Assignment]
) -> Iterator[Bundle]:
    for bundle in bundles:
        kept: list[int] = []
        other: dict[Terms, list[int]] = {}
        for ordinal in bundle.ordinals:
            uid = bundle.uid(ordinal)
            item = changed.get(uid)
            if item is not None and uid not in dropped:
                other.setdefault(_changed(bundle.terms, item), []).append(ordinal)
            elif uid not in dropped:
                kept.append(ordinal)
        if kept:
            whole = len(kept) == len(bundle.ordinals)
            yield bundle if whole else Bundle(bundle.terms, tuple(kept))
        for terms, ordinals in other.items():
            yield Bundle(terms, tuple(ordinals))


def _changed(terms: Terms, item: Assignment) -> Terms:
    return structs.replace(
        terms,
        retry_mark=item.retry_mark,
        ending=item.ending,
        reason=item.reason,
        failures=item.failures,
        avoided_hosts=item.avoided_hosts,
    )
