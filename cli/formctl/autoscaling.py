"""What formctl asks a coordinator about autoscaling, and how it reads what people write of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from formation.automation import Measure, MeasureKind
from formctl.errors import CommandError, InputError
from formctl.renderautomation import AutoscaleLine, Measured
from formctl.settings import Seconds

if TYPE_CHECKING:
    from formation.automation import Autoscale
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client


class Percent(Seconds):
    """`60%` or `60` → 60.0."""

    name = "percent"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        return float(super().convert(str(value).removesuffix("%"), param, ctx))


def measures_of(
    cpu: float | None,
    memory: float | None,
    metrics: tuple[str, ...],
    targets: tuple[float, ...],
    *,
    averaged: bool,
) -> list[Measure]:
    """Raises `InputError`."""
    if len(metrics) != len(targets):
        raise InputError("each --metric URL needs its --target N, and each --target its --metric")
    if averaged and not metrics:
        raise InputError("--average says what a --metric is")
    found = [
        Measure(kind=kind, target=target)
        for kind, target in ((MeasureKind.CPU, cpu), (MeasureKind.MEMORY, memory))
        if target is not None
    ]
    pairs = zip(metrics, targets, strict=True)
    return found + [
        Measure(kind=MeasureKind.METRIC, target=target, url=url, averaged=averaged)
        for url, target in pairs
    ]


async def lines(client: Client, app: str) -> tuple[list[AutoscaleLine], str]:
    """`app` "": of all. And why something is missing, or ""."""
    from formation.v1 import control_pb2 as pb

    request = pb.ListAutoscaleRequest(app=app)
    answer = await client.read(lambda stub: stub.ListAutoscale, request)
    return [_line(view) for view in answer.rules], answer.note


async def rules(client: Client, app: str) -> list[Autoscale]:
    """None of a coordinator that does not know of it."""
    try:
        found, _ = await lines(client, app)
    except CommandError:
        return []
    return [line.rule for line in found]


def _line(view: pb.AutoscaleView) -> AutoscaleLine:
    from formation import wire_automation

    return AutoscaleLine(
        rule=wire_automation.autoscale_from_pb(view.rule),
        quantity=view.quantity,
        sentence=view.sentence,
        measures=tuple(
            Measured(
                measure=wire_automation.measure_from_pb(item.measure),
                value=item.value if item.HasField("value") else None,
                measured=item.measured,
                missing=item.missing,
                problem=item.problem,
            )
            for item in view.measures
        ),
        looked_at_ms=view.looked_at_ms,
        next_look_ms=view.next_look_ms,
    )
