"""Waits until a host is empty, with a line for each instance that has left it."""

from __future__ import annotations

import asyncio
import contextlib

from formation import runtime
from formation.model import InstanceState
from formctl import liveline, wording
from formctl.client import Client
from formctl.errors import CommandError
from formctl.progress import Step, named
from formctl.settings import note, say
from formctl.views import Instance, Table

_OVER = (InstanceState.FINISHED, InstanceState.FAILED)
_LINES_MAX = 10


async def wait_until_empty(client: Client, host: str, revision: int, timeout_s: float) -> None:
    """CommandError when something is still there, with the reasons."""
    table, left = Table(), 0
    began_s = runtime.monotonic_s()
    most = 0

    def step() -> Step:
        nonlocal most
        here = _on(table, host)
        most = max(most, len(here))
        names = [f"{i.slot} {wording.state(i)}" for i in sorted(here, key=lambda i: i.slot)]
        return Step(done=most - len(here), total=most, what=named(names))

    try:
        async with liveline.live(step), asyncio.timeout(timeout_s):
            left = await _follow(client, table, host, revision)
    except asyncio.CancelledError:
        note("interrupted: the drain itself goes on, only the waiting has ended")
        raise
    except TimeoutError:
        raise CommandError(_in_vain(table, host, timeout_s)) from None
    say(f"{host} is empty: {left} left in {runtime.monotonic_s() - began_s:.1f} s")


async def _follow(client: Client, table: Table, host: str, revision: int) -> int:
    left = 0
    async with contextlib.aclosing(client.watch("", revision)) as updates:
        async for update in updates:
            before = {i.uid: i for i in _on(table, host)}
            table.apply(update)
            still = {i.uid for i in _on(table, host)}
            for gone in (i for uid, i in before.items() if uid not in still):
                left += 1
                say(f"{gone.slot} left{_where_to(table, gone)}")
            if not still:
                return left
    return left


def _on(table: Table, host: str) -> list[Instance]:
    """What still runs there or is meant to."""
    return [i for i in table.instances.values() if i.host == host and i.state not in _OVER]


def _where_to(table: Table, gone: Instance) -> str:
    same = (i for i in table.instances.values() if i.slot == gone.slot and i.uid != gone.uid)
    host = next((i.host for i in same if i.host), "")
    return f" for {host}" if host else ""


def _in_vain(table: Table, host: str, timeout_s: float) -> str:
    now_ms = runtime.now_ms()
    lines = [f"not done after {timeout_s:g} s; the drain goes on. Still on {host}:"]
    waiting = {i.slot: i.status.reason for i in table.instances.values() if not i.is_placed}
    for item in sorted(_on(table, host), key=lambda i: i.slot)[:_LINES_MAX]:
        why = waiting.get(item.slot) or wording.trouble(item, now_ms)
        lines.append(f"{item.slot} {wording.state(item)}" + (f": {why}" if why else ""))
    if table.note:
        lines.append(table.note)
    return "\n  ".join(lines)
