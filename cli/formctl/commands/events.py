"""`formctl events`: what happens, as it happens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from formctl import jsonview, renderevents
from formctl.settings import (
    Settings,
    app_option,
    colour_option,
    coordinator_option,
    examples,
    note,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
)

if TYPE_CHECKING:
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client, Stream

_TAIL_MAX = 10_000


@click.command("events")
@click.option("-f", "--follow", is_flag=True, help="Stay, and show what comes.")
@click.option(
    "-n", "--tail", type=click.IntRange(0, _TAIL_MAX), default=50, show_default=True, metavar="N",
    help="The last so many.",
)  # fmt: skip
@click.option("--host", default="", metavar="HOST", help="Only of this host.")
@click.option("--what", default="", metavar="WORD", help="Only such as host or instance.backoff.")
@colour_option
@output_option
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl events                      the last 50 of everything",
    "formctl events -f --app shop        one app, as it happens",
    "formctl events -f --what host       hosts that come, go and fall silent",
    "formctl events -f -o json | jq .what",
)
def command(settings: Settings, follow: bool, tail: int, host: str, what: str, output: str) -> None:
    """Show what happens: instances, hosts, apps, runs, and who leads.

    A coordinator keeps the last 10,000 that it has seen since it started; who changed what stays
    known for longer in formctl history.
    """
    colour = settings.colour()
    run(_events(settings, tail, follow, host=host, what=what, output=output, colour=colour))


async def _events(
    settings: Settings,
    tail: int,
    follow: bool,
    *,
    host: str,
    what: str,
    output: str,
    colour: bool,
) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        asked = pb.WatchEventsRequest(app=settings.named_app(), host=host, follow=follow)
        async with aclosing(_responses(client, asked, tail)) as responses:
            async for response in responses:
                if response.missed:
                    note(f"formctl: {response.missed} events are missing here: too many at once")
                for event in response.events:
                    if not renderevents.is_about(event.what, what):
                        continue
                    if output == "json":
                        say_json(jsonview.event(event))
                    else:
                        say(renderevents.line(event, colour=colour))


async def _responses(
    client: Client, asked: pb.WatchEventsRequest, tail: int
) -> AsyncGenerator[pb.EventsResponse, None]:
    """What a coordinator that takes over has seen before is not told again."""
    from formation.v1 import control_pb2 as pb

    first = True

    def opened() -> Stream[pb.EventsResponse]:
        nonlocal first
        asked.tail, first = tail if first else 0, False
        request = pb.WatchEventsRequest()
        request.CopyFrom(asked)
        return client.stub.WatchEvents(request)

    async with aclosing(client.stream(opened, endless=asked.follow)) as responses:
        async for response in responses:
            yield response
