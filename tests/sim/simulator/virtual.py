"""Virtual time for programs as they are: clocks, dice, ids and threads come from the simulation.

What the programs ask the operating system for is replaced while a simulation runs: `time`'s clocks
say what the loop says, `random` and `secrets` are seeded, and what would go to a thread is done at
once. With PYTHONHASHSEED fixed a seed gives the same history on every machine.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import time
import traceback
import zlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from virtual_time import VirtualTimeLoop

# Zero would be taken for "never" here and there, as on no machine.
BEGINS_S = 1_000.0
ENDS_WITHIN_S = 600.0  # all that was started, once it is cancelled
WALL_BEGINS_S = 1_772_366_400.0  # 2026-03-01 12:00:00 UTC
TRACE_MAX = 120


class Trace(logging.Handler):
    """The last things that happened, formatted only when somebody wants to read them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=TRACE_MAX)
        self.now_s: Callable[[], float] = lambda: 0.0
        self._digest = 0
        self.over = False
        self.errors: list[str] = []  # what no program may log, whatever breaks

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            text = "".join(traceback.format_exception(record.exc_info[1]))
            self.errors.append(f"{record.getMessage()}: {text}")
        self.note(str(record.msg), *(record.args if isinstance(record.args, tuple) else ()))

    def note(self, text: str, *values: object) -> None:
        if self.over:  # everything is taken down, in any order
            return
        plain = [value for value in values if isinstance(value, str | int | float)]
        self._digest = zlib.crc32(repr((self.now_s(), text, plain)).encode(), self._digest)
        self._lines.append((self.now_s(), text, values))

    def digest(self) -> str:
        """Of all that happened: the same seed has the same one everywhere."""
        return f"{self._digest:08x}"

    def lines(self) -> list[str]:
        found = []
        for at_s, text, values in self._lines:
            found.append(f"{at_s - BEGINS_S:9.3f}  {text % values if values else text}")
        return found


async def _at_once(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    await asyncio.sleep(0)
    return function(*args, **kwargs)


@contextmanager
def _replaced(loop: asyncio.AbstractEventLoop, seed: int) -> Iterator[None]:
    numbers = count(1)

    def clock_gettime(_clock: int) -> float:
        return loop.time()

    def wall_s() -> float:
        return WALL_BEGINS_S + loop.time() - BEGINS_S

    ours: list[tuple[Any, str, Any]] = [
        (time, "monotonic", loop.time),
        (time, "clock_gettime", clock_gettime),
        (time, "time", wall_s),
        (time, "time_ns", lambda: int(wall_s() * 1e9)),
        (os, "urandom", lambda n: next(numbers).to_bytes(n, "big")),
        (asyncio, "to_thread", _at_once),
    ]
    theirs = [(module, name, getattr(module, name)) for module, name, _ in ours]
    dice = random.getstate()
    random.seed(seed)
    try:
        for module, name, value in ours:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in theirs:
            setattr(module, name, value)
        random.setstate(dice)


@contextmanager
def _logged(trace: Trace) -> Iterator[None]:
    names = ("formation_agent", "formation_coordinator")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.INFO)
            logger.propagate = False
            logger.addHandler(trace)
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(trace)
            logger.setLevel(level)
            logger.propagate = propagate


def run(seed: int, trace: Trace, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """The story to its end, with everything that it has started ended."""
    loop = VirtualTimeLoop()
    loop.begin_at(BEGINS_S)
    trace.now_s = loop.time
    gc.disable()  # it would run whenever it likes
    try:
        with _replaced(loop, seed), _logged(trace), asyncio.Runner(loop_factory=lambda: loop) as r:
            try:
                r.run(story())
            finally:
                loop.end_before(loop.time() + ENDS_WITHIN_S)
    finally:
        gc.enable()
        gc.collect()
