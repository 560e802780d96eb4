"""`formctl ps`: what runs where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from formctl import jsonview, render
from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
    is_terminal,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
)
from formctl.views import Table

if TYPE_CHECKING:
    from formctl.client import Client

_CLEAR = "\x1b[H\x1b[2J"
# Often enough for countdowns, seldom enough to read.
_REDRAW_S = 1.0
_SETTLE_S = 0.1


@click.command("ps")
@click.option("-w", "--watch", is_flag=True, help="Stay, and show every change.")
@click.option("-A", "--all-apps", is_flag=True, help="The instances of every app.")
@output_option
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl ps                 this directory's app, or the only one",
    "formctl ps --watch         until Ctrl-C",
    "formctl ps -A -o json      everything, for programs",
)
def command(settings: Settings, watch: bool, all_apps: bool, output: str) -> None:
    """List the instances: state, host, port, pid, up since when, restarts, release."""
    run(_ps(settings, watch=watch, all_apps=all_apps, output=output))


async def _ps(settings: Settings, *, watch: bool, all_apps: bool, output: str) -> None:
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        app = "" if all_apps else (await find_app(client, settings, target)).app.name
        table = Table()
        if watch:
            await _watch(client, app, table, output)
            return
        table.apply(await client.instances(app))
        _print(table, app, output)


async def _watch(client: Client, app: str, table: Table, output: str) -> None:
    """One task takes updates in, this one draws: a burst of updates is drawn once."""
    import asyncio

    changed = asyncio.Event()

    async def take() -> None:
        async for update in client.watch(app):
            table.apply(update)
            changed.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(take())
        while True:
            await _changed_or_due(changed, ticking=is_terminal() and output == "text")
            changed.clear()
            _print(table, app, output, clear=is_terminal() and output == "text")
            await asyncio.sleep(_SETTLE_S)


async def _changed_or_due(changed: object, *, ticking: bool) -> None:
    """On a terminal ages and countdowns go on although nothing changed."""
    import asyncio
    import contextlib

    assert isinstance(changed, asyncio.Event)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(changed.wait(), _REDRAW_S if ticking else None)


def _print(table: Table, app: str, output: str, *, clear: bool = False) -> None:
    from formation.runtime import now_ms

    found = table.of_app(app)
    if output == "json":
        say_json([jsonview.instance(item) for item in found])
        return
    reasons = {item.status.reason for item in found if not item.is_placed}
    # The note may be one of the reasons, and those are in the table.
    news = table.note and reasons and table.note not in reasons
    note = f"\n{render.printable(table.note)}" if news else ""
    text = render.instances(found, now_ms=now_ms(), with_app=not app) + note
    say(_CLEAR + text if clear else text)
