"""What waits to be written to one agent's stream, in order."""

from __future__ import annotations

import asyncio

from formation.v1 import agent_pb2


class Outbox:
    """For one reader. An asyncio.Queue would do, but takes 3 kB, and every host has one."""

    __slots__ = ("_messages", "_most", "_waiting")

    def __init__(self, most: int) -> None:
        self._most = most
        self._messages: list[agent_pb2.CoordinatorMessage] = []
        self._waiting: asyncio.Future[None] | None = None

    def put(self, message: agent_pb2.CoordinatorMessage) -> None:
        """Raises `asyncio.QueueFull`."""
        if len(self._messages) >= self._most:
            raise asyncio.QueueFull
        self._messages.append(message)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def get(self) -> agent_pb2.CoordinatorMessage:
        while not self._messages:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._messages.pop(0)
