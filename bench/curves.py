"""What runs of `bench/cluster.py` of several sizes say together: curves, how they grow, a table.

Pure: runs are what its JSON holds, `plots.py` draws what is found here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Phases = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Point:
    """One run: its size, and the figures of each of its phases."""

    hosts: int
    instances: int
    phases: Phases

    @property
    def each(self) -> float:
        """Instances for each host."""
        return self.instances / self.hosts

    def figure(self, phase: str, *names: str) -> float | None:
        """The sum of those figures; None where the run has them not."""
        found = [self.phases.get(phase, {}).get(name) for name in names]
        return None if None in found else float(sum(item for item in found if item is not None))


def point_of(run: Mapping[str, Any]) -> Point:
    options = run["options"]
    return Point(
        hosts=options["hosts"],
        instances=options["instances"],
        phases={phase["phase"]: phase for phase in run["phases"]},
    )


@dataclass(frozen=True, slots=True)
class Fit:
    """y = factor · x ** slope, by least squares of the logarithms."""

    slope: float
    factor: float

    def at(self, x: float) -> float:
        return float(self.factor * x**self.slope)


def fit(points: Iterable[tuple[float, float]]) -> Fit | None:
    """None for fewer than two different sizes; what is not more than 0 has no logarithm."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in logs}) < 2:
        return None
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    over = sum((x - mean_x) ** 2 for x, _ in logs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in logs) / over
    return Fit(slope, math.exp(mean_y - slope * mean_x))


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel."""

    label: str
    phase: str
    names: tuple[str, ...]

    def of(self, point: Point) -> float | None:
        return point.figure(self.phase, *self.names)


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    lines: tuple[Line, ...]


_CHANGES = (("0 → N", "up"), ("+1 %", "more"), ("release", "release"), ("1 % lost", "lose"))
_WORK = (("connect", "connect"), *_CHANGES)


def _each(phases: Iterable[tuple[str, str]], *names: str) -> tuple[Line, ...]:
    return tuple(Line(label, phase, names) for label, phase in phases)


PANELS = (
    Panel(
        "until all is as wanted, s",
        (
            Line("connected and ready", "connect", ("ready_s",)),
            Line("0 → N healthy", "up", ("healthy_s",)),
            Line("release of 1 %", "release", ("rolled_out_s",)),
            Line("1 % of the hosts replaced", "lose", ("replaced_s",)),
            Line("leader killed, all over", "behead", ("all_over_s",)),
        ),
    ),
    Panel(
        "+1 %, until a watcher sees it, s",
        (
            Line("p50", "more", ("p50_s",)),
            Line("p99", "more", ("p99_s",)),
            Line("the new quantity", "more", ("lag_s",)),
        ),
    ),
    Panel("puts in etcd", _each(_WORK, "etcd_puts")),
    Panel("transactions in etcd", _each(_WORK, "etcd_transactions")),
    Panel("bytes to etcd", _each(_WORK, "etcd_bytes_in")),
    Panel("bytes to and from hosts", _each(_WORK, "bytes_to_hosts", "bytes_from_hosts")),
    Panel("cpu of the coordinator, s", _each((*_WORK, ("idle", "idle")), "coordinator_cpu_s")),
    Panel("cpu of all hosts, s", _each((*_WORK, ("idle", "idle")), "hosts_cpu_s")),
    Panel(
        "memory, bytes",
        (
            Line("coordinator, hosts only", "connect", ("coordinator_memory",)),
            Line("coordinator, all", "up", ("coordinator_memory",)),
            Line("etcd, all", "up", ("etcd_memory",)),
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Curve:
    line: Line
    points: tuple[tuple[float, float], ...]
    fit: Fit | None


@dataclass(frozen=True, slots=True)
class Series:
    """Runs that differ in one thing. `axis`: what that is; `fixed`: what they have in common."""

    name: str
    axis: str
    fixed: str
    points: tuple[Point, ...]
    size: Callable[[Point], float]

    def curve(self, line: Line) -> Curve:
        found = [(self.size(point), line.of(point)) for point in self.points]
        known = tuple((x, y) for x, y in found if y is not None)
        return Curve(line, known, fit(known))


def series(points: Iterable[Point]) -> list[Series]:
    """Growth of hosts with as many instances on each, and of instances on as many hosts: of each
    kind the one of most runs. Nothing grows with fewer than two."""
    all_points = sorted(points, key=lambda point: (point.hosts, point.instances))
    found = []
    if all_points:
        each = _commonest(point.each for point in all_points)
        hosts = _commonest(point.hosts for point in all_points)
        found = [
            Series(
                "hosts", "hosts", f"{each:g} instances on each host",
                tuple(p for p in all_points if p.each == each), lambda p: p.hosts,
            ),
            Series(
                "instances", "instances", f"{hosts:,} hosts",
                tuple(p for p in all_points if p.hosts == hosts), lambda p: p.instances,
            ),
        ]  # fmt: skip
    return [item for item in found if len(item.points) > 1]


def _commonest(values: Iterable[float]) -> float:
    """The largest of those that are most frequent."""
    counted = Counter(values)
    return max(counted, key=lambda value: (counted[value], value))


def slopes(growth: Series) -> list[str]:
    """One line for each curve that has one, for people."""
    lines = []
    for panel in PANELS:
        for line in panel.lines:
            found = growth.curve(line).fit
            if found is not None:
                lines.append(f"{panel.title}: {line.label}: ~ {growth.axis}^{found.slope:.2f}")
    return lines


# Heading, figure, and how it is written.
_Column = tuple[str, str, Callable[[float], str]]


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.1f}" if value < 10e6 else f"{value / 1e6:,.0f}"


_COLUMNS: tuple[_Column, ...] = (
    ("time until all is done, s", "took_s", _seconds),
    ("p50, s", "p50_s", _seconds),
    ("p99, s", "p99_s", _seconds),
    ("watch lag, s", "lag_s", _seconds),
    ("etcd puts", "etcd_puts", _count),
    ("transactions", "etcd_transactions", _count),
    ("MB to etcd", "etcd_bytes_in", _megabytes),
    ("MB from etcd", "etcd_bytes_out", _megabytes),
    ("cpu of the coordinators, s", "coordinator_cpu_s", _seconds),
    ("of all hosts, s", "hosts_cpu_s", _seconds),
    ("coordinator, MB", "coordinator_memory", _megabytes),
    ("MB to hosts", "bytes_to_hosts", _megabytes),
    ("MB from hosts", "bytes_from_hosts", _megabytes),
)
# What tells when a phase was done, where that is not the whole of it.
_DONE = {
    "connect": "ready_s",
    "up": "healthy_s",
    "more": "p99_s",
    "release": "rolled_out_s",
    "lose": "replaced_s",
    "behead": "all_over_s",
}


def table(points: Sequence[Point]) -> str:
    """Each phase of each run, as Markdown."""
    heads = ["hosts, instances", "phase", *(head for head, *_ in _COLUMNS)]
    rows = [_row(heads), _row("---" for _ in heads)]
    for point in sorted(points, key=lambda item: (item.hosts, item.instances)):
        for name, phase in point.phases.items():
            size = f"{point.hosts:,}, {point.instances:,}"
            cells = (_cell(point, name, column) for column in _COLUMNS)
            rows.append(_row((size, str(phase.get("title", name)), *cells)))
    return "\n".join(rows) + "\n"


def _cell(point: Point, phase: str, column: _Column) -> str:
    _, name, written = column
    value = point.figure(phase, _DONE.get(phase, name) if name == "took_s" else name)
    return "" if value is None else written(value)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
