"""`formctl scale`: changes quantities, or prints them in a form that can be fed back."""

from __future__ import annotations

import click

from formation.model import QuantityChange
from formation.quantities import QuantityError, parse_changes, show
from formctl import jsonview
from formctl.errors import InputError
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
    wait_options,
    who,
)
from formctl.views import in_order


@click.command("scale")
@click.argument("words", nargs=-1, metavar="[TYPE=N | TYPE+N | TYPE-N]...")
@wait_options
@output_option
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl scale                      print the formation",
    "formctl scale web=5 worker+1       set one, add to another",
    "formctl scale web=0 --no-wait      do not wait until they have stopped",
    "formctl scale -- -odd=2            a type whose name begins with -",
)
def command(
    settings: Settings, words: tuple[str, ...], wait: bool, timeout: float, output: str
) -> None:
    """Change how many instances of each type run, and wait until they do.

    Without arguments: print the formation in a form that `formctl scale` takes back.
    """
    if not words:
        run(_show(settings, output))
        return
    if output == "json":
        raise InputError("-o json is for reading: formctl scale -o json without quantities")
    try:
        changes = parse_changes(words)
    except QuantityError as error:
        raise InputError.of(error.problems) from None
    run(_scale(settings, changes, timeout_s=timeout if wait else None))


async def _show(settings: Settings, output: str) -> None:
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        line = await find_app(client, settings, target)
    if output == "json":
        say_json(jsonview.formation(line.formation(), app=line.app.name))
    else:
        say(show(line.formation()))


async def _scale(
    settings: Settings, changes: tuple[QuantityChange, ...], *, timeout_s: float | None
) -> None:
    from formation import runtime, wire
    from formation.v1 import control_pb2 as pb
    from formctl.appname import find_app
    from formctl.client import Client
    from formctl.waiting import wait_until
    from formctl.watching import Goal

    target = settings.target()
    async with Client(target) as client:
        line = await find_app(client, settings, target)
        app = line.app.name
        # Known before, so that what is healthy already is not reported as news.
        before = await client.instances(app) if timeout_s is not None else None
        words = [wire.quantity_change_to_pb(change) for change in changes]
        started_s = runtime.monotonic_s()
        response = await client.change(
            lambda stub: stub.Scale, pb.ScaleRequest(app=app, changes=words, who=who())
        )
        after = in_order(response.after, line.types)
        if before is None or timeout_s is None:
            say(show(after))
            return
        await wait_until(
            client,
            Goal(app=app, wanted=_named(after, changes)),
            revision=response.revision,
            timeout_s=timeout_s,
            started_s=started_s,
            baseline=before.changed,
        )


def _named(after: dict[str, int], changes: tuple[QuantityChange, ...]) -> dict[str, int]:
    """Only the types that were named are waited for: another may be broken since long ago."""
    named = {change.type for change in changes}
    return {name: quantity for name, quantity in after.items() if name in named}
