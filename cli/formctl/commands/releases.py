"""`formctl releases`: every release of one app, newest first."""

from __future__ import annotations

import click

from formctl import jsonview, render
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


@click.command("releases")
@output_option
@coordinator_option
@app_option
@pass_settings
@examples("formctl releases", "formctl releases --app shop -o json")
def command(settings: Settings, output: str) -> None:
    """List the releases, newest first. Values of the environment are never shown."""
    run(_releases(settings, output))


async def _releases(settings: Settings, output: str) -> None:
    from formation import wire
    from formation.v1 import control_pb2 as pb
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        app = (await find_app(client, settings, target)).app.name
        response = await client.read(
            lambda stub: stub.ListReleases, pb.ListReleasesRequest(app=app)
        )
    found = [wire.release_from_pb(message) for message in response.releases]
    if output == "json":
        say_json([jsonview.release(item, current=response.current) for item in found])
    else:
        say(render.releases(found, current=response.current))
