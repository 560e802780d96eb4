"""`formctl show`: everything about one instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from formctl import details, jsonview
from formctl.errors import CommandError, InputError
from formctl.settings import (
    Settings,
    app_option,
    colour_option,
    coordinator_option,
    examples,
    note,
    output_option,
    parse_instance,
    pass_settings,
    run,
    say,
    say_json,
    terminal_width,
)

if TYPE_CHECKING:
    from formation.model import ProcessType, Usage
    from formctl.client import Client
    from formctl.views import AppLine, Instance

_LINES_MAX = 10_000


@click.command("show")
@click.argument("instance", metavar="TYPE.N")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0, _LINES_MAX),
    default=20,
    show_default=True,
    metavar="N",
    help="The last lines of its log.",
)
@colour_option
@output_option
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl show web.3                 its state and why, its settings, usage and last output",
    "formctl show web.3 --lines 0 -o json",
)
def command(settings: Settings, instance: str, lines: int, output: str) -> None:
    """Show one instance: state and reason, tries, host, settings, usage, its last lines."""
    type_name, ordinal = parse_instance(instance)
    colour = settings.colour()
    run(_show(settings, type_name, ordinal, lines=lines, colour=colour, output=output))


async def _show(
    settings: Settings, type_name: str, ordinal: int, *, lines: int, colour: bool, output: str
) -> None:
    from formation.runtime import now_ms
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        line = await find_app(client, settings, target)
        stays = [
            item
            for item in (await client.instances(line.app.name)).changed
            if (item.slot.type, item.slot.ordinal) == (type_name, ordinal)
        ]
        if not stays:
            raise InputError(_unknown(line, type_name, ordinal))
        # The wanted one first, and after it what still ends in its place.
        stays.sort(key=lambda item: item.surplus)
        found = [await _details(client, item, lines if item is stays[0] else 0) for item in stays]
    if output == "json":
        say_json(jsonview.details(found[0]))
        return
    for item in found:
        say(details.instance(item, now_ms=now_ms(), colour=colour, width=terminal_width()))
    _say_lines(found[0], lines, colour=colour)


def _say_lines(found: details.Details, lines: int, *, colour: bool) -> None:
    if not lines:
        return
    shown = details.log_lines(found.lines, colour=colour)
    say(f"  {_heading(len(shown))}")
    for line in shown:
        say(f"    {line}")


def _heading(lines: int) -> str:
    if not lines:
        return "no output is kept"
    return "its last line:" if lines == 1 else f"its last {lines} lines:"


def _unknown(line: AppLine, type_name: str, ordinal: int) -> str:
    from formation.quantities import show
    from formctl.appname import no_type

    formation = line.formation()
    if type_name not in formation:
        return no_type(type_name, formation)
    return f"there is no {type_name}.{ordinal} in {show(formation)}"


async def _details(client: Client, item: Instance, lines: int) -> details.Details:
    from formctl.following import last_lines

    found = await last_lines(client, item.slot, lines) if lines else []
    return details.Details(
        instance=item,
        spec=await _spec(client, item),
        usage=await _usage(client, item),
        lines=tuple(found),
    )


async def _spec(client: Client, item: Instance) -> ProcessType | None:
    releases = await client.releases(item.slot.app)
    release = next((r for r in releases if r.number == item.status.release), None)
    return release.type_named(item.slot.type) if release else None


async def _usage(client: Client, item: Instance) -> Usage | None:
    if not item.status.pid:
        return None
    try:
        return (await client.usage(item.slot.app)).of_uid.get(item.uid)
    except CommandError as error:
        note(f"formctl: its usage is not known: {error}")
        return None
