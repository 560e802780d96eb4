"""`formctl ps`: what runs where."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import click

from formation.seen import Usage
from formctl import render
from formctl.errors import UnreachableError
from formctl.settings import (
    Settings,
    app_option,
    colour_option,
    coordinator_option,
    examples,
    is_terminal,
    note,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
    terminal_width,
)
from formctl.tables import printable
from formctl.views import Instance, Table, Update

if TYPE_CHECKING:
    from formation.discovery import Target
    from formctl import jsonview
    from formctl.client import Client

# Often enough for countdowns, seldom enough to read.
_REDRAW_S = 1.0
_SETTLE_S = 0.1
_USAGE_S = 2.0
_CHANGES_MAX = 10


@click.command("ps")
@click.option("-w", "--watch", is_flag=True, help="Stay, and show every change.")
@click.option("-A", "--all-apps", is_flag=True, help="The instances of every app.")
@click.option("-u", "--usage", is_flag=True, help="What they use: cpu, memory, processes, files.")
@colour_option
@output_option
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl ps                 this directory's app, or the only one",
    "formctl ps --watch         until Ctrl-C",
    "formctl ps --usage         cpu, memory, processes, files and log rate",
    "formctl ps -A -o json      everything, for programs",
)
def command(settings: Settings, watch: bool, all_apps: bool, usage: bool, output: str) -> None:
    """List the instances: state, host, port, pid, up since when, restarts, release."""
    colour = settings.colour()
    screen = _Screen(output, with_app=all_apps, colour=colour)
    run(_ps(settings, screen, watch=watch, usage=usage))


@dataclass(slots=True)
class _Screen:
    """What is shown, and how. `usage` None: not asked for."""

    output: str
    with_app: bool
    colour: bool
    app: str = ""
    table: Table = field(default_factory=Table)
    usage: Mapping[str, Usage] | None = None
    changed: deque[str] = field(default_factory=lambda: deque(maxlen=_CHANGES_MAX))

    @property
    def redraws(self) -> bool:
        return self.output == "text" and is_terminal()

    def take(self, update: Update) -> None:
        """Remembers what changed, for those who look on."""
        from formation.runtime import now_ms
        from formctl.watchframe import changes

        before = dict(self.table.instances) if self.redraws else {}
        gone = self.table.apply(update)
        at = datetime.now().astimezone().strftime("%H:%M:%S")
        found = changes(before, update, gone, now_ms=now_ms())
        self.changed.extend(f"{at} {line}" for line in found)

    def print(self, *, stays: bool = False) -> None:
        from formation.runtime import now_ms

        found = self.table.of_app(self.app)
        if self.output == "json":
            say_json([self._json(item) for item in found])
            return
        text = render.instances(
            found,
            now_ms=now_ms(),
            with_app=self.with_app,
            usage=self.usage,
            width=terminal_width(),
            colour=self.colour,
        )
        text += self._news(found)
        if stays:
            self._draw(text)
        else:
            say(text)

    def _draw(self, text: str) -> None:
        import shutil

        from formctl.watchframe import frame

        columns, rows = shutil.get_terminal_size()
        sys.stdout.write(frame(text, list(self.changed), columns=columns, rows=rows))
        sys.stdout.flush()

    def _json(self, item: Instance) -> jsonview.Json:
        from formctl import jsonview

        if self.usage is None:
            return jsonview.instance(item)
        return {**jsonview.instance(item), "usage": jsonview.usage(self.usage.get(item.uid))}

    def _news(self, found: list[Instance]) -> str:
        """The leader's sentence; it may be one of the reasons, and those are in the table."""
        note, reasons = self.table.note, {i.status.reason for i in found if not i.is_placed}
        wanted = self.table.standstill or (reasons and note not in reasons)
        return f"\n{printable(note)}" if note and wanted else ""


async def _ps(settings: Settings, screen: _Screen, *, watch: bool, usage: bool) -> None:
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    # In a frame that is drawn again there is a place for what would be written over it.
    notice = screen.changed.append if watch and screen.redraws else note
    async with Client(target, notice=notice) as client:
        if not screen.with_app:
            screen.app = (await find_app(client, settings, target)).app.name
        if usage:
            await _ask_usage(client, screen)
        if watch:
            await _watch(client, target, screen)
            return
        screen.table.apply(await client.instances(screen.app))
        screen.print()


async def _ask_usage(client: Client, screen: _Screen) -> None:
    report = await client.usage(screen.app)
    screen.usage = report.of_uid
    if not screen.redraws:
        for notice in report.notices:
            note(f"formctl: {notice}")


async def _refresh_usage(target: Target, screen: _Screen) -> None:
    """With a client of its own, so that the watching one reconnects by itself."""
    from formctl.client import Client

    try:
        async with Client(target) as client:
            await _ask_usage(client, screen)
    except UnreachableError:
        screen.usage = {}  # the watching tells that the coordinator has gone


async def _watch(client: Client, target: Target, screen: _Screen) -> None:
    """Tasks take updates and figures in, this one draws: a burst of updates is drawn once."""
    import asyncio

    changed = asyncio.Event()

    async def take() -> None:
        async for update in client.watch(screen.app):
            screen.take(update)
            changed.set()

    async def ask() -> None:
        while True:
            await asyncio.sleep(_USAGE_S)
            await _refresh_usage(target, screen)
            changed.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(take())
        if screen.usage is not None:
            group.create_task(ask())
        while True:
            await _changed_or_due(changed, ticking=screen.redraws)
            changed.clear()
            screen.print(stays=screen.redraws)
            await asyncio.sleep(_SETTLE_S)


async def _changed_or_due(changed: object, *, ticking: bool) -> None:
    """On a terminal ages and countdowns go on although nothing changed."""
    import asyncio
    import contextlib

    assert isinstance(changed, asyncio.Event)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_REDRAW_S if ticking else None):
            await changed.wait()
