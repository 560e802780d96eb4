"""A coordinator and its agents on this machine, for as long as one dev session lasts.

Starts them, waits until all are there, ends them in order: first the agents, which stop their
children, then the coordinator, which stops etcd. Nothing of them is left afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterable

from formation.discovery import Target
from formation.model import HostState
from formctl.client import Client
from formctl.dev import plan, rundir
from formctl.dev.daemons import Daemon, stop_all
from formctl.dev.rundir import RunDirectory
from formctl.errors import CommandError, UnreachableError

START_DEADLINE_S = 30.0
COORDINATOR_DEADLINE_S = 15.0
# Beside the instances' own grace: the agents' bookkeeping, and a machine under load.
AGENT_MARGIN_S = 15.0
_LEFTOVERS_DEADLINE_S = 45.0
_POLL_S = 0.05


class Cluster:
    """`start` once, then `stop_agents` and `stop_coordinator`, in this order, whatever happened."""

    def __init__(self, run: RunDirectory, wanted: plan.Plan, notice: Callable[[str], None]) -> None:
        environ = plan.environment(os.environ)
        programs = plan.agents(sys.executable, run.path, wanted)
        self.target = Target(addresses=(f"unix:{run.socket}",), origin="formctl dev")
        self._plan = wanted
        self._coordinator = Daemon(
            plan.coordinator(sys.executable, run.path), environ=environ, notice=notice
        )
        self._agents = [Daemon(program, environ=environ, notice=notice) for program in programs]
        self._runs: dict[Daemon, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Returns when every agent has joined; CommandError with its last lines when one ended."""
        daemons = (self._coordinator, *self._agents)
        for daemon in daemons:
            self._runs[daemon] = asyncio.create_task(daemon.run())
        deaths = {asyncio.create_task(daemon.died.wait()): daemon for daemon in daemons}
        joined = asyncio.create_task(until_joined(self.target, self._plan.host_names))
        try:
            await asyncio.wait(
                (joined, *deaths), timeout=START_DEADLINE_S, return_when=asyncio.FIRST_COMPLETED
            )
            dead = [daemon for task, daemon in deaths.items() if task.done()]
            if dead or not joined.done():
                raise CommandError(_did_not_start(dead or [self._coordinator, *self._agents]))
            joined.result()
        finally:
            for task in (joined, *deaths):
                task.cancel()
            await asyncio.wait((joined, *deaths))

    async def stop_agents(self, urgent: asyncio.Event) -> None:
        deadline_s = self._plan.grace_max_s + AGENT_MARGIN_S
        await self._stop(self._agents, deadline_s, urgent)

    async def stop_coordinator(self, urgent: asyncio.Event) -> None:
        await self._stop([self._coordinator], COORDINATOR_DEADLINE_S, urgent)

    async def _stop(self, daemons: list[Daemon], deadline_s: float, urgent: asyncio.Event) -> None:
        runs = [self._runs[daemon] for daemon in daemons if daemon in self._runs]
        await stop_all(daemons, runs, deadline_s=deadline_s, urgent=urgent)


async def until_joined(target: Target, names: Iterable[str]) -> None:
    """Returns when all of these hosts are ready; tries until it is cancelled."""
    client, wanted = await _first_answer(target), set(names)
    try:
        while not wanted <= await _ready_hosts(client):  # noqa: ASYNC110  no such event
            await asyncio.sleep(_POLL_S)
    finally:
        await client.close()


async def _ready_hosts(client: Client) -> set[str]:
    """None of them while the coordinator listens already and does not know anything yet."""
    try:
        hosts, _ = await client.hosts()
    except UnreachableError:
        return set()
    return {line.status.host for line in hosts if line.state is HostState.READY}


async def _first_answer(target: Target) -> Client:
    """A client that connects; tries until it is cancelled."""
    while True:
        client = Client(target)
        with contextlib.suppress(UnreachableError):
            await client.connect(1.0)
            return client
        await asyncio.sleep(_POLL_S)


async def wait_for_leftovers(path: str, notice: Callable[[str], None]) -> None:
    """A formctl that was killed leaves daemons that are still stopping their children."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + _LEFTOVERS_DEADLINE_S
    if rundir.processes_naming(path):
        notice("an earlier run is still stopping, waiting for it…")
    while left := rundir.processes_naming(path):
        if loop.time() > deadline_s:
            pids = ", ".join(map(str, sorted(left)))
            raise CommandError(f"processes of an earlier run do not end: {pids}; stop them")
        await asyncio.sleep(_POLL_S * 4)


def _did_not_start(daemons: list[Daemon]) -> str:
    lines = []
    for daemon in daemons:
        lines.append(f"the {daemon.program.name} did not start; it said:")
        lines += [f"  {line}" for line in daemon.quoted() or ["nothing"]]
    return "\n".join(lines)
