"""What a monitoring system is told of autoscaling and webhooks; there are at most so many rules and
webhooks as a cluster may have. See `metrics`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from formation.automation import Autoscale, Delivery, MeasureKind
from formation_coordinator.autoscale import Reading

Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomationSight:
    """`readings` and what follows: only of the leader."""

    rules: Mapping[Key, Autoscale] = field(default_factory=dict)
    quantities: Mapping[Key, int] = field(default_factory=dict)
    readings: Mapping[Key, tuple[Reading, ...]] = field(default_factory=dict)
    changes: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    deliveries: Mapping[str, Delivery] = field(default_factory=dict)


def families(sight: AutomationSight) -> Iterator[Metric]:
    yield from _bounds(sight)
    yield from _measured(sight)
    changes = CounterMetricFamily(
        "formation_autoscale_changes",
        "Quantities that autoscaling has changed; said by the leader.",
        labels=["app", "type", "direction"],
    )
    for labels, number in sorted(sight.changes.items()):
        changes.add_metric(list(labels), number)
    yield changes
    yield from _webhooks(sight.deliveries)


def _bounds(sight: AutomationSight) -> Iterator[Metric]:
    low = GaugeMetricFamily("formation_autoscale_min", "At least.", labels=["app", "type"])
    high = GaugeMetricFamily("formation_autoscale_max", "At most.", labels=["app", "type"])
    for key, rule in sorted(sight.rules.items()):
        low.add_metric(list(key), rule.minimum)
        high.add_metric(list(key), rule.maximum)
    yield low
    yield high


def _measured(sight: AutomationSight) -> Iterator[Metric]:
    ratio = GaugeMetricFamily(
        "formation_autoscale_ratio",
        "What is measured by what should be; 1 is right. Said by the leader.",
        labels=["app", "type", "measure"],
    )
    unknown = GaugeMetricFamily(
        "formation_autoscale_unknown",
        "1 while a measure is not known, so that nothing is taken away; said by the leader.",
        labels=["app", "type"],
    )
    for key, readings in sorted(sight.readings.items()):
        unknown.add_metric(list(key), float(any(not r.known for r in readings)))
        found: dict[str, float] = {}
        for reading in readings:
            if reading.known:
                name = reading.measure.kind.value
                value = _ratio(reading, sight.quantities.get(key, 0))
                found[name] = max(value, found.get(name, 0.0))
        for name, value in found.items():
            ratio.add_metric([*key, name], value)
    yield ratio
    yield unknown


def _ratio(reading: Reading, quantity: int) -> float:
    measure = reading.measure
    mean = sum(reading.values) / len(reading.values)
    together = measure.kind is MeasureKind.METRIC and not measure.averaged
    return mean / measure.target / (max(1, quantity) if together else 1)


def _webhooks(deliveries: Mapping[str, Delivery]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "formation_webhook_waiting", "Events that wait; said by the leader.", labels=["webhook"]
    )
    counters = {
        name: CounterMetricFamily(f"formation_webhook_{name}", said, labels=["webhook"])
        for name, said in (
            ("delivered", "Events that have arrived; said by the leader."),
            ("failures", "Tries that have failed; said by the leader."),
            ("dropped", "Events that it was never told; said by the leader."),
        )
    }
    for name, delivery in sorted(deliveries.items()):
        waiting.add_metric([name], delivery.waiting)
        counters["delivered"].add_metric([name], delivery.delivered)
        counters["failures"].add_metric([name], delivery.failed)
        counters["dropped"].add_metric([name], delivery.dropped)
    yield waiting
    yield from counters.values()
