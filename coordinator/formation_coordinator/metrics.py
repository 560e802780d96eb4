"""What a monitoring system is told of the cluster, in the text format of Prometheus.

Numbers of now are made of the world at each scrape; only what happens is counted. Labels are apps,
types, states and methods, never instances or hosts, and bounded: what is over the bound is added
up under one name.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import formation
from formation.model import HostState
from formation.runtime import monotonic_s
from formation_coordinator import metrics_automation, views
from formation_coordinator.metrics_automation import AutomationSight
from formation_coordinator.plan import Plan
from formation_coordinator.store.base import Health
from formation_coordinator.world import World, host_state, is_healthy

if TYPE_CHECKING:
    from formation_coordinator.service import Service

TYPES_MAX = 500
NO_AUTOMATION = AutomationSight()
OTHERS = "_others"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one scrape looks at. `plan`: of the last pass, if we lead."""

    world: World
    now_s: float
    replace_after_s: float
    leads: bool
    store_connected: bool
    store: Health
    sessions: int
    plan: Plan | None
    certificate_expires_s: float
    automation: AutomationSight = NO_AUTOMATION


def look_at(service: Service) -> Sight:
    notary, world = service.notary, service.live.world
    leads = service.leads()
    return Sight(
        world=world,
        now_s=monotonic_s(),
        replace_after_s=service.config.replace_after_s,
        leads=leads,
        store_connected=service.lease.remaining_s() > 0,
        store=service.housekeeping.health,
        sessions=len(service.sessions.held),
        plan=service.driver.last if leads else None,
        certificate_expires_s=notary.credential.seen.expires_at_ms / 1000 if notary else 0.0,
        automation=service.automation.sight(leads=leads),
    )


class Metrics:
    """`look()` gives what there is to see now."""

    def __init__(self, look: Callable[[], Sight]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._calls = Counter(
            "formation_calls",
            "Calls of agents, people and programs, by how they ended.",
            ("method", "code"),
            registry=self._registry,
        )
        self._registry.register(_Cluster(look))
        ProcessCollector(registry=self._registry)

    def count(self, method: str, code: str) -> None:
        self._calls.labels(method.rpartition("/")[2], code).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Cluster(Collector):
    def __init__(self, look: Callable[[], Sight]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        return families(self._look())

    def describe(self) -> Iterator[Metric]:
        """Nothing can be looked at when it is registered."""
        return iter(())


def families(sight: Sight) -> Iterator[Metric]:
    yield from _coordinator(sight)
    yield from _hosts(sight)
    yield from _instances(sight)
    yield from metrics_automation.families(sight.automation)


def _coordinator(sight: Sight) -> Iterator[Metric]:
    world, plan = sight.world, sight.plan
    yield _gauge(
        "build_info", "1, for the version that runs.", {"version": formation.__version__}, 1
    )
    yield _gauge("leader", "1 when this coordinator leads.", {}, sight.leads)
    yield _gauge("store_connected", "1 when it surely reaches etcd.", {}, sight.store_connected)
    said = "1 when etcd has raised an alarm: it is full, or damaged."
    yield _gauge("store_alarm", said, {}, bool(sight.store.alarms))
    yield _gauge("store_size_bytes", "etcd's database on disk.", {}, sight.store.size_bytes)
    yield _gauge("store_used_bytes", "Of it in use.", {}, sight.store.used_bytes)
    yield _gauge("sessions", "Agents whose session is held here.", {}, sight.sessions)
    yield _gauge("coordinators", "Coordinators that are there.", {}, len(world.coordinators))
    held = bool(world.cluster and world.cluster.held)
    yield _gauge("held", "1 while nothing is changed until formctl reconcile.", {}, held)
    if plan is not None:
        said = "1 while most hosts are silent and nothing is replaced; said by the leader."
        yield _gauge("brake", said, {}, plan.brake)
        unplaced = len(plan.pending) + sum(plan.unnamed.values())
        yield _gauge("unplaced", "Instances that fit nowhere; said by the leader.", {}, unplaced)
    if sight.certificate_expires_s:
        yield _gauge(
            "certificate_expires_timestamp_seconds",
            "When this coordinator's certificate runs out; it renews itself daily.",
            {},
            sight.certificate_expires_s,
        )


def _hosts(sight: Sight) -> Iterator[Metric]:
    states: Count[str] = Count({state.name.lower(): 0 for state in HostState})
    cordoned = 0
    for entry in sight.world.hosts.values():
        if entry.known:
            state = host_state(entry, now_s=sight.now_s, replace_after_s=sight.replace_after_s)
            states[state.name.lower()] += 1
            cordoned += entry.cordoned
    hosts = GaugeMetricFamily("formation_hosts", "Hosts by state.", labels=["state"])
    for name, number in sorted(states.items()):
        hosts.add_metric([name], number)
    yield hosts
    yield _gauge("hosts_cordoned", "Hosts that take nothing new.", {}, cordoned)


def _instances(sight: Sight) -> Iterator[Metric]:
    world = sight.world
    wanted = {
        (name, kind): number
        for name, app in sorted(world.apps.items())
        for kind, number in views.wanted_of(world, app).items()
    }
    kept = dict.fromkeys(sorted(wanted)[:TYPES_MAX])
    by_type: Count[tuple[str, str]] = Count()
    healthy: Count[tuple[str, str]] = Count()
    states: Count[tuple[str, str, str]] = Count()
    looping: Count[tuple[str, str]] = Count()
    for key, number in wanted.items():
        by_type[_bounded(key, kept)] += number
    for entry in world.hosts.values():
        assigned = {item.uid for item in entry.assigned if not item.run and not item.surge}
        for status in entry.status.instances if entry.status else ():
            key = _bounded((status.slot.app, status.slot.type), kept)
            states[(*key, status.state.name.lower())] += 1
            looping[key] += status.crash_looping
            if status.uid in assigned:
                healthy[key] += is_healthy(entry, status)
    yield _by_type("instances_wanted", "Instances that are to run.", by_type)
    yield _by_type(
        "instances_healthy", "Of those that are to run, how many are as wanted.",
        Count({key: healthy[key] for key in by_type}),
    )  # fmt: skip
    yield _by_type(
        "crash_looping", "Instances in a crash loop.", Count({k: looping[k] for k in by_type})
    )
    found = GaugeMetricFamily(
        "formation_instances", "Instances that hosts speak of.", labels=["app", "type", "state"]
    )
    for (app, kind, state), number in sorted(states.items()):
        found.add_metric([app, kind, state], number)
    yield found
    yield from _releases(world, {app for app, _ in kept})


def _releases(world: World, apps: set[str]) -> Iterator[Metric]:
    release = GaugeMetricFamily("formation_release", "The current release.", labels=["app"])
    rolling = GaugeMetricFamily(
        "formation_rollout", "1 while a change is on its way, or paused.", labels=["app"]
    )
    for name in sorted(apps & world.apps.keys()):
        app = world.apps[name]
        release.add_metric([name], app.release)
        rolling.add_metric([name], app.release != app.stable_release)
    yield release
    yield rolling


def _bounded(key: tuple[str, str], kept: dict[tuple[str, str], None]) -> tuple[str, str]:
    return key if key in kept else (OTHERS, OTHERS)


def _by_type(name: str, said: str, numbers: Count[tuple[str, str]]) -> Metric:
    found = GaugeMetricFamily(f"formation_{name}", said, labels=["app", "type"])
    for (app, kind), number in sorted(numbers.items()):
        found.add_metric([app, kind], number)
    return found


def _gauge(name: str, said: str, labels: dict[str, str], value: float) -> Metric:
    found = GaugeMetricFamily(f"formation_{name}", said, labels=list(labels))
    found.add_metric(list(labels.values()), float(value))
    return found
