"""Waits until a change has arrived, printing lines as instances come and go. The I/O around
`watching`: a stream in, lines out, a deadline, and Ctrl-C that leaves the change in place.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from formation import runtime
from formctl.client import Client
from formctl.errors import CommandError
from formctl.settings import note, say
from formctl.views import Instance
from formctl.watching import Goal, Progress


async def wait_until(
    client: Client,
    goal: Goal,
    *,
    revision: int,
    timeout_s: float,
    started_s: float,
    baseline: Iterable[Instance] = (),
    every_app: bool = False,
) -> None:
    """`every_app`: watch without naming the app, since it may be gone already."""
    progress = Progress(goal, started_s=started_s, baseline=baseline)
    try:
        async with asyncio.timeout(timeout_s):
            await _follow(client, progress, "" if every_app else goal.app, revision)
    except asyncio.CancelledError:
        note("interrupted: the change itself stays, only the waiting has ended")
        raise
    except TimeoutError:
        missing = progress.missing(now_ms=runtime.now_ms())
        reached = f"not done after {timeout_s:g} s; the change stays and may still arrive:"
        raise CommandError("\n  ".join([reached, *missing])) from None
    say(progress.summary(now_s=runtime.monotonic_s()))


async def _follow(client: Client, progress: Progress, app: str, revision: int) -> None:
    async with contextlib.aclosing(client.watch(app, revision)) as updates:
        async for update in updates:
            now_s, now_ms = runtime.monotonic_s(), runtime.now_ms()
            for line in progress.feed(update, now_s=now_s, now_ms=now_ms):
                say(line)
            if progress.is_done:
                return
