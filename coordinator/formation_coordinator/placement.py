"""Which hosts get how many. Pure: hosts and a demand in, counts or reasons out.

Instances of one type are interchangeable, so counts are placed, not items: zones are levelled by
how many of this type they run, then the hosts inside each zone, as water fills glasses. Cost
grows with hosts, not with instances. The same functions serve the leader and every question about
"why not".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

ZONE_LABEL = "zone"
# What one host's document and status hold within etcd's limit of 1.5 MiB a request.
HOST_INSTANCES_MAX = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One host as placement sees it. `refusal` non-empty: it takes nothing, for this reason.

    `port`: the fixed one of the type that is placed, so the host takes one of it; 0: none.
    """

    host: str
    zone: str = ""
    of_type: int = 0
    total: int = 0
    instances_max: int = 0
    port: int = 0
    refusal: str = ""

    @property
    def free(self) -> int:
        """How many more it takes."""
        if self.refusal:
            return 0
        free = max(0, self.limit - self.total)
        return min(1, free) if self.port else free

    @property
    def limit(self) -> int:
        return min(self.instances_max or HOST_INSTANCES_MAX, HOST_INSTANCES_MAX)

    def explain(self) -> str:
        """Why it takes nothing more, in words and numbers; empty when it would."""
        if self.refusal:
            return self.refusal
        if self.free == 0:
            return f"full ({self.total} of {self.limit} instances)"
        return ""

    def taking(self, count: int) -> Offer:
        """The same host once it has taken so many."""
        if count and self.port:
            refusal = f"port {self.port} is taken by another of this type"
            return replace(self, total=self.total + count, refusal=refusal)
        return replace(self, total=self.total + count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    counts: Mapping[str, int]
    unplaced: int
    refusals: Mapping[str, str]

    def reason(self) -> str:
        """One line for people: every host and why not."""
        if not self.refusals:
            return "no host has joined"
        return "no host: " + "; ".join(f"{h}: {why}" for h, why in sorted(self.refusals.items()))


@dataclass(frozen=True, slots=True)
class Glass:
    """Something to level: how full it is, how much more it takes; `rank` decides the last ties."""

    key: str
    level: int
    room: int
    rank: tuple[int, str]


def place(count: int, offers: Sequence[Offer]) -> Placement:
    """Spread `count` instances of one type: by zone, then fewest of this type, then headroom."""
    by_zone: dict[str, list[Offer]] = {}
    for offer in offers:
        by_zone.setdefault(offer.zone, []).append(offer)
    zones = [
        Glass(
            key=zone,
            level=sum(offer.of_type for offer in members),
            room=sum(offer.free for offer in members),
            rank=(0, zone),
        )
        for zone, members in by_zone.items()
    ]
    counts: dict[str, int] = {}
    for zone, share in fill(zones, count).items():
        glasses = [
            Glass(key=o.host, level=o.of_type, room=o.free, rank=(0, o.host)) for o in by_zone[zone]
        ]
        counts.update(fill(glasses, share))
    unplaced = count - sum(counts.values())
    filled = [offer.taking(counts.get(offer.host, 0)) for offer in offers]
    refusals = {o.host: why for o in filled if (why := o.explain())} if unplaced else {}
    return Placement(counts=counts, unplaced=unplaced, refusals=refusals)


def fill(glasses: Sequence[Glass], count: int) -> dict[str, int]:
    """Pour `count` units so that the lowest rise first; what finds no room stays unpoured."""
    count = min(count, sum(glass.room for glass in glasses))
    if count <= 0:
        return {}
    level = _water_line(glasses, count)
    poured = {g.key: _poured(g, level - 1) for g in glasses}
    rest = count - sum(poured.values())
    at_line = [g for g in glasses if _poured(g, level) > poured[g.key]]
    roomiest_first = sorted(at_line, key=lambda g: (poured[g.key] - g.room, g.rank))
    for glass in roomiest_first[:rest]:
        poured[glass.key] += 1
    return {key: units for key, units in poured.items() if units}


def _poured(glass: Glass, level: int) -> int:
    return min(glass.room, max(0, level - glass.level))


def _water_line(glasses: Sequence[Glass], count: int) -> int:
    """The lowest level at which all of `count` has gone in; found by halving."""
    low = min(glass.level for glass in glasses)
    high = max(glass.level for glass in glasses) + count
    while low < high:
        middle = (low + high) // 2
        if sum(_poured(glass, middle) for glass in glasses) >= count:
            high = middle
        else:
            low = middle + 1
    return low


class Worth(IntEnum):
    """What a scale-down takes first. FINISHED costs nothing: no process of it is stopped."""

    UNHEALTHY = 0
    FINISHED = 1
    HEALTHY = 2


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
    glasses = [
        Glass(
            key=key,
            level=-len(members),
            room=len(members),
            rank=(-max(member.ordinal for member in members), key),
        )
        for key, members in groups.items()
    ]
    return fill(glasses, count)
