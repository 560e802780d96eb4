"""Many small commits of one coordinator as few transactions: a thousand agents that come at once,
or that all have news, cost etcd and us some dozens of requests.

Nobody waits for company: what is asked while a transaction is on its way goes with the next one.
Each commit has its own outcome. When one of those gathered does not hold, all are sent alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from formation_coordinator.store.base import (
    BATCH_BYTES_MAX,
    OPERATIONS_MAX,
    Compare,
    NoSpace,
    Operation,
    Outcome,
    OutcomeUnknown,
    Store,
    StoreError,
    StoreUnavailable,
    operation_bytes,
)

# These say the same to all that were sent together.
_OF_ALL = (StoreUnavailable, OutcomeUnknown, NoSpace)
# How many of those that have to go alone are under way at once.
_ALONE_MAX = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    compares: Sequence[Compare]
    operations: Sequence[Operation]
    answer: asyncio.Future[Outcome]


class Gathering:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[_Asked] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Outcome:
        """As `Store.commit`."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Asked(compares, operations, answer))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())
        return await answer

    async def _send_all(self) -> None:
        while self._waiting:
            await self._send(self._next())

    def _next(self) -> list[_Asked]:
        """As many of the first as one transaction holds; each key at most once."""
        taken: list[_Asked] = []
        compares = operations = size_bytes = 0
        keys: set[str] = set()
        while self._waiting:
            first = self._waiting[0]
            compares += len(first.compares)
            operations += len(first.operations)
            size_bytes += sum(map(operation_bytes, first.operations))
            own = {operation.key for operation in first.operations}
            full = max(compares, operations) > OPERATIONS_MAX or size_bytes > BATCH_BYTES_MAX
            if taken and (full or own & keys):
                break
            keys |= own
            taken.append(self._waiting.popleft())
        return taken

    async def _send(self, taken: list[_Asked]) -> None:
        compares = [compare for item in taken for compare in item.compares]
        operations = [operation for item in taken for operation in item.operations]
        try:
            outcome = await self._store.commit(compares, operations)
        except _OF_ALL as error:
            for item in taken:
                _fail(item, error)
            return
        except StoreError as error:
            if len(taken) == 1:
                _fail(taken[0], error)
                return
        except BaseException as error:
            for item in taken:
                _fail(item, error)
            raise
        else:
            if outcome.succeeded or len(taken) == 1:
                for item in taken:
                    _succeed(item, outcome)
                return
        await self._send_each(taken)

    async def _send_each(self, taken: list[_Asked]) -> None:
        for first in range(0, len(taken), _ALONE_MAX):
            await asyncio.gather(
                *(self._send([item]) for item in taken[first : first + _ALONE_MAX])
            )


def _succeed(item: _Asked, outcome: Outcome) -> None:
    if not item.answer.done():  # who asked may have gone
        item.answer.set_result(outcome)


def _fail(item: _Asked, error: BaseException) -> None:
    if item.answer.done():
        return
    if isinstance(error, asyncio.CancelledError):
        item.answer.cancel()
    else:
        item.answer.set_exception(error)
