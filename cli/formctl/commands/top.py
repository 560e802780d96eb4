"""`formctl top`: the whole cluster, live, in a terminal."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from formctl.errors import InputError
from formctl.settings import (
    Settings,
    app_option,
    colour_option,
    coordinator_option,
    examples,
    is_terminal,
    pass_settings,
    run,
    say,
)
from formctl.tables import table
from formctl.top.columns import COLUMNS, cells, numbered
from formctl.top.keys import sorted_by
from formctl.top.look import Look, app_of, listing
from formctl.top.seen import Seen, View

if TYPE_CHECKING:
    from formctl.client import Client


@click.command("top")
@click.option(
    "--view",
    type=click.Choice([view.value for view in View]),
    default=View.INSTANCES.value,
    show_default=True,
    help="What to begin with.",
)
@click.option("--sort", metavar="COLUMN", help="Such as cpu, memory, up: the largest first.")
@click.option("--filter", "words", default="", metavar="TEXT", help="As typed after /.")
@colour_option
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl top                                   everything, live; ? helps, q quits",
    "formctl top --sort cpu                        what computes most",
    "formctl top --filter 'state:backoff host:a'   what crashes on one host",
    "formctl top --view hosts | cat                as it is now, as plain text",
)
def command(settings: Settings, view: str, sort: str | None, words: str) -> int:
    """Watch all instances, hosts, apps and events; sort, filter, tail, restart and scale.

    Where there is no terminal it prints what there is now, once.
    """
    look = _look(View(view), sort, words, settings.named_app())
    interactive = (
        is_terminal() and sys.stdin.isatty() and settings.environ.get("TERM", "dumb") != "dumb"
    )
    colour = settings.colour()
    return run(_top(settings, look, interactive=interactive, colour=colour))


def _look(view: View, sort: str | None, words: str, app: str) -> Look:
    look = Look(view=view)
    if sort:
        column = numbered(view, sort)
        if column is None:
            known = ", ".join(column.title.lower() for column in COLUMNS[view])
            raise InputError(f"--sort: {view} have no column {sort!r}: there is {known}")
        look = sorted_by(look, column)
    every = " ".join(filter(None, (f"app:{app}" if app else "", words)))
    return look.with_tab(replace(look.tab, filter=every))


async def _top(settings: Settings, look: Look, *, interactive: bool, colour: bool) -> int:
    from formctl.client import Client

    target, seen = settings.target(), Seen()
    async with Client(target) as client:
        if not interactive:
            await _snapshot(client, seen, look)
            return 0
        from formctl.top.program import Program

        return await Program(target, seen, look, colour=colour).run(client)


async def _snapshot(client: Client, seen: Seen, look: Look) -> None:
    from formation.runtime import now_ms
    from formctl.top.feeding import whole_picture

    await whole_picture(client, seen, app_of(look))
    shown = listing(look, seen)
    header = [column.title for column in COLUMNS[look.view]]
    rows = [cells(look.view, item, seen, now_ms()) for item in shown.items]
    say(seen.headline())
    say(table(header, rows))
