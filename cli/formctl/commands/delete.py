"""`formctl delete`: an app goes, with everything that runs of it."""

from __future__ import annotations

import sys

import click

from formation.person import who
from formctl.errors import CommandError, InputError
from formctl.settings import (
    Settings,
    coordinator_option,
    examples,
    pass_settings,
    run,
    say,
    wait_options,
)


@click.command("delete")
@click.argument("app")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@wait_options
@coordinator_option
@pass_settings
@examples("formctl delete shop", "formctl delete shop --yes --no-wait")
def command(settings: Settings, app: str, yes: bool, wait: bool, timeout: float) -> None:
    """Delete an app: its instances stop, its releases are forgotten. Asks first."""
    if not yes:
        run(_check(settings, app))
        if not sys.stdin.isatty():
            raise InputError(f"nobody to ask here; formctl delete {app} --yes deletes at once")
        if not click.confirm(f"Delete {app}, stop all of its instances, forget its releases?"):
            raise CommandError(f"{app} was not deleted")
    run(_delete(settings, app, timeout_s=timeout if wait else None))


async def _check(settings: Settings, app: str) -> None:
    """Nobody should have to answer for an app that does not exist."""
    from formctl.appname import known_app
    from formctl.client import Client

    async with Client(settings.target()) as client:
        await known_app(client, app)


async def _delete(settings: Settings, app: str, *, timeout_s: float | None) -> None:
    from formation import runtime
    from formation.v1 import control_pb2 as pb
    from formctl.appname import known_app
    from formctl.client import Client
    from formctl.waiting import wait_until
    from formctl.watching import Goal

    async with Client(settings.target()) as client:
        await known_app(client, app)
        before = await client.instances("")
        started_s = runtime.monotonic_s()
        request = pb.DeleteAppRequest(app=app, who=who())
        response = await client.change(lambda stub: stub.DeleteApp, request)
        say(f"{app} deleted")
        if timeout_s is None:
            return
        await wait_until(
            client,
            Goal(app=app, wanted={}, whole=True),
            revision=response.revision,
            timeout_s=timeout_s,
            started_s=started_s,
            baseline=before.changed,
            every_app=True,
        )
