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
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        app = (await find_app(client, settings, target)).app
        found = await client.releases(app.name)
    if output == "json":
        say_json([jsonview.release(item, app=app) for item in found])
    else:
        say(render.releases(found, app=app))
