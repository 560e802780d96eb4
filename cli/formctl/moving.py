"""Waits until moves are made, with a line for each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from formation import runtime
from formation.requests import Move
from formctl import liveline
from formctl.client import Client
from formctl.errors import CommandError
from formctl.progress import Step, named
from formctl.settings import note, say
from formctl.views import Table


async def wait_for_moves(
    client: Client, moves: Sequence[Move], revision: int, timeout_s: float
) -> None:
    """CommandError when some are not made in time."""
    table, open_ = Table(), list(moves)
    began_s = runtime.monotonic_s()

    def step() -> Step:
        names = [f"{m.slot} to {m.to_host}" for m in open_]
        return Step(done=len(moves) - len(open_), total=len(moves), what=named(names))

    try:
        async with liveline.live(step), asyncio.timeout(timeout_s):
            await _follow(client, table, open_, revision)
    except asyncio.CancelledError:
        note("interrupted: the moves go on, only the waiting has ended")
        raise
    except TimeoutError:
        lines = [f"{m.slot} is not on {m.to_host} yet" for m in open_]
        head = f"not done after {timeout_s:g} s; the moves go on:"
        raise CommandError("\n  ".join([head, *lines])) from None
    say(f"{len(moves)} moved in {runtime.monotonic_s() - began_s:.1f} s")


async def _follow(client: Client, table: Table, open_: list[Move], revision: int) -> None:
    async with contextlib.aclosing(client.watch("", revision)) as updates:
        async for update in updates:
            table.apply(update)
            for move in [move for move in open_ if _is_made(table, move)]:
                open_.remove(move)
                say(f"{move.slot} moved from {move.from_host} to {move.to_host}")
            if not open_:
                return


def _is_made(table: Table, move: Move) -> bool:
    hosts = {i.host for i in table.instances.values() if i.slot == move.slot and not i.surplus}
    good = any(
        i.is_good and i.host == move.to_host
        for i in table.instances.values()
        if i.slot == move.slot
    )
    return good and move.from_host not in hosts
