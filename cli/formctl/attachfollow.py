"""Follows one process of an instance: its output as it comes, and how it ended."""

from __future__ import annotations

import asyncio
import sys

from formation import runtime
from formation.model import Slot
from formctl import following, wording
from formctl.appname import find_app
from formctl.attaching import End, Watched, chosen, end_in
from formctl.client import Client
from formctl.errors import CommandError, InputError
from formctl.loglines import Line, escaped
from formctl.settings import Settings, is_terminal, note, wants_colour

# Its last lines may come after the news that it has ended.
_QUIET_S, _LAST_LINES_S = 0.5, 3.0


async def attach(settings: Settings, type_name: str, ordinal: int) -> int:
    target = settings.target()
    async with Client(target) as client, Client(target) as other:
        app = (await find_app(client, settings, target)).app.name
        slot = Slot(app, type_name, ordinal)
        found = chosen((await client.instances(app)).changed, slot)
        if found == "":
            raise InputError(f"there is no {slot.short}: see formctl ps")
        if isinstance(found, str):
            raise CommandError(found)
        output = _Output(settings)
        printing = asyncio.create_task(_print(other, slot, output))
        try:
            end = await _until_end(client, app, found, printing)
            await output.quiet(before_us=end.successor_us)
        finally:
            printing.cancel()
            await asyncio.gather(printing, return_exceptions=True)
    if not end.last_exit:
        raise CommandError(f"how {slot.short} ended is not known: {end.reason}")
    note(f"formctl: {slot.short} {wording.ended(end.last_exit)}")
    return wording.exit_code(end.last_exit)


async def _until_end(
    client: Client, app: str, watched: Watched, printing: asyncio.Task[None]
) -> End:
    watching = asyncio.create_task(_watch(client, app, watched))
    try:
        await asyncio.wait({watching, printing}, return_when=asyncio.FIRST_COMPLETED)
        if printing.done() and not watching.done():
            await printing  # why it could not go on
        return await watching
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(client: Client, app: str, watched: Watched) -> End:
    async for update in client.watch(app):
        end = end_in(update, watched)
        if end is not None:
            return end
    raise CommandError("the coordinator does not tell any more how it goes on")


async def _print(client: Client, slot: Slot, output: _Output) -> None:
    started_us = runtime.now_ms() * 1000

    class Feed(following.LogFeed):
        def end_history(self) -> None:
            if not self.is_live and not output.is_on:
                output.is_on = True
                note(f"formctl: following {slot.short}; Ctrl-C leaves it running")
            super().end_history()

    feed = Feed(output.write, note, tail_lines=0, started_us=started_us)
    choice = following.Choice(targets=((slot.type, slot.ordinal),))
    await following.follow(client, feed, app=slot.app, choice=choice, live=True)


class _Output:
    """Bytes as they are into a pipe; on a terminal nothing is obeyed but colours."""

    def __init__(self, settings: Settings) -> None:
        self._terminal = is_terminal()
        environ = settings.environ
        self._colour = wants_colour("auto", terminal=self._terminal, environ=environ)
        self._heard_s = 0.0
        self._before_us = 0
        self.is_on = False

    def write(self, lines: list[Line]) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        for line in lines:
            if 0 < self._before_us <= line.at_us:
                continue
            stream = sys.stderr.buffer if line.stderr else sys.stdout.buffer
            text = escaped(line.text, colour=self._colour) if self._terminal else line.text
            stream.write(text + (b"" if line.partial else b"\n"))
            stream.flush()

    async def quiet(self, *, before_us: int) -> None:
        """Until nothing came for a moment, but not for long. `before_us`: what was written from
        then on is another process's; 0: nothing is."""
        self._before_us = before_us
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while True:
            now_s = loop.time()
            quiet_s = now_s - max(began_s, self._heard_s)
            if quiet_s >= _QUIET_S or now_s - began_s >= _LAST_LINES_S:
                return
            await asyncio.sleep(_QUIET_S - quiet_s)
