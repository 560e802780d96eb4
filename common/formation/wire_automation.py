"""Autoscaling and webhooks ⇄ protobuf. Part of `formation.wire`; see there."""

from __future__ import annotations

from formation import automation as a
from formation.v1 import types_pb2 as pb
from formation.wire_maps import WireError

_KINDS = {
    a.MeasureKind.CPU: pb.MEASURE_KIND_CPU,
    a.MeasureKind.MEMORY: pb.MEASURE_KIND_MEMORY,
    a.MeasureKind.METRIC: pb.MEASURE_KIND_METRIC,
}
_KINDS_BACK = {number: kind for kind, number in _KINDS.items()}


def measure_to_pb(measure: a.Measure) -> pb.Measure:
    return pb.Measure(
        kind=_KINDS[measure.kind],
        target=measure.target,
        url=measure.url,
        averaged=measure.averaged,
    )


def measure_from_pb(message: pb.Measure) -> a.Measure:
    kind = _KINDS_BACK.get(message.kind)
    if kind is None:
        raise WireError(f"unknown measure {message.kind}; of a newer version?")
    return a.Measure(kind=kind, target=message.target, url=message.url, averaged=message.averaged)


def autoscale_to_pb(rule: a.Autoscale) -> pb.Autoscale:
    last = rule.last
    return pb.Autoscale(
        app=rule.app,
        type=rule.type,
        minimum=rule.minimum,
        maximum=rule.maximum,
        measures=map(measure_to_pb, rule.measures),
        up_window_s=rule.up_window_s,
        down_window_s=rule.down_window_s,
        every_s=rule.every_s,
        who=rule.who,
        at_ms=rule.at_ms,
        last=pb.AutoscaleChange(
            at_ms=last.at_ms, before=last.before, after=last.after, why=last.why
        )
        if last
        else None,
    )


def autoscale_from_pb(message: pb.Autoscale) -> a.Autoscale:
    last = message.last
    return a.Autoscale(
        app=message.app,
        type=message.type,
        minimum=message.minimum,
        maximum=message.maximum,
        measures=tuple(map(measure_from_pb, message.measures)),
        up_window_s=message.up_window_s,
        down_window_s=message.down_window_s,
        every_s=message.every_s,
        who=message.who,
        at_ms=message.at_ms,
        last=a.AutoscaleChange(at_ms=last.at_ms, before=last.before, after=last.after, why=last.why)
        if message.HasField("last")
        else None,
    )


def webhook_to_pb(hook: a.Webhook) -> pb.Webhook:
    return pb.Webhook(
        name=hook.name,
        url=hook.url,
        what=hook.what,
        app=hook.app,
        version=hook.version,
        key=hook.key,
        sealed=hook.sealed,
        who=hook.who,
        at_ms=hook.at_ms,
    )


def webhook_from_pb(message: pb.Webhook) -> a.Webhook:
    return a.Webhook(
        name=message.name,
        url=message.url,
        what=tuple(message.what),
        app=message.app,
        version=message.version,
        key=message.key,
        sealed=message.sealed,
        who=message.who,
        at_ms=message.at_ms,
    )


def delivery_to_pb(delivery: a.Delivery) -> pb.Delivery:
    return pb.Delivery(
        name=delivery.name,
        epoch=delivery.epoch,
        seen_to_ms=delivery.seen_to_ms,
        delivered=delivery.delivered,
        failed=delivery.failed,
        dropped=delivery.dropped,
        waiting=delivery.waiting,
        last_at_ms=delivery.last_at_ms,
        last_word=delivery.last_word,
        failing_since_ms=delivery.failing_since_ms,
    )


def delivery_from_pb(message: pb.Delivery) -> a.Delivery:
    return a.Delivery(
        name=message.name,
        epoch=message.epoch,
        seen_to_ms=message.seen_to_ms,
        delivered=message.delivered,
        failed=message.failed,
        dropped=message.dropped,
        waiting=message.waiting,
        last_at_ms=message.last_at_ms,
        last_word=message.last_word,
        failing_since_ms=message.failing_since_ms,
    )
