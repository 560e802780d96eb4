"""How many of a type each host gets. Pure: columns and a number in, counts out.

Instances of one type are interchangeable, so counts are placed, not items: the hosts that come
first (`tier`) are filled before the others; among them the values of each `spread` label are
levelled by how many of this type they run, then the hosts, as water fills glasses. The last ties go
to the host with most room, then by name. Cost grows with hosts, not with instances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """A value for each host. `room`: how many more it takes; `level`: how many of this type it has;
    `tier`: higher ones are filled first; `groups`: for each label to spread by a number that stands
    for the host's value, and for those of the labels before it; `rank`: the order of names.
    """

    room: Ints
    level: Ints
    tier: Ints
    groups: tuple[Ints, ...]
    rank: Ints


def place(count: int, columns: Columns) -> Ints:
    """How many each host gets; fewer than `count` in all when there is not enough room."""
    placed = np.zeros(len(columns.room), dtype=np.int64)
    open_ = np.flatnonzero(columns.room > 0)
    while count > 0 and len(open_):
        tiers = columns.tier[open_]
        best = tiers == tiers.max()
        rows = open_[best]
        poured = _pour(count, rows, columns, 0)
        placed[rows] = poured
        count -= int(poured.sum())
        open_ = open_[~best]
    return placed


def _pour(count: int, rows: Ints, columns: Columns, depth: int) -> Ints:
    """Into these hosts, whose values of the first `depth` labels are the same."""
    if depth == len(columns.groups):
        return fill(count, columns.level[rows], columns.room[rows], columns.rank[rows])
    groups = columns.groups[depth]
    values, inverse = np.unique(groups[rows], return_inverse=True)
    if len(values) == 1:
        return _pour(count, rows, columns, depth + 1)
    # All of a zone count, also those on hosts that take none.
    levels = np.bincount(groups, weights=columns.level)[values].astype(np.int64)
    rooms = np.bincount(inverse, weights=columns.room[rows]).astype(np.int64)
    poured = np.zeros(len(rows), dtype=np.int64)
    for index, share in enumerate(fill(count, levels, rooms, values).tolist()):
        if share:
            members = inverse == index
            poured[members] = _pour(share, rows[members], columns, depth + 1)
    return poured


def fill(count: int, levels: Ints, rooms: Ints, rank: Ints) -> Ints:
    """Pour `count` units so that the lowest rise first; what finds no room stays unpoured."""
    count = min(count, int(rooms.sum()))
    if count <= 0:
        return np.zeros(len(levels), dtype=np.int64)
    line = _water_line(count, levels, rooms)
    poured = np.clip(line - 1 - levels, 0, rooms)
    rest = count - int(poured.sum())
    if rest:
        at_line = np.flatnonzero((levels < line) & (poured < rooms) & (levels + poured < line))
        roomiest_first = np.lexsort((rank[at_line], (poured - rooms)[at_line]))
        poured[at_line[roomiest_first[:rest]]] += 1
    return poured


def _water_line(count: int, levels: Ints, rooms: Ints) -> int:
    """The lowest level at which all of `count` has gone in; found by halving."""
    low, high = int(levels.min()), int(levels.max()) + count
    while low < high:
        middle = (low + high) // 2
        if int(np.clip(middle - levels, 0, rooms).sum()) >= count:
            high = middle
        else:
            low = middle + 1
    return low


def deal(counts: Ints, levels: Ints, rank: Ints) -> Ints:
    """A row for each unit, emptiest first: neighbouring ordinals land on different hosts."""
    rows = np.flatnonzero(counts)
    rows = rows[np.argsort(rank[rows], kind="stable")]
    given = counts[rows]
    of_unit = np.repeat(rows, given)
    first = np.repeat(np.cumsum(given) - given, given)
    height = levels[of_unit] + np.arange(len(of_unit)) - first
    return of_unit[np.argsort(height, kind="stable")]


class Worth(IntEnum):
    """What a scale-down takes first. FINISHED costs nothing: no process of it is stopped. A SURGE
    was only there for a change."""

    UNHEALTHY = 0
    FINISHED = 1
    SURGE = 2
    HEALTHY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A stay that a scale-down may take."""

    host: str
    zone: str
    worth: Worth
    ordinal: int


def choose_surplus(candidates: Sequence[Candidate], count: int) -> tuple[int, ...]:
    """The ordinals of the `count` that go: unhealthy and finished ones first, newest before older;
    then healthy ones from the most crowded zone and host, newest first."""
    idle = [c for c in candidates if c.worth is not Worth.HEALTHY]
    idle.sort(key=lambda c: (c.worth, -c.ordinal))
    chosen = [c.ordinal for c in idle[:count]]
    healthy = [c for c in candidates if c.worth is Worth.HEALTHY]
    by_zone: dict[str, list[Candidate]] = {}
    for candidate in healthy:
        by_zone.setdefault(candidate.zone, []).append(candidate)
    for zone, share in _drain(by_zone, count - len(chosen)).items():
        by_host: dict[str, list[Candidate]] = {}
        for candidate in by_zone[zone]:
            by_host.setdefault(candidate.host, []).append(candidate)
        for host, units in _drain(by_host, share).items():
            newest = sorted(by_host[host], key=lambda c: -c.ordinal)
            chosen += [c.ordinal for c in newest[:units]]
    return tuple(chosen)


def _drain(groups: Mapping[str, Sequence[Candidate]], count: int) -> dict[str, int]:
    """Filling upside down: the fullest group gives first; ties give their newest first."""
    if count <= 0:
        return {}
    keys = sorted(groups, key=lambda key: -max(member.ordinal for member in groups[key]))
    sizes = np.array([len(groups[key]) for key in keys], dtype=np.int64)
    given = fill(count, -sizes, sizes, np.arange(len(keys), dtype=np.int64))
    return {key: int(units) for key, units in zip(keys, given, strict=True) if units}
