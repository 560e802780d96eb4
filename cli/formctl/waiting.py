"""Waits until a change has arrived, printing lines as instances come and go. The I/O around
`watching`: a stream in, lines out, a deadline, and Ctrl-C that leaves the change in place.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from formation import runtime
from formctl import details, liveline
from formctl.client import Client
from formctl.commandlines import CommandLines
from formctl.errors import CommandError
from formctl.following import last_lines
from formctl.settings import note, say
from formctl.views import Instance
from formctl.watching import Goal, Progress

# By whether a retry was asked for.
_FAILED = {
    False: "not done; what has failed is not started again by itself, but by formctl retry:",
    True: "the retry has failed:",
}
# Of each instance whose output is shown when the waiting was in vain.
_LOG_LINES = 20
_LOGS_MAX = 3


async def wait_until(
    client: Client,
    goal: Goal,
    *,
    revision: int,
    timeout_s: float,
    started_s: float,
    baseline: Iterable[Instance] = (),
    every_app: bool = False,
    tell: Callable[[str], None] = say,
) -> None:
    """`every_app`: watch without naming the app, since it may be gone already. CommandError when
    it does not arrive, with what is missing and the last output of what fails. A release command
    has its own time: `timeout_s` begins after it."""
    progress = Progress(goal, started_s=started_s, baseline=baseline)
    app = "" if every_app else goal.app
    try:
        async with (
            liveline.live(progress.step),
            CommandLines(client.target, goal.app, tell) as lines,
            asyncio.timeout(timeout_s) as patience,
        ):
            await _follow(client, progress, app, revision, tell, _Turns(lines, patience, timeout_s))
    except asyncio.CancelledError:
        note("interrupted: the change itself stays, only the waiting has ended")
        raise
    except TimeoutError:
        reached = f"not done after {timeout_s:g} s; the change stays and may still arrive:"
        raise CommandError(await _in_vain(client, progress, reached)) from None
    if progress.undone:
        raise CommandError(await _in_vain(client, progress, progress.undone))
    if progress.held and not progress.is_done:
        tell(progress.held)
        return
    if not progress.is_done:
        raise CommandError(await _in_vain(client, progress, _FAILED[bool(goal.tried)]))
    tell(progress.summary(now_s=runtime.monotonic_s()))


class _Turns:
    """While a release command runs its lines are shown, and nobody loses patience."""

    def __init__(self, lines: CommandLines, patience: asyncio.Timeout, timeout_s: float) -> None:
        self._lines, self._patience, self._timeout_s = lines, patience, timeout_s
        self._command = ""

    async def to(self, command: str) -> None:
        if command == self._command:
            return
        self._command = command
        self._patience.reschedule(None)
        await self._lines.follow(command)
        if not command:
            self._patience.reschedule(asyncio.get_running_loop().time() + self._timeout_s)


async def _follow(
    client: Client,
    progress: Progress,
    app: str,
    revision: int,
    tell: Callable[[str], None],
    turns: _Turns,
) -> None:
    async with contextlib.aclosing(client.watch(app, revision)) as updates:
        async for update in updates:
            now_s, now_ms = runtime.monotonic_s(), runtime.now_ms()
            for line in progress.feed(update, now_s=now_s, now_ms=now_ms):
                tell(line)
            await turns.to(progress.command)
            over = progress.is_done or progress.has_failed
            if over or progress.undone or progress.held:
                return


async def _in_vain(client: Client, progress: Progress, reached: str) -> str:
    """What is missing, and how the output of what fails ends."""
    lines = [reached, *progress.missing(now_ms=runtime.now_ms())]
    for instance in progress.failing()[:_LOGS_MAX]:
        lines += await _last_lines(client, instance)
    return "\n  ".join(lines)


async def _last_lines(client: Client, instance: Instance) -> list[str]:
    name = instance.slot.short
    try:
        found = await last_lines(client, instance.slot, _LOG_LINES)
    except CommandError:
        return []  # what is missing matters more than why this cannot be shown
    if not found:
        return [f"{name} has printed nothing"]
    return [f"the last output of {name}:", *(f"  {line}" for line in details.log_lines(found))]
