"""What waits to be written to one agent."""

from __future__ import annotations

import asyncio

import pytest

from formation.v1 import agent_pb2
from formation_coordinator.outbox import Outbox


def ack(number: int) -> agent_pb2.CoordinatorMessage:
    return agent_pb2.CoordinatorMessage(ack=agent_pb2.Ack(heartbeat=number))


async def test_messages_come_in_order_also_to_who_waited_for_the_first() -> None:
    outbox = Outbox(10)
    first = asyncio.create_task(outbox.get())
    await asyncio.sleep(0)
    for number in (1, 2, 3):
        outbox.put(ack(number))
    got = [await first, await outbox.get(), await outbox.get()]
    assert [message.ack.heartbeat for message in got] == [1, 2, 3]


async def test_it_takes_so_many_and_no_more() -> None:
    outbox = Outbox(2)
    outbox.put(ack(1))
    outbox.put(ack(2))
    with pytest.raises(asyncio.QueueFull):
        outbox.put(ack(3))
    assert (await outbox.get()).ack.heartbeat == 1
    outbox.put(ack(3))


async def test_who_no_longer_waits_loses_nothing() -> None:
    outbox = Outbox(2)
    reader = asyncio.create_task(outbox.get())
    await asyncio.sleep(0)
    reader.cancel()
    outbox.put(ack(1))
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert (await outbox.get()).ack.heartbeat == 1
