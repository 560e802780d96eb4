"""`formctl hosts`: the machines, and `hosts forget` for one that will not come back."""

from __future__ import annotations

import click

from formctl import jsonview, render
from formctl.errors import InputError
from formctl.settings import (
    Settings,
    coordinator_option,
    examples,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
    who,
)


@click.group("hosts", invoke_without_command=True)
@output_option
@coordinator_option
@click.pass_context
@examples("formctl hosts", "formctl hosts -o json", "formctl hosts forget old-box")
def command(ctx: click.Context, output: str) -> None:
    """List the hosts: state, healthy of assigned instances, size, address, labels."""
    if ctx.invoked_subcommand is None:
        run(_hosts(ctx.ensure_object(Settings), output))
    elif output == "json":
        raise InputError(f"-o json is for reading, not for hosts {ctx.invoked_subcommand}")


@command.command("forget")
@click.argument("host")
@coordinator_option
@pass_settings
@examples("formctl hosts forget old-box")
def forget(settings: Settings, host: str) -> None:
    """Remove a host that will not come back. One that is connected is refused."""
    run(_forget(settings, host))


async def _hosts(settings: Settings, output: str) -> None:
    from formctl.client import Client

    async with Client(settings.target()) as client:
        found = await client.hosts()
    if output == "json":
        say_json([jsonview.host(line) for line in found])
    else:
        say(render.hosts(found))


async def _forget(settings: Settings, host: str) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        await client.change(
            lambda stub: stub.ForgetHost, pb.ForgetHostRequest(host=host, who=who())
        )
    say(f"{host} forgotten; an agent that comes back under this name joins as a new host")
