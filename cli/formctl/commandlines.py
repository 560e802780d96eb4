"""What a release command prints, line by line while somebody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

from formation.discovery import Target
from formctl import following
from formctl.client import Client
from formctl.errors import CommandError
from formctl.loglines import Line
from formctl.tables import printable

# What it wrote last is on its way when it has ended.
_REST_WITHIN_S = 5.0


class CommandLines:
    """`tell` gets `release.7 | text`. Not to see them is no reason not to go on."""

    def __init__(self, target: Target, app: str, tell: Callable[[str], None]) -> None:
        self._target, self._app, self._tell = target, app, tell
        self._feed = following.LogFeed(
            self._write, _in_silence, tail_lines=following.ALL_LINES, started_us=0
        )
        self._run = ""
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def follow(self, run: str) -> None:
        """Those of this run from now on; "": it is over, and what was not shown yet is."""
        await self._stop()
        if run:
            self._run = run
            self._reading = asyncio.create_task(self._read(live=True))
        elif self._run:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REST_WITHIN_S):
                    await self._read(live=False)

    async def _stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None

    async def _read(self, *, live: bool) -> None:
        kind, _, number = self._run.rpartition(".")
        choice = following.Choice(targets=((kind, int(number)),))
        with contextlib.suppress(CommandError):
            async with Client(self._target, notice=_in_silence) as client:
                await following.follow(client, self._feed, app=self._app, choice=choice, live=live)

    def _write(self, lines: list[Line]) -> None:
        for line in lines:
            text = line.text.decode("utf-8", "replace")
            self._tell(f"{self._run} | {printable(text)}")


def _in_silence(_: str) -> None:
    pass
