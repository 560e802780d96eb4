"""Follows one run: its output as it comes, and how it ended. Ctrl-C cancels it."""

from __future__ import annotations

import asyncio
import sys

from formation import runtime, wire
from formation.discovery import Target
from formation.person import who
from formation.requests import Run, RunState
from formation.v1 import control_pb2 as pb
from formctl import following, wording
from formctl.client import Client
from formctl.errors import CommandError
from formctl.loglines import Line
from formctl.settings import note

_LOOK_S = 0.2
_OUTPUT_PATIENCE_S = 2.0
_CANCELLED, _LOST = 130, 1
_WAITING = (RunState.PENDING, RunState.PLACED)


async def follow_run(client: Client, target: Target, started: Run) -> int:
    """The exit code of the command."""
    try:
        return await _follow(client, target, started)
    except asyncio.CancelledError:
        async with Client(target) as other:
            await _cancel(other, started)
        raise


async def _follow(client: Client, target: Target, started: Run) -> int:
    printing = asyncio.create_task(_print_output(target, started))
    try:
        ended = await _wait_for_end(client, started)
        # What it wrote last is on its way.
        await asyncio.wait([printing], timeout=_OUTPUT_PATIENCE_S if ended.host else 0)
    finally:
        printing.cancel()
        await asyncio.gather(printing, return_exceptions=True)
    return _exit_code(ended)


async def _wait_for_end(client: Client, started: Run) -> Run:
    told = ""
    while True:
        run = await _look(client, started)
        if run.state not in _WAITING:
            return run
        if run.state is RunState.PENDING:
            told = await _say_why_it_waits(client, started, told)
        await asyncio.sleep(_LOOK_S)


async def _look(client: Client, started: Run) -> Run:
    request = pb.ListRunsRequest(app=started.slot.app, type=started.slot.type)
    response = await client.read(lambda stub: stub.ListRuns, request)
    found = next((r for r in response.runs if r.id == started.id), None)
    if found is None:
        return started  # another coordinator's view may be a moment behind
    return wire.run_from_pb(found)


async def _say_why_it_waits(client: Client, started: Run, told: str) -> str:
    update = await client.instances(started.slot.app)
    waits = (i for i in update.changed if i.slot == started.slot and not i.is_placed)
    why = next((i.status.reason for i in waits), "")
    if why and why != told:
        note(f"formctl: {started.slot.short} waits for a place: {why}")
    return why or told


async def _print_output(target: Target, started: Run) -> None:
    def write(lines: list[Line]) -> None:
        for line in lines:
            stream = sys.stderr.buffer if line.stderr else sys.stdout.buffer
            stream.write(line.text + (b"" if line.partial else b"\n"))
            stream.flush()

    async with Client(target) as client:
        feed = following.LogFeed(
            write, note, tail_lines=following.ALL_LINES, started_us=runtime.now_ms() * 1000
        )
        await following.follow(
            client,
            feed,
            app=started.slot.app,
            choice=following.Choice(targets=((started.slot.type, started.slot.ordinal),)),
            live=True,
        )


def _exit_code(run: Run) -> int:
    if run.state is RunState.CANCELLED:
        note(f"formctl: {run.id} was cancelled: {run.reason}")
        return _CANCELLED
    if run.state is RunState.LOST:
        raise CommandError(f"{run.id}: nobody knows how it ended: {run.reason}")
    if run.state is RunState.FINISHED:
        return 0
    note(f"formctl: {run.id} {wording.ended(run.last_exit) or run.reason} on {run.host}")
    return wording.exit_code(run.last_exit)


async def _cancel(client: Client, started: Run) -> None:
    request = pb.CancelRunRequest(app=started.slot.app, id=started.id, who=who())
    try:
        await client.change(lambda stub: stub.CancelRun, request)
        note(f"{started.id} cancelled")
    except CommandError as error:
        note(f"formctl: {error}")
