"""`formctl drain`: what a host runs goes elsewhere first, then there is nothing left on it."""

from __future__ import annotations

import click

from formation.manifest_values import duration_s
from formation.person import who
from formctl.errors import InputError
from formctl.settings import (
    Settings,
    coordinator_option,
    examples,
    if_revision_option,
    pass_settings,
    run,
    wait_options,
    why_option,
)


@click.command("drain")
@click.argument("host")
@click.option("--deadline", metavar="TIME", help="Then the rest is stopped: 90s, 10min, 2h.")
@why_option
@if_revision_option
@wait_options
@coordinator_option
@pass_settings
@examples(
    "formctl drain old-box --deadline 10min",
    "formctl plan drain old-box          see first what would go where",
    "formctl uncordon old-box            takes it back",
)
def command(
    settings: Settings,
    host: str,
    deadline: str | None,
    why: str,
    if_revision: int,
    wait: bool,
    timeout: float,
) -> None:
    """Move everything off a host, and wait until it is empty.

    Each instance is started elsewhere and must work there before the old one stops; the host takes
    nothing new until uncordon.
    """
    deadline_s = _seconds(deadline) if deadline else 0.0
    from formation.v1 import control_pb2 as pb

    request = pb.SetHostRequest(
        host=host,
        draining=True,
        drain_deadline_s=deadline_s,
        who=who(),
        why=why,
        if_revision=if_revision,
    )
    run(_drain(settings, request, timeout if wait else None))


def _seconds(text: str) -> float:
    number = float(text) if text.replace(".", "", 1).isdigit() else text
    seconds = duration_s(number)
    if seconds is None or seconds <= 0:
        raise InputError(f"--deadline: {text!r} is no time: write 90s, 10min or 2h")
    return seconds


async def _drain(settings: Settings, request: object, timeout_s: float | None) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client
    from formctl.leaving import wait_until_empty
    from formctl.settings import say

    assert isinstance(request, pb.SetHostRequest)
    async with Client(settings.target()) as client:
        response = await client.change(lambda stub: stub.SetHost, request)
        say(f"{request.host} is being drained")
        if timeout_s is not None:
            await wait_until_empty(client, request.host, response.revision, timeout_s)
