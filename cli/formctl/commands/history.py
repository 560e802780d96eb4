"""`formctl history`: who did what, to what, from which value to which, and why."""

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

_LIMIT_MAX = 10_000


@click.command("history")
@click.argument("subject", required=False, metavar="[APP | HOST]")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, _LIMIT_MAX),
    default=50,
    show_default=True,
    metavar="N",
    help="The newest N.",
)
@output_option
@coordinator_option
@pass_settings
@examples(
    "formctl history                 everything, newest first",
    "formctl history shop            what was done to one app, or host",
    "formctl history -n 500 -o json",
)
def command(settings: Settings, subject: str | None, limit: int, output: str) -> None:
    """Show who changed what, newest first; what the leader decided by itself too."""
    run(_history(settings, subject or "", limit, output))


async def _history(settings: Settings, subject: str, limit: int, output: str) -> None:
    from formation import wire
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        request = pb.ListAuditRequest(limit=limit, subject=subject)
        response = await client.read(lambda stub: stub.ListAudit, request)
    found = [wire.audit_from_pb(record) for record in response.records]
    if output == "json":
        say_json([jsonview.audit(record) for record in found])
    else:
        say(render.history(found))
