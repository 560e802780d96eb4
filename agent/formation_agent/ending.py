"""The agent's own end: every stay is stopped, whoever holds it up is named, nobody is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from formation_agent import machine
from formation_agent.entries import Entry

# A stop that takes this long is worth telling who blocks it.
BLOCKER_AFTER_S = 5.0
_BLOCKERS_NAMED = 10
_AGENT_STOPS = "the agent is stopping"
_URGENT = "killed: the agent was told to end at once"

log = logging.getLogger(__name__)


class Ending:
    """`live`: the uids of what is not stopped yet, emptied by the feeder. `urgent`: no grace.
    `drain`: those that their types say so of are drained before."""

    def __init__(
        self,
        live: Collection[str],
        table: Mapping[str, Entry],
        feed: Callable[[str, machine.Event], None],
        urgent: asyncio.Event,
        *,
        drain: bool,
    ) -> None:
        self._live = live
        self._table = table
        self._feed = feed
        self._urgent = urgent
        self._at_once = not drain

    async def run(self, idle: asyncio.Event) -> None:
        """Stops every stay, each with its own grace. `idle` is set when nothing is live."""
        for uid in list(self._live):
            self._feed(uid, machine.StopWanted(reason=_AGENT_STOPS, at_once=self._at_once))
        async with asyncio.TaskGroup() as group:
            helpers = (
                group.create_task(self._kill_when_urgent()),
                group.create_task(self._name_blockers()),
            )
            await idle.wait()
            for helper in helpers:
                helper.cancel()

    async def _kill_when_urgent(self) -> None:
        await self._urgent.wait()
        for uid in list(self._live):
            self._feed(uid, machine.KillWanted(reason=_URGENT))

    async def _name_blockers(self) -> None:
        while True:
            await asyncio.sleep(BLOCKER_AFTER_S)
            log.info("still running: %s", self._blockers())

    def _blockers(self) -> str:
        stays = sorted(
            (self._table[uid].stay for uid in self._live), key=lambda stay: stay.assignment.slot
        )
        named = ", ".join(
            f"{stay.assignment.slot} ({f'pid {stay.pid}' if stay.pid else 'what it left behind'})"
            for stay in stays[:_BLOCKERS_NAMED]
        )
        more = len(stays) - _BLOCKERS_NAMED
        return f"{named} and {more} more" if more > 0 else named
