"""`formctl diff`: what differs between two releases."""

from __future__ import annotations

import click

from formctl import jsonview, render
from formctl.commands.rollback import release_number
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


@click.command("diff")
@click.argument("before", metavar="vN")
@click.argument("after", required=False, metavar="[vM]")
@output_option
@coordinator_option
@app_option
@pass_settings
@examples("formctl diff v3 v5", "formctl diff v3        against the current release")
def command(settings: Settings, before: str, after: str | None, output: str) -> None:
    """Show what differs between two releases. Of variables the names, never the values."""
    numbers = release_number(before), release_number(after) if after else 0
    run(_diff(settings, *numbers, output=output))


async def _diff(settings: Settings, before: int, after: int, *, output: str) -> None:
    from formation import wire
    from formation.v1 import control_pb2 as pb
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        app = (await find_app(client, settings, target)).app
        request = pb.DiffReleasesRequest(app=app.name, before=before, after=after or app.release)
        found = await client.read(lambda stub: stub.DiffReleases, request)
    old, new = wire.release_from_pb(found.before), wire.release_from_pb(found.after)
    if output == "json":
        say_json(jsonview.diff(old, new, list(found.changed_env)))
        return
    lines = render.release_changes(old, new, changed_env=list(found.changed_env))
    say(f"v{old.number} -> v{new.number}")
    for line in lines or ["they say the same"]:
        say(f"  {line}")
