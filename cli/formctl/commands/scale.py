"""`formctl scale`: changes quantities, or prints them in a form that can be fed back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from formation.person import who
from formation.quantities import QuantityError, parse_changes, show
from formation.requests import QuantityChange
from formctl import jsonview
from formctl.errors import InputError
from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
    if_revision_option,
    is_terminal,
    note,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
    wait_options,
    why_option,
)
from formctl.views import in_order

if TYPE_CHECKING:
    from formation.v1 import control_pb2 as pb
    from formctl.views import AppLine


@click.command("scale")
@click.argument("words", nargs=-1, metavar="[TYPE=N | TYPE+N | TYPE-N]...")
@click.option("--undo", is_flag=True, help="Back to before the last change; again: one more.")
@why_option
@if_revision_option
@wait_options
@output_option
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl scale                      print the formation",
    "formctl scale web=5 worker+1       set one, add to another",
    "formctl scale web=0 --no-wait      do not wait until they have stopped",
    "formctl scale --undo               back to the quantities before the last change",
    "formctl scale -- -odd=2            a type whose name begins with -",
)
def command(
    settings: Settings,
    words: tuple[str, ...],
    undo: bool,
    why: str,
    if_revision: int,
    wait: bool,
    timeout: float,
    output: str,
) -> None:
    """Change how many instances of each type run, and wait until they do.

    Without arguments: print the formation in a form that `formctl scale` takes back.
    """
    if undo and words:
        raise InputError("--undo takes no quantities: it goes back to those before")
    if not words and not undo:
        run(_show(settings, output))
        return
    if output == "json":
        raise InputError("-o json is for reading: formctl scale -o json without quantities")
    try:
        changes = parse_changes(words)
    except QuantityError as error:
        raise InputError.of(error.problems) from None
    from formation.v1 import control_pb2 as pb

    wanted = pb.ScaleRequest(who=who(), why=why, undo=undo, if_revision=if_revision)
    run(_scale(settings, wanted, changes, timeout_s=timeout if wait else None))


async def _show(settings: Settings, output: str) -> None:
    from formctl import renderautomation
    from formctl.appname import find_app
    from formctl.autoscaling import rules
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        line = await find_app(client, settings, target)
        owned = await rules(client, line.app.name)
    if output == "json":
        say_json(jsonview.formation(line.formation(), app=line.app.name))
    elif is_terminal():
        say(renderautomation.formation(line.formation(), owned))
    else:  # as it is taken back
        say(show(line.formation()))
        for rule in owned:
            note(f"formctl: {rule.type} is autoscaled, {rule.bounds}")


async def _scale(
    settings: Settings,
    wanted: pb.ScaleRequest,
    changes: tuple[QuantityChange, ...],
    *,
    timeout_s: float | None,
) -> None:
    from formation import runtime, wire
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
        wanted.app = app
        wanted.changes.extend(wire.quantity_change_to_pb(change) for change in changes)
        started_s = runtime.monotonic_s()
        response = await client.change(lambda stub: stub.Scale, wanted)
        after = in_order(response.after, line.types)
        if before is None or timeout_s is None:
            say(show(after))
            return
        await wait_until(
            client,
            Goal(
                app=app, wanted=_waited_for(after, response, wanted, line), ignored=line.irregular
            ),
            revision=response.revision,
            timeout_s=timeout_s,
            started_s=started_s,
            baseline=before.changed,
        )


def _waited_for(
    after: dict[str, int], response: pb.ScaleResponse, wanted: pb.ScaleRequest, line: AppLine
) -> dict[str, int]:
    """Only the types that were named, or that an undo changed: another may be broken since long
    ago."""
    named = {change.type for change in wanted.changes}
    named |= {name for name in after if response.before[name] != after[name]}
    return {n: q for n, q in after.items() if n in named - line.irregular}
