"""`formctl autoscale`: quantities that follow what instances use, or a number from a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from formation.person import who
from formctl import renderautomation
from formctl.autoscaling import Percent, lines, measures_of
from formctl.errors import InputError
from formctl.settings import (
    Duration,
    Settings,
    app_option,
    coordinator_option,
    examples,
    note,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
    terminal_width,
    why_option,
)

if TYPE_CHECKING:
    from formation.v1 import control_pb2 as pb

_QUANTITY = click.IntRange(min=0)


@click.command("autoscale")
@click.argument("type_name", metavar="[TYPE]", required=False)
@click.option("--min", "minimum", type=_QUANTITY, metavar="N", help="At least; 1 if never said.")
@click.option("--max", "maximum", type=_QUANTITY, metavar="N", help="At most.")
@click.option(
    "--cpu", type=Percent(min=0, min_open=True), metavar="PERCENT",
    help="Of resources.cpus, else limits.cpus, else of one core.",
)  # fmt: skip
@click.option(
    "--memory", type=Percent(min=0, min_open=True), metavar="PERCENT",
    help="Of resources.memory, else limits.memory.",
)  # fmt: skip
@click.option(
    "--metric", multiple=True, metavar="URL",
    help="Tells a number, or is an instant query of Prometheus.",
)  # fmt: skip
@click.option(
    "--target", multiple=True, type=click.FloatRange(min=0, min_open=True), metavar="N",
    help="How much of the metric is right for one instance.",
)  # fmt: skip
@click.option("--average", is_flag=True, help="The metric is that of an average instance already.")
@click.option(
    "--up-window", type=Duration(min=0), metavar="TIME",
    help="Too few for so long, before there are more; 0s if never said.",
)  # fmt: skip
@click.option(
    "--down-window", type=Duration(min=0), metavar="TIME",
    help="Too many for so long, before there are fewer; 5m if never said.",
)  # fmt: skip
@click.option("--every", type=Duration(min=0), metavar="TIME", help="15s if never said.")
@click.option("--off", is_flag=True, help="The quantity is yours again, and stays as it is.")
@why_option
@output_option
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl autoscale                                    who owns what, and the last look",
    "formctl autoscale web --min 2 --max 20 --cpu 60%",
    "formctl autoscale web --max 30                       the rest stays as it is",
    "formctl autoscale worker --min 0 --max 50 --metric http://queue:9000/length --target 100",
    "formctl autoscale web --off",
)
def command(
    settings: Settings,
    type_name: str | None,
    minimum: int | None,
    maximum: int | None,
    cpu: float | None,
    memory: float | None,
    metric: tuple[str, ...],
    target: tuple[float, ...],
    average: bool,
    up_window: float | None,
    down_window: float | None,
    every: float | None,
    off: bool,
    why: str,
    output: str,
) -> None:
    """Let a type's quantity follow a measure, within bounds; without TYPE: list.

    Of several measures the one that asks for most counts. While a type is autoscaled,
    formctl scale refuses to change it.
    """
    measures = measures_of(cpu, memory, metric, target, averaged=average)
    given = (minimum, maximum, up_window, down_window, every)
    says = bool(measures) or any(value is not None for value in given)
    if type_name is None:
        if says or off:
            raise InputError("which type? formctl autoscale TYPE …")
        run(_list(settings, output))
        return
    if output == "json":
        raise InputError("-o json is for reading: formctl autoscale -o json without a type")
    if off and says:
        raise InputError("--off takes nothing else")
    if not off and not says:
        raise InputError(
            f"what shall {type_name} follow? formctl autoscale {type_name} --max 10 --cpu 60%"
        )
    from formation import wire_automation
    from formation.v1 import control_pb2 as pb

    request = pb.SetAutoscaleRequest(
        type=type_name,
        minimum=minimum,
        maximum=maximum,
        measures=map(wire_automation.measure_to_pb, measures),
        up_window_s=up_window,
        down_window_s=down_window,
        every_s=every,
        off=off,
        who=who(),
        why=why,
    )
    run(_set(settings, request))


async def _list(settings: Settings, output: str) -> None:
    from formation.runtime import now_ms
    from formctl.client import Client

    async with Client(settings.target()) as client:
        found, missing = await lines(client, settings.named_app())
    if missing:
        note(f"formctl: {missing}")
    if output == "json":
        say_json([renderautomation.autoscale_json(line) for line in found])
    else:
        say(renderautomation.autoscale(found, now_ms=now_ms(), width=terminal_width()))


async def _set(settings: Settings, request: pb.SetAutoscaleRequest) -> None:
    from formation import wire_automation
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        line = await find_app(client, settings, target)
        request.app = line.app.name
        answer = await client.change(lambda stub: stub.SetAutoscale, request)
    rule = wire_automation.autoscale_from_pb(answer.rule)
    if request.off:
        quantity = line.formation().get(rule.type, 0)
        say(f"{rule.type} is no longer autoscaled; it stays at {quantity}")
    else:
        said = renderautomation.autoscale_rule(rule)
        say(f"{said}; it was so already" if answer.unchanged else said)
