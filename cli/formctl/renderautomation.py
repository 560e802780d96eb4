"""Autoscaling and webhooks as people and programs see them. Pure; never a secret."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from formation.automation import Autoscale, Delivery, Measure, Webhook, place_of
from formctl.render import local_time
from formctl.tables import table
from formctl.wording import age, rfc3339, since

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """`value` None: not known, for `problem` if that is said."""

    measure: Measure
    value: float | None = None
    measured: int = 0
    missing: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaleLine:
    """`sentence` "": nobody has looked yet, or the leader does not answer."""

    rule: Autoscale
    quantity: int
    sentence: str = ""
    measures: tuple[Measured, ...] = ()
    looked_at_ms: int = 0
    next_look_ms: int = 0


def autoscale(found: Sequence[AutoscaleLine], *, now_ms: int, width: int | None = None) -> str:
    if not found:
        return "nothing is autoscaled; formctl autoscale web --min 2 --max 20 --cpu 60% makes it"
    header = ("APP", "TYPE", "NOW", "BOUNDS", "MEASURED", "NEXT LOOK", "LAST LOOK")
    rows = [
        (
            line.rule.app,
            line.rule.type,
            str(line.quantity),
            line.rule.bounds,
            ", ".join(_measured(item) for item in line.measures) or "-",
            _in(line.next_look_ms, now_ms),
            line.sentence or "none yet",
        )
        for line in found
    ]
    return table(header, rows, width=width)


def _measured(item: Measured) -> str:
    unit = item.measure.unit
    value = "?" if item.value is None else f"{item.value:.3g}"
    if item.value is not None and unit:
        value = f"{item.value:.0f}"
    return f"{item.measure.kind.value} {value} of {item.measure.target:g}{unit}"


def _in(at_ms: int, now_ms: int) -> str:
    return f"in {age(max(0, at_ms - now_ms) / 1000)}" if at_ms else "-"


def formation(quantities: dict[str, int], rules: Iterable[Autoscale]) -> str:
    """`web=5 (autoscale 2..20) worker=3`, for people."""
    owned = {rule.type: f" (autoscale {rule.bounds})" for rule in rules}
    return " ".join(f"{name}={n}{owned.get(name, '')}" for name, n in quantities.items())


def autoscale_rule(rule: Autoscale) -> str:
    measures = ", ".join(f"{m} at {place_of(m.url)}" if m.url else str(m) for m in rule.measures)
    looks = f"looked at every {rule.every_s:g} s"
    return f"{rule.type} is autoscaled: {rule.bounds}, {measures}, {looks}"


def autoscale_json(line: AutoscaleLine) -> Json:
    rule = line.rule
    last = rule.last
    return {
        "app": rule.app,
        "type": rule.type,
        "quantity": line.quantity,
        "min": rule.minimum,
        "max": rule.maximum,
        "measures": [
            {
                "kind": item.measure.kind.value,
                "target": item.measure.target,
                "url": item.measure.url or None,
                "average": item.measure.averaged,
            }
            for item in (Measured(measure=m) for m in rule.measures)
        ],
        "measured": [
            {
                "kind": item.measure.kind.value,
                "value": item.value,
                "instances": item.measured,
                "missing": item.missing,
                "problem": item.problem or None,
            }
            for item in line.measures
        ],
        "up_window_s": rule.up_window_s,
        "down_window_s": rule.down_window_s,
        "every_s": rule.every_s,
        "who": rule.who,
        "set_at": rfc3339(rule.at_ms),
        "sentence": line.sentence or None,
        "looked_at": rfc3339(line.looked_at_ms) if line.looked_at_ms else None,
        "next_look_at": rfc3339(line.next_look_ms) if line.next_look_ms else None,
        "last_change": {
            "at": rfc3339(last.at_ms),
            "before": last.before,
            "after": last.after,
            "why": last.why,
        }
        if last
        else None,
    }


# -- webhooks --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookLine:
    """`delivery` None: the leader has not said anything of it yet."""

    hook: Webhook
    delivery: Delivery | None = None


def webhooks(found: Sequence[WebhookLine], *, now_ms: int, width: int | None = None) -> str:
    if not found:
        return "no webhooks; formctl webhook add URL --what host makes one"
    header = (
        "NAME", "EVENTS", "APP", "DELIVERED", "WAITING", "FAILED", "DROPPED", "LAST", "URL", "STATE"
    )  # fmt: skip
    rows = [
        (
            line.hook.name,
            ",".join(line.hook.what) or "all",
            line.hook.app or "-",
            *_counts(line.delivery),
            line.hook.url,
            state(line.delivery, now_ms),
        )
        for line in found
    ]
    return table(header, rows, width=width)


def _counts(delivery: Delivery | None) -> tuple[str, ...]:
    found = delivery or Delivery(name="")
    counts = (found.delivered, found.waiting, found.failed, found.dropped)
    return (*map(str, counts), local_time(found.last_at_ms) if found.last_at_ms else "-")


def state(delivery: Delivery | None, now_ms: int) -> str:
    if delivery is None or not delivery.last_at_ms:
        return "nothing told yet"
    if delivery.failing_since_ms:
        return f"failing for {since(delivery.failing_since_ms, now_ms)}: {delivery.last_word}"
    return f"well: {delivery.last_word}"


def webhook_json(line: WebhookLine) -> Json:
    hook, found = line.hook, line.delivery or Delivery(name="")
    return {
        "name": hook.name,
        "url": hook.url,
        "what": list(hook.what),
        "app": hook.app or None,
        "who": hook.who,
        "set_at": rfc3339(hook.at_ms),
        "delivered": found.delivered,
        "waiting": found.waiting,
        "failed": found.failed,
        "dropped": found.dropped,
        "last_at": rfc3339(found.last_at_ms) if found.last_at_ms else None,
        "last": found.last_word or None,
        "failing_since": rfc3339(found.failing_since_ms) if found.failing_since_ms else None,
    }
