"""What the agent says on its stream after the Hello: beats, changes, answers, goodbye. Thin.

What there is to say is kept by the session and its rooms; here it is gathered and written.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc.aio

from formation import wire
from formation.v1 import agent_pb2 as pb

if TYPE_CHECKING:
    from formation_agent.session import Session

BATCH_PERIOD_S = 0.1
# What follows at once from one event, such as a crash and the new process, is one message.
GATHER_S = 0.02
SPREAD = 0.1

Call = grpc.aio.StreamStreamCall[pb.AgentMessage, pb.CoordinatorMessage]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a batch says beside the instances."""

    generation: int
    cluster_epoch: int
    complaint: str
    ahead: bool
    leaving: bool


class Writer:
    """The only one who writes to the stream: grpc.aio allows one write at a time."""

    def __init__(self, session: Session, call: Call, told: State) -> None:
        self._session = session
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._sequence = 0
        self._told = told
        self.said_goodbye = False
        self._heartbeat_at_s = self._next_heartbeat_s()

    async def run(self) -> None:
        """Until the goodbye is written, or the stream breaks."""
        wake = self._session.supervisor.news
        wake.set()  # what was set before the Hello took the table
        await self._call.write(self._session.next_heartbeat())
        while True:
            try:
                async with asyncio.timeout_at(self._heartbeat_at_s):
                    await wake.wait()
            except TimeoutError:
                await self._call.write(self._session.next_heartbeat())
                self._heartbeat_at_s = self._next_heartbeat_s()
                continue
            await asyncio.sleep(GATHER_S)
            if await self._tell():
                return
            self._hurry()
            await asyncio.sleep(BATCH_PERIOD_S - GATHER_S)

    async def _tell(self) -> bool:
        """All there is to say now; True when that was the goodbye."""
        # First, since it clears the event: what comes while we write is told in the next round.
        changes = self._session.supervisor.take_changes()
        state = self._session.take_state()
        if self._session.take_resend():
            await self._call.write(pb.AgentMessage(resend=pb.ResendAssignments()))
        for report in self._session.take_reports():
            await self._call.write(pb.AgentMessage(usage=report))
        if changes.changed or changes.gone_uids or state != self._told:
            self._sequence += 1
            batch = pb.StatusBatch(
                sequence=self._sequence,
                changed=[wire.instance_status_to_pb(item) for item in changes.changed],
                gone_uids=changes.gone_uids,
                generation=state.generation,
                complaint=state.complaint,
                cluster_epoch=state.cluster_epoch,
                ahead=state.ahead,
            )
            await self._call.write(pb.AgentMessage(status=batch))
            self._told = state
        if state.leaving:
            self.said_goodbye = True  # before: the answer may be here sooner than we are told
            await self._call.write(pb.AgentMessage(goodbye=pb.Goodbye()))
            await self._call.done_writing()
        return state.leaving

    def _next_heartbeat_s(self) -> float:
        # Spread, so that ten thousand agents do not beat in step.
        spread = random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311
        return self._loop.time() + self._session.heartbeat_period_s() * spread

    def _hurry(self) -> None:
        """With the first exclusive instance beats come more often, from now on."""
        now_s = self._loop.time()
        if self._heartbeat_at_s > now_s + self._session.heartbeat_period_s() * (1 + SPREAD):
            self._heartbeat_at_s = now_s
