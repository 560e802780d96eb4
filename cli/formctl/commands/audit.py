"""`formctl audit`: who did what."""

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


@click.command("audit")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, _LIMIT_MAX),
    default=50,
    show_default=True,
    help="The newest N.",
)
@output_option
@coordinator_option
@pass_settings
@examples("formctl audit", "formctl audit -n 500 -o json")
def command(settings: Settings, limit: int, output: str) -> None:
    """Show who changed what, newest first."""
    run(_audit(settings, limit, output))


async def _audit(settings: Settings, limit: int, output: str) -> None:
    from formation import wire
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        response = await client.read(lambda stub: stub.ListAudit, pb.ListAuditRequest(limit=limit))
    found = [wire.audit_from_pb(record) for record in response.records]
    if output == "json":
        say_json([jsonview.audit(record) for record in found])
    else:
        say(render.audit(found))
