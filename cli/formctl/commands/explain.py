"""`formctl explain`: why an instance is where it is, or nowhere."""

from __future__ import annotations

import click

from formctl import jsonplan, renderchange
from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
    output_option,
    parse_instance,
    pass_settings,
    run,
    say,
    say_json,
    terminal_width,
)


@click.command("explain")
@click.argument("instance", metavar="TYPE.N")
@click.option("--all-checks", is_flag=True, help="Of every host all checks, passed ones too.")
@output_option
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl explain web.7                 where it is and why, and what each host says",
    "formctl explain web.7 --all-checks",
)
def command(settings: Settings, instance: str, all_checks: bool, output: str) -> None:
    """Show why an instance is where it is, or why no host takes it.

    Every host, best first: what decides between those that fit, and what those lack that do not.
    """
    type_name, ordinal = parse_instance(instance)
    run(_explain(settings, type_name, ordinal, all_checks=all_checks, output=output))


async def _explain(
    settings: Settings, type_name: str, ordinal: int, *, all_checks: bool, output: str
) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.appname import find_app
    from formctl.client import Client, instance_from_pb

    target = settings.target()
    async with Client(target) as client:
        app = (await find_app(client, settings, target)).app.name
        request = pb.ExplainRequest(app=app, type=type_name, ordinal=ordinal)
        found = await client.read(lambda stub: stub.Explain, request)
    instance = instance_from_pb(found.instance)
    if output == "json":
        say_json(jsonplan.explanation(found, instance))
        return
    width = terminal_width()
    say(renderchange.explanation(found, instance, all_checks=all_checks, width=width))
