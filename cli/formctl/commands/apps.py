"""`formctl apps`: every app with its release and formation."""

from __future__ import annotations

import click

from formctl import jsonview, render
from formctl.settings import (
    Settings,
    coordinator_option,
    examples,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
)


@click.command("apps")
@output_option
@coordinator_option
@pass_settings
@examples("formctl apps", "formctl apps -o json")
def command(settings: Settings, output: str) -> None:
    """List the apps: release, healthy of wanted instances, formation."""
    run(_apps(settings, output))


async def _apps(settings: Settings, output: str) -> None:
    from formctl.client import Client

    async with Client(settings.target()) as client:
        found = await client.apps()
    if output == "json":
        say_json([jsonview.app(line) for line in found])
    else:
        say(render.apps(found))
