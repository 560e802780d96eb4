"""`formctl hosts`: the machines, and `hosts forget` for one that will not come back."""

from __future__ import annotations

import click

from formctl import jsonview, render
from formctl.errors import InputError
from formctl.settings import (
    Settings,
    coordinator_option,
    examples,
    note,
    pass_settings,
    run,
    say,
    say_json,
    terminal_width,
    who,
)
from formctl.tables import hanging


@click.group("hosts", invoke_without_command=True)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "wide", "json"]),
    default="text",
    show_default=True,
    help="wide has more columns; json has stable keys, see docs/cli.md.",
)
@coordinator_option
@click.pass_context
@examples(
    "formctl hosts",
    "formctl hosts -o wide         also limits, versions, and who holds the connection",
    "formctl hosts -o json",
    "formctl hosts forget old-box",
)
def command(ctx: click.Context, output: str) -> None:
    """List the hosts: state, healthy of assigned instances, size, what they enforce, labels.

    ENFORCES is what a type may ask of the host: limits of cpu, memory and pids, and to run as
    another user. Below the table stands why a host cannot do all of it.
    """
    if ctx.invoked_subcommand is None:
        run(_hosts(ctx.ensure_object(Settings), output))
    elif output != "text":
        raise InputError(f"-o {output} is for reading, not for hosts {ctx.invoked_subcommand}")


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
        width = terminal_width()
        say(render.hosts(found, wide=output == "wide", width=width))
        for line in render.inabilities(found):
            note(hanging("", line, width))


async def _forget(settings: Settings, host: str) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        await client.change(
            lambda stub: stub.ForgetHost, pb.ForgetHostRequest(host=host, who=who())
        )
    say(f"{host} forgotten; an agent that comes back under this name joins as a new host")
