"""One task for each of what is wanted: begun when it comes, begun anew when it changes, ended when
it goes. A task that fails by a bug is logged and begun again: who minds it has other work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, NoReturn, TypeVar

log = logging.getLogger(__name__)

AGAIN_S = 5.0
LOOK_S = 0.2
Key = TypeVar("Key")
Value = TypeVar("Value")


class Crew(Generic[Key, Value]):
    """`wanted()`: key → what the task is about; `work(value)` runs until it is cancelled."""

    def __init__(
        self,
        wanted: Callable[[], Mapping[Key, Value]],
        work: Callable[[Value], Coroutine[Any, Any, None]],
    ) -> None:
        self._wanted, self._work = wanted, work
        self._tasks: dict[Key, tuple[Value, asyncio.Task[None]]] = {}

    async def run(self, hint: asyncio.Event) -> NoReturn:
        """For ever. `hint` is set when something may have changed; there may be thousands a second,
        so it is looked at now and then."""
        async with asyncio.TaskGroup() as group:
            while True:
                hint.clear()
                await self._agree(group, self._wanted())
                await hint.wait()
                await asyncio.sleep(LOOK_S)
        raise AssertionError("a group of endless tasks has ended")

    async def _agree(self, group: asyncio.TaskGroup, wanted: Mapping[Key, Value]) -> None:
        for key, (value, task) in tuple(self._tasks.items()):
            if key not in wanted or wanted[key] != value:
                task.cancel()
                await asyncio.wait([task])
                del self._tasks[key]
        for key, value in wanted.items():
            if key not in self._tasks:
                self._tasks[key] = value, group.create_task(self._guarded(value))

    async def _guarded(self, value: Value) -> None:
        while True:
            try:
                await self._work(value)
            except Exception:  # of one; the others, and whoever leads, go on
                log.exception("a bug, in what concerns %s", type(value).__name__)
            await asyncio.sleep(AGAIN_S)
