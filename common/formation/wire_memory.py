"""An agent's journal ⇄ protobuf: what `formation.wire` is for everything else."""

from __future__ import annotations

from formation import model as m
from formation.memory import AgentMemory, Tries
from formation.v1 import journal_pb2 as journal
from formation.wire import (
    WireError,
    assignment_from_pb,
    assignment_to_pb,
    release_from_pb,
    release_to_pb,
)


def agent_memory_to_pb(memory: AgentMemory) -> journal.AgentJournal:
    return journal.AgentJournal(
        agent_id=memory.agent_id,
        cluster_id=memory.cluster_id,
        epoch=memory.epoch,
        generation=memory.generation,
        assigned=[assignment_to_pb(item) for item in memory.assigned],
        ending=[assignment_to_pb(item) for item in memory.ending],
        releases=[release_to_pb(release) for release in memory.releases],
        ports=[
            journal.SlotPort(app=slot.app, type=slot.type, ordinal=slot.ordinal, port=port)
            for slot, port in memory.ports.items()
        ],
        tries=[
            journal.StayTries(
                uid=uid,
                attempt=tries.attempt,
                failures=tries.failures,
                pid=tries.pid,
                start_ticks=tries.start_ticks,
                over=tries.over,
                last_exit=tries.last_exit,
                ready=tries.ready,
            )
            for uid, tries in memory.tries.items()
        ],
        boot_id=memory.boot_id,
        cluster_epoch=memory.cluster_epoch,
    )


def agent_memory_from_pb(message: journal.AgentJournal) -> AgentMemory:
    if not message.agent_id:
        raise WireError("an agent's journal without its id")
    return AgentMemory(
        agent_id=message.agent_id,
        cluster_id=message.cluster_id,
        epoch=message.epoch,
        generation=message.generation,
        assigned=tuple(assignment_from_pb(item) for item in message.assigned),
        ending=tuple(assignment_from_pb(item) for item in message.ending),
        releases=tuple(release_from_pb(release) for release in message.releases),
        ports={m.Slot(item.app, item.type, item.ordinal): item.port for item in message.ports},
        tries={
            item.uid: Tries(
                attempt=item.attempt,
                failures=item.failures,
                pid=item.pid,
                start_ticks=item.start_ticks,
                over=item.over,
                last_exit=item.last_exit,
                ready=item.ready,
            )
            for item in message.tries
        },
        boot_id=message.boot_id,
        cluster_epoch=message.cluster_epoch,
    )
