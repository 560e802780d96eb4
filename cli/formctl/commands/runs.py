"""`formctl runs`: what was run once, by hand or by a schedule."""

from __future__ import annotations

import click

from formation.person import who
from formctl import jsonview, render
from formctl.errors import InputError
from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
)


@click.group("runs", invoke_without_command=True)
@click.option(
    "--type", "type_name", default="", metavar="TYPE", help="Of one type; `run`: one-offs."
)
@output_option
@coordinator_option
@app_option
@click.pass_context
@examples(
    "formctl runs                   newest first",
    "formctl runs --type backup     of one scheduled type",
    "formctl logs run.17 --tail all     what one of them wrote",
    "formctl runs cancel run.17",
)
def command(ctx: click.Context, type_name: str, output: str) -> None:
    """List runs: commands of formctl run, and types with a schedule."""
    if ctx.invoked_subcommand is None:
        run(_runs(ctx.ensure_object(Settings), type_name, output))
    elif output != "text" or type_name:
        raise InputError("--type and -o are for the list")


@command.command("cancel")
@click.argument("run_id", metavar="ID")
@coordinator_option
@app_option
@pass_settings
@examples("formctl runs cancel run.17")
def cancel(settings: Settings, run_id: str) -> None:
    """Stop a run, or keep it from being started."""
    run(_cancel(settings, run_id))


async def _runs(settings: Settings, type_name: str, output: str) -> None:
    from formation import wire
    from formation.v1 import control_pb2 as pb
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        app = (await find_app(client, settings, target)).app.name
        request = pb.ListRunsRequest(app=app, type=type_name)
        response = await client.read(lambda stub: stub.ListRuns, request)
    found = [wire.run_from_pb(item) for item in response.runs]
    if output == "json":
        say_json([jsonview.run(item) for item in found])
    else:
        say(render.runs(found))


async def _cancel(settings: Settings, run_id: str) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        app = (await find_app(client, settings, target)).app.name
        request = pb.CancelRunRequest(app=app, id=run_id, who=who())
        await client.change(lambda stub: stub.CancelRun, request)
    say(f"{run_id} cancelled")
