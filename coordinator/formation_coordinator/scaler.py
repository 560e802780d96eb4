"""The leader's looks at autoscaled types: measure, decide (`autoscale`, pure), commit. Thin.

Runs only while we lead. A quantity changes in the same fenced way as a document of the leader, and
only if neither the app nor the rule has changed since the look.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from formation import wire
from formation.automation import Autoscale, AutoscaleChange, Measure, MeasureKind, place_of
from formation.model import App, AuditRecord, InstanceState, ProcessType, Usage
from formation.v1 import control_pb2 as pb
from formation_coordinator import autoscale, timeline
from formation_coordinator.autoscale import CpuSample, Decision, Memory, Reading, Situation
from formation_coordinator.crew import Crew
from formation_coordinator.live import LiveWorld
from formation_coordinator.outgoing import RubbishError, read_value
from formation_coordinator.outside import BODY_BYTES_MAX, Outside, OutsideError
from formation_coordinator.plan import Plan
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import (
    Compare,
    CreateRevision,
    ModRevision,
    OutcomeUnknown,
    Put,
    Store,
    StoreError,
)
from formation_coordinator.store.mirror import Mirror
from formation_coordinator.usagefan import UsageFan
from formation_coordinator.world import World

log = logging.getLogger(__name__)

METRIC_TIMEOUT_S = 5.0
MIRROR_WAIT_S = 5.0
PAUSE_MIN_S = 0.2
WHO = "autoscale"
_OK = 200
Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The last one at a type, for people."""

    sentence: str
    readings: tuple[Reading, ...]
    looked_at_ms: int
    next_look_ms: int


@dataclass(slots=True)
class _Past:
    """What one rule's task remembers from look to look."""

    memory: Memory | None = None
    cpu: Mapping[str, CpuSample] | None = None


class Scaler:
    """`plan()`: of the leader's last pass. `looks` are of now, empty when we do not lead."""

    def __init__(
        self,
        *,
        store: Store,
        mirror: Mirror,
        live: LiveWorld,
        usage: UsageFan,
        outside: Outside,
        plan: Callable[[], Plan],
        replace_after_s: float,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._store, self._mirror, self._live = store, mirror, live
        self._usage, self._outside, self._plan = usage, outside, plan
        self._clock, self._now_ms, self._new_id = clock, now_ms, new_id
        self._replace_after_s = replace_after_s
        self._epoch = 0
        self.looks: dict[Key, Look] = {}
        self.changes: Counter[tuple[str, str, str]] = Counter()

    async def lead(self, epoch: int) -> None:
        self._epoch = epoch
        hint = self._live.subscribe()
        try:
            await Crew(self._rules, self._follow).run(hint)
        finally:
            self._live.unsubscribe(hint)
            self.looks.clear()

    def _rules(self) -> Mapping[Key, Autoscale]:
        """As people gave them: what we write into them is no reason to begin anew."""
        rules = self._live.world.autoscale
        for gone in self.looks.keys() - rules.keys():
            del self.looks[gone]
        return {key: replace(rule, last=None) for key, rule in rules.items()}

    async def _follow(self, rule: Autoscale) -> None:
        past, said = _Past(), ""
        while True:
            began_s = self._clock()
            try:
                decision, readings = await self._look(rule, past)
            except (StoreError, TimeoutError) as error:
                log.warning("autoscale of %s/%s: %s", rule.app, rule.type, error)
            else:
                self._tell(rule, decision, readings, said)
                said = decision.sentence
            left_s = rule.every_s - (self._clock() - began_s)
            await asyncio.sleep(max(PAUSE_MIN_S, left_s))

    def _tell(
        self, rule: Autoscale, decision: Decision, readings: tuple[Reading, ...], said: str
    ) -> None:
        now_ms = self._now_ms()
        self.looks[rule.app, rule.type] = Look(
            sentence=decision.sentence,
            readings=readings,
            looked_at_ms=now_ms,
            next_look_ms=now_ms + int(rule.every_s * 1000),
        )
        if decision.sentence != said:
            log.debug("autoscale of %s/%s: %s", rule.app, rule.type, decision.sentence)

    async def _look(self, rule: Autoscale, past: _Past) -> tuple[Decision, tuple[Reading, ...]]:
        app, spec, wrong = self._known(rule)
        if app is None or spec is None or wrong:
            past.memory = past.cpu = None
            quantity = app.formation.get(rule.type, 0) if app else 0
            return Decision(quantity=quantity, sentence=f"does nothing: {wrong}"), ()
        readings = await self._measured(rule, spec, past)
        # What is decided on is of after the measuring, which takes its time.
        app, spec, wrong = self._known(rule)
        if app is None or wrong:
            return Decision(quantity=0, sentence=f"does nothing: {wrong}"), readings
        now = self._situation(app, rule)
        if now.obstacle:
            past.memory = None  # whatever was right before, a whole window is seen anew
        memory = past.memory or autoscale.begin(now.quantity, self._clock())
        decision, after = autoscale.decide(rule, readings, now, memory, self._clock())
        if decision.quantity == now.quantity:
            past.memory = after
        elif await self._commit(rule, app, decision):
            past.memory = after
            way = "up" if decision.quantity > now.quantity else "down"
            self.changes[rule.app, rule.type, way] += 1
        else:
            said = f"{decision.sentence}; others changed it at the same time, so not yet"
            decision = Decision(quantity=now.quantity, sentence=said)
        return decision, readings

    def _known(self, rule: Autoscale) -> tuple[App | None, ProcessType | None, str]:
        world = self._live.world
        app = world.apps.get(rule.app)
        if app is None:
            return None, None, f"there is no app {rule.app}"
        release = world.current_release(app)
        if release is None:
            return app, None, f"release v{app.release} cannot be read"
        spec = release.type_named(rule.type)
        return app, spec, autoscale.problem_with_type(spec, rule.type)

    def _situation(self, app: App, rule: Autoscale) -> Situation:
        plan, world = self._plan(), self._live.world
        pending = sum((s.app, s.type) == (rule.app, rule.type) for s in plan.pending)
        obstacle = self._went_back() or timeline.held_now(world) or plan.standstill
        return Situation(
            quantity=app.formation.get(rule.type, 0),
            obstacle=obstacle or plan.left_alone.get(rule.app, ""),
            unplaced=pending + plan.unnamed.get((rule.app, rule.type), 0),
            rolling=f"v{app.release} is on its way" if app.release != app.stable_release else "",
        )

    def _went_back(self) -> str:
        """An etcd that went back in time has quantities of that time; see `Driver`."""
        settled_s = self._mirror.went_back_at_s + self._replace_after_s
        return "etcd went back in time" if self._clock() < settled_s else ""

    # ------------------------------------------------------------------ measuring

    async def _measured(
        self, rule: Autoscale, spec: ProcessType, past: _Past
    ) -> tuple[Reading, ...]:
        asks_agents = any(m.kind is not MeasureKind.METRIC for m in rule.measures)
        metrics = [m for m in rule.measures if m.kind is MeasureKind.METRIC]
        async with asyncio.TaskGroup() as tasks:
            numbers = [tasks.create_task(self._number(measure)) for measure in metrics]
            usages = await self._used(rule) if asks_agents else {}
        quantity = self._live.world.apps[rule.app].formation.get(rule.type, 0)
        of_url = (task.result() for task in numbers)
        found = []
        for measure in rule.measures:
            if measure.kind is MeasureKind.METRIC:
                found.append(next(of_url))
            elif wrong := autoscale.problem_with_measure(spec, measure):
                found.append(Reading(measure=measure, problem=wrong))
            else:
                values = self._values(measure, spec, usages, past)
                missing = max(0, quantity - len(values))
                found.append(Reading(measure=measure, values=values, missing=missing))
        past.cpu = {uid: CpuSample(at_s, usage.cpu_s) for uid, (at_s, usage) in usages.items()}
        return tuple(found)

    def _values(
        self,
        measure: Measure,
        spec: ProcessType,
        usages: Mapping[str, tuple[float, Usage]],
        past: _Past,
    ) -> tuple[float, ...]:
        if measure.kind is MeasureKind.MEMORY:
            whole = autoscale.memory_of(spec)
            return tuple(usage.memory_bytes / whole * 100 for _, usage in usages.values())
        after = {uid: CpuSample(at_s, usage.cpu_s) for uid, (at_s, usage) in usages.items()}
        values = autoscale.cpu_values(past.cpu or {}, after, autoscale.cores_of(spec))
        return tuple(values.values())

    async def _used(self, rule: Autoscale) -> Mapping[str, tuple[float, Usage]]:
        """By uid, with when it was asked for; only of those that count."""
        request = pb.UsageRequest(app=rule.app, types=[rule.type])
        answer = await self._usage.read(request)
        counting, at_s = frozenset(counted(self._live.world, rule)), self._clock()
        usages = map(wire.usage_from_pb, answer.instances)
        return {usage.uid: (at_s, usage) for usage in usages if usage.uid in counting}

    async def _number(self, measure: Measure) -> Reading:
        where = place_of(measure.url)
        try:
            answer = await self._outside.get(measure.url, METRIC_TIMEOUT_S)
            if answer.status != _OK:
                return Reading(measure=measure, problem=f"{where}: status {answer.status}")
            value = read_value(answer.body, BODY_BYTES_MAX)
        except OutsideError as error:
            return Reading(measure=measure, problem=str(error))
        except RubbishError as error:
            return Reading(measure=measure, problem=f"{where}: {error}")
        return Reading(measure=measure, values=(value,))

    # ------------------------------------------------------------------ writing

    async def _commit(self, rule: Autoscale, app: App, decision: Decision) -> bool:
        before, now_ms = app.formation.get(rule.type, 0), self._now_ms()
        changed = replace(app, formation={**app.formation, rule.type: decision.quantity})
        noted = AutoscaleChange(
            at_ms=now_ms, before=before, after=decision.quantity, why=decision.sentence
        )
        audit = AuditRecord(
            at_ms=now_ms,
            who=WHO,
            action="autoscale",
            subject=rule.app,
            before=f"{rule.type}={before}",
            after=f"{rule.type}={decision.quantity}",
            why=decision.sentence,
        )
        app_key, rule_key = keys.app(rule.app), keys.autoscale(rule.app, rule.type)
        puts = [self._put(app_key, changed), self._put(rule_key, replace(rule, last=noted))]
        seen: list[Compare] = [
            ModRevision(key, self._live.revision_of(key)) for key in (app_key, rule_key)
        ]
        fence = CreateRevision(keys.leader(), self._epoch)
        trail = Put(keys.audit(now_ms, keys.AUDIT_AUTOSCALE + self._new_id()), codec.encode(audit))
        if not self._is_as_seen(rule, app):
            return False
        try:
            outcome = await self._store.commit([fence, *seen], [*puts, trail])
        except OutcomeUnknown:
            return False  # the next look sees what became of it
        if outcome.succeeded:
            log.info("%s/%s: %s", rule.app, rule.type, decision.sentence)
            await self._mirror.wait_for(outcome.revision, MIRROR_WAIT_S)
        return outcome.succeeded

    def _is_as_seen(self, rule: Autoscale, app: App) -> bool:
        world = self._live.world
        known = world.autoscale.get((rule.app, rule.type))
        return (
            world.apps.get(rule.app) is app
            and known is not None
            and replace(known, last=None) == replace(rule, last=None)
        )

    def _put(self, key: str, record: codec.Record) -> Put:
        before = self._mirror.records.get(key)
        return Put(key, codec.encode(record, before.value if before else b""))


def counted(world: World, rule: Autoscale) -> Iterator[str]:
    """Uids of those that do the work now: healthy, on a host that is heard, and here to stay."""
    for entry in world.hosts.values():
        wanted = {
            bundle.uid(ordinal)
            for bundle in entry.bundles
            if (bundle.terms.app, bundle.terms.type) == (rule.app, rule.type)
            and not (bundle.terms.surge or bundle.terms.ending or bundle.terms.run)
            for ordinal in bundle.ordinals
        }
        if wanted and entry.connected and entry.status:
            for status in entry.status.instances:
                if status.uid in wanted and status.state is InstanceState.HEALTHY:
                    yield status.uid
