"""What a monitoring system is told of one agent, in the text format of Prometheus.

Numbers of now are made at each scrape; what happens is counted where it happens. Labels are apps,
types, states and destinations of log lines, never instances; what is over the bound is added up
under one name.
"""

from __future__ import annotations

import os
from collections import Counter as Count
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import formation
from formation_agent.logs import Written
from formation_agent.stays import Happened

TYPES_MAX = 500
OTHERS = "_others"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_KEEPER = "formation_agent_keeper"

Type = tuple[str, str]
_SAID: dict[Happened, tuple[str, str]] = {
    Happened.STARTED: ("starts", "Processes that were started."),
    Happened.RESTARTED: ("restarts", "Of these, those that were not the first of an instance."),
    Happened.FAILED: ("failures", "Ends, and starts, that count as failures."),
    Happened.UNREADY: ("unready", "Times that an instance became unready."),
    Happened.NOT_ALIVE: ("not_alive", "Times that an instance was found to be dead."),
    Happened.STOPPED: ("stops", "Instances that were told to stop."),
    Happened.KILLED: ("kills", "Instances that did not end in time and were killed."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    name: str
    up: bool
    lines: int
    missing: int
    refused: int
    failures: int
    last_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one scrape looks at. `states`: of each instance, its type and state."""

    host: str
    connected: bool
    alone_s: float
    states: Sequence[tuple[Type, str]] = ()
    looping: Sequence[Type] = ()
    happened: Mapping[tuple[Type, Happened], int] = field(default_factory=dict)
    written: Mapping[Type, Written] = field(default_factory=dict)
    destinations: Sequence[Destination] = ()


class Metrics:
    """`look()` gives what there is to see now."""

    def __init__(self, look: Callable[[], Sight]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Agent(look))
        ProcessCollector(registry=self._registry)
        ProcessCollector(namespace=_KEEPER, pid=os.getppid, registry=self._registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Agent(Collector):
    def __init__(self, look: Callable[[], Sight]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        return families(self._look())

    def describe(self) -> Iterator[Metric]:
        return iter(())


def families(sight: Sight) -> Iterator[Metric]:
    about = GaugeMetricFamily(
        "formation_agent_info", "1, for the version that runs.", labels=["host", "version"]
    )
    about.add_metric([sight.host, formation.__version__], 1)
    yield about
    yield _gauge("connected", "1 while it has a session with a coordinator.", sight.connected)
    yield _gauge(
        "alone_seconds", "For so long it has had no session; 0 while it has one.", sight.alone_s
    )
    types = {*sight.written, *(kind for kind, _ in sight.states)}
    types |= {kind for kind, _ in sight.happened}
    kept = frozenset(sorted(types)[:TYPES_MAX])
    yield from _instances(sight, kept)
    yield from _happened(sight, kept)
    yield from _logs(sight, kept)
    yield from _destinations(sight)


def _instances(sight: Sight, kept: frozenset[Type]) -> Iterator[Metric]:
    states = Count((_bounded(kind, kept), state) for kind, state in sight.states)
    found = GaugeMetricFamily(
        "formation_agent_instances", "Instances here, by state.", labels=["app", "type", "state"]
    )
    for ((app, kind), state), number in sorted(states.items()):
        found.add_metric([app, kind, state], number)
    yield found
    looping = Count(_bounded(kind, kept) for kind in sight.looping)
    found = GaugeMetricFamily(
        "formation_agent_crash_looping", "Instances here in a crash loop.", labels=["app", "type"]
    )
    for (app, kind), number in sorted(looping.items()):
        found.add_metric([app, kind], number)
    yield found


def _happened(sight: Sight, kept: frozenset[Type]) -> Iterator[Metric]:
    for what, (name, said) in _SAID.items():
        counted: Count[Type] = Count()
        for (kind, happened), number in sight.happened.items():
            if happened is what:
                counted[_bounded(kind, kept)] += number
        yield _counter(name, said, counted)


def _logs(sight: Sight, kept: frozenset[Type]) -> Iterator[Metric]:
    lines: Count[Type] = Count()
    size: Count[Type] = Count()
    dropped: Count[Type] = Count()
    for kind, written in sight.written.items():
        key = _bounded(kind, kept)
        lines[key] += written.lines
        size[key] += written.bytes
        dropped[key] += written.dropped_bytes
    yield _counter("log_lines", "Lines that instances wrote.", lines)
    yield _counter("log_bytes", "Bytes that instances wrote.", size)
    yield _counter("log_dropped_bytes", "Of these, what a full disk did not take.", dropped)


def _destinations(sight: Sight) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "formation_agent_shipping_up", "1 while log lines are taken.", labels=["destination"]
    )
    last = GaugeMetricFamily(
        "formation_agent_shipping_last_timestamp_seconds",
        "The time of the last line that was taken.",
        labels=["destination"],
    )
    for item in sight.destinations:
        up.add_metric([item.name], item.up)
        last.add_metric([item.name], item.last_s)
    yield up
    yield last
    for name, said in (
        ("lines", "Log lines that were taken."),
        ("missing", "Log lines that were rotated away before they could be sent."),
        ("refused", "Log lines that were refused for good."),
        ("failures", "Times that it could not be sent; it is tried again."),
    ):
        found = CounterMetricFamily(
            f"formation_agent_shipping_{name}", said, labels=["destination"]
        )
        for item in sight.destinations:
            found.add_metric([item.name], getattr(item, name))
        yield found


def _bounded(kind: Type, kept: frozenset[Type]) -> Type:
    return kind if kind in kept else (OTHERS, OTHERS)


def _counter(name: str, said: str, numbers: Mapping[Type, int]) -> Metric:
    found = CounterMetricFamily(f"formation_agent_{name}", said, labels=["app", "type"])
    for (app, kind), number in sorted(numbers.items()):
        found.add_metric([app, kind], number)
    return found


def _gauge(name: str, said: str, value: float) -> Metric:
    return GaugeMetricFamily(f"formation_agent_{name}", said, value=float(value))
