"""Waiting for a condition with a deadline: the only way a test may wait."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]], *, deadline_s: float = ..., what: str = ...
) -> T: ...
@overload
async def eventually(
    condition: Callable[[], T], *, deadline_s: float = ..., what: str = ...
) -> T: ...
async def eventually(
    condition: Callable[[], Any], *, deadline_s: float = 10.0, what: str = ""
) -> Any:
    """The first truthy result. Fails, naming the condition and its last result."""
    ends_s = time.monotonic() + deadline_s
    while True:
        result = condition()
        value = await result if inspect.isawaitable(result) else result
        if value:
            return value
        if time.monotonic() > ends_s:
            raise AssertionError(
                f"not within {deadline_s:g} s: {what or condition}; last: {value!r}"
            )
        await asyncio.sleep(0.01)
