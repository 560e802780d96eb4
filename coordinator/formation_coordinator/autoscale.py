"""What one look at an autoscaled type comes to: (rule, readings, situation, memory) → a quantity
and one sentence about it. Pure.

As Kubernetes' HorizontalPodAutoscaler: the ratio of what is to what should be, a tolerance, windows
over what was recommended, a limit to how fast it grows. Whoever was not measured counts as idle on
the way up and as just right on the way down, so it never is the reason for a change. A memory
begins with the present quantity as if that had been recommended: who takes over, or follows another
rule, takes nothing away before it has looked on for a whole window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from formation.automation import Autoscale, Measure, MeasureKind
from formation.model import ProcessType

TOLERANCE = 0.1
# Within so long it may at most double, or become so many more, whichever is more.
GROWTH_PERIOD_S = 15.0
GROWTH_MIN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """`values`: of each instance that was measured, in the target's unit; of METRIC the one number.
    `missing`: instances that count and told nothing. `problem`: why nothing is known."""

    measure: Measure
    values: tuple[float, ...] = ()
    missing: int = 0
    problem: str = ""

    @property
    def known(self) -> bool:
        return not self.problem and bool(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """`obstacle`: why nothing at all may change. `unplaced`: instances that fit nowhere. `rolling`:
    a change of the app is on its way."""

    quantity: int
    obstacle: str = ""
    unplaced: int = 0
    rolling: str = ""


@dataclass(frozen=True, slots=True)
class Recommended:
    at_s: float
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """`recommended`: oldest first, within the longer window. `grown`: what was added, and when."""

    recommended: tuple[Recommended, ...] = ()
    grown: tuple[Recommended, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`sentence` is complete: with numbers, and with the reason when nothing changes."""

    quantity: int
    sentence: str


def begin(quantity: int, now_s: float) -> Memory:
    return Memory(recommended=(Recommended(now_s, quantity),))


def decide(
    rule: Autoscale,
    readings: Sequence[Reading],
    now: Situation,
    memory: Memory,
    now_s: float,
) -> tuple[Decision, Memory]:
    if now.obstacle:
        return _stays(now, now.obstacle), memory
    at = now.quantity
    if not rule.minimum <= at <= rule.maximum:
        return _into_bounds(rule, now), begin(_within(rule, at), now_s)
    asked, why = _asked(readings, at)
    if asked is None:
        return _stays(now, why), memory
    bounded = _within(rule, asked)
    memory = _remembering(rule, memory, Recommended(now_s, bounded), now_s)
    if bounded != asked:
        why += f" ({asked}, but {'max' if asked > bounded else 'min'} is {bounded})"
    if bounded > at:
        return _up(rule, now, memory, bounded, why, now_s)
    if bounded < at:
        return _down(rule, now, memory, why, now_s), memory
    return Decision(quantity=at, sentence=f"stays at {at}: {why}"), memory


def _within(rule: Autoscale, quantity: int) -> int:
    return max(rule.minimum, min(rule.maximum, quantity))


def _stays(now: Situation, why: str) -> Decision:
    return Decision(quantity=now.quantity, sentence=f"stays at {now.quantity}: {why}")


def _into_bounds(rule: Autoscale, now: Situation) -> Decision:
    to = _within(rule, now.quantity)
    word = "less than min" if to > now.quantity else "more than max"
    return Decision(quantity=to, sentence=f"{now.quantity} is {word} {to}")


def _remembering(rule: Autoscale, memory: Memory, new: Recommended, now_s: float) -> Memory:
    """What has left the windows is forgotten; of equal ones in a row the last counts as long as the
    first is not needed, so that it stays short."""
    longest_s = max(rule.up_window_s, rule.down_window_s)
    kept = [r for r in memory.recommended if r.at_s > now_s - longest_s]
    grown = [g for g in memory.grown if g.at_s > now_s - GROWTH_PERIOD_S]
    return Memory(recommended=(*kept, new), grown=tuple(grown))


# -- up and down -----------------------------------------------------------------------------------


def _up(
    rule: Autoscale, now: Situation, memory: Memory, wanted: int, why: str, now_s: float
) -> tuple[Decision, Memory]:
    at = now.quantity
    if now.unplaced:
        fits = f"{now.unplaced} of {at} fit nowhere: formctl ps says why"
        return _stays(now, f"{why}, which asks for {wanted}, but {fits}"), memory
    lowest = min((r for r in _within_s(memory, rule.up_window_s, now_s)), key=_quantity)
    if lowest.quantity < wanted and lowest.quantity <= at:
        said = _since(lowest, now_s)
        return _stays(now, f"{why} asks for {wanted}, but {said} (up-window)"), memory
    wanted = min(wanted, lowest.quantity)
    before = at - sum(g.quantity for g in memory.grown)
    limit = max(before * 2, before + GROWTH_MIN)
    if limit < wanted:
        why += f"; {wanted}, but not more than {max(at, limit)} within {GROWTH_PERIOD_S:g} s"
        wanted = max(at, limit)
    if wanted <= at:
        return _stays(now, why), memory
    memory = replace(memory, grown=(*memory.grown, Recommended(now_s, wanted - at)))
    return Decision(quantity=wanted, sentence=f"{at} -> {wanted}: {why}"), memory


def _down(rule: Autoscale, now: Situation, memory: Memory, why: str, now_s: float) -> Decision:
    at = now.quantity
    recent = list(_within_s(memory, rule.down_window_s, now_s))
    highest = max(reversed(recent), key=_quantity)
    wanted = recent[-1].quantity
    if now.rolling:
        return _stays(now, f"{why} asks for {wanted}, but {now.rolling}")
    if highest.quantity >= at:
        said = _since(highest, now_s)
        return _stays(now, f"{why} asks for {wanted}, but {said} (down-window)")
    if highest.quantity > wanted:
        why += f"; {_since(highest, now_s)} (down-window)"
    return Decision(quantity=highest.quantity, sentence=f"{at} -> {highest.quantity}: {why}")


def _within_s(memory: Memory, window_s: float, now_s: float) -> list[Recommended]:
    """The present one is always among them."""
    *earlier, last = memory.recommended
    return [*(r for r in earlier if r.at_s > now_s - window_s), last]


def _quantity(item: Recommended) -> int:
    return item.quantity


def _since(item: Recommended, now_s: float) -> str:
    return f"{item.quantity} was right {now_s - item.at_s:.0f} s ago"


# -- what the measures ask for ---------------------------------------------------------------------


def _asked(readings: Sequence[Reading], at: int) -> tuple[int | None, str]:
    """The most that any asks for. While one is not known nothing goes down."""
    unknown = [f"{r.measure.kind.value}: {r.problem or 'nobody was measured'}"
               for r in readings if not r.known]  # fmt: skip
    found = [_asked_by(reading, at) for reading in readings if reading.known]
    if not found:
        return None, "; ".join(unknown)
    most, why = max(found, key=lambda item: item[0])
    if unknown and most < at:
        return None, f"{why} asks for {most}, but {'; '.join(unknown)}"
    return most, why


def _asked_by(reading: Reading, at: int) -> tuple[int, str]:
    measure = reading.measure
    if measure.kind is MeasureKind.METRIC:
        return _asked_by_metric(measure, reading.values[0], at)
    return _asked_by_usage(reading, at)


def _asked_by_metric(measure: Measure, value: float, at: int) -> tuple[int, str]:
    said = f"metric {value:g}"
    if measure.averaged:
        return _ceil(value / measure.target, at, at), f"{said} on average, of {measure.target:g}"
    why = f"{said}, {measure.target:g} for each"
    if at == 0:
        return _whole(value / measure.target), why
    return _ceil(value / measure.target / at, at, at), why


def _asked_by_usage(reading: Reading, at: int) -> tuple[int, str]:
    measured, missing, target = len(reading.values), reading.missing, reading.measure.target
    total = sum(reading.values)
    ratio = total / measured / target
    counts = f"{measured} measured" + (f", {missing} not" if missing else "")
    why = f"{reading.measure.kind.value} {total / measured:.0f} % of {target:g} %, {counts}"
    if not missing:
        return _ceil(ratio, measured, at), why
    # As idle on the way up, as just right on the way down; neither may turn the way round.
    count = measured + missing
    assumed = 0.0 if ratio > 1 else missing * target
    cautious = (total + assumed) / count / target
    if (ratio > 1) is not (cautious > 1):
        return at, why
    wanted = _ceil(cautious, count, at)
    return (max(at, wanted) if ratio > 1 else min(at, wanted)), why


def _ceil(ratio: float, count: int, at: int) -> int:
    """`ratio` × `count`, or what there is when it is about right."""
    if abs(ratio - 1) <= TOLERANCE + 1e-9:
        return at
    return _whole(ratio * count)


def _whole(wanted: float) -> int:
    """Rounding errors are no reason for one more. Bounded: it may come from anywhere."""
    return math.ceil(min(max(wanted, 0.0), 1e9) - 1e-9)


# -- from what is told to readings -----------------------------------------------------------------


def cores_of(spec: ProcessType) -> float:
    """What 100 % of cpu is: what the type reserves, else its limit, else one core."""
    return spec.resources.cpus or spec.limits.cpus or 1.0


def memory_of(spec: ProcessType) -> int:
    """What 100 % of memory is; 0: the type does not say."""
    return spec.resources.memory_bytes or spec.limits.memory_bytes


def problem_with_type(spec: ProcessType | None, name: str) -> str:
    """Why its quantity cannot follow a measure; or ""."""
    if spec is None:
        return f"there is no type {name} in the current release"
    if spec.schedule is not None:
        return f"{name} runs at times (schedule), not in a number"
    if spec.per_host:
        return f"{name} runs on every host (per_host): more of it needs more hosts"
    if spec.exclusive:
        return f"{name} is exclusive: each instance is one of a kind, none is there for the load"
    return ""


def problem_with_measure(spec: ProcessType, measure: Measure) -> str:
    if measure.kind is MeasureKind.MEMORY and not memory_of(spec):
        return f"percent of what? Type {spec.name} has neither resources.memory nor limits.memory"
    return ""


@dataclass(frozen=True, slots=True)
class CpuSample:
    """What an instance had used until then."""

    at_s: float
    cpu_s: float


def cpu_values(
    before: Mapping[str, CpuSample], after: Mapping[str, CpuSample], cores: float
) -> dict[str, float]:
    """Percent, by uid, of those that were seen twice. Who has used less than before has lost
    processes, and nobody knows what they had used: it is not measured."""
    found = {}
    for uid, new in after.items():
        old = before.get(uid)
        if old is not None and new.at_s > old.at_s and new.cpu_s >= old.cpu_s:
            found[uid] = (new.cpu_s - old.cpu_s) / (new.at_s - old.at_s) / cores * 100
    return found
