"""formctl top ends when it is told to, also in the very moment in which something changes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from formctl.top.program import Program


@pytest.mark.parametrize("turns", range(6))
async def test_drawing_ends_when_it_is_cancelled_as_something_changes(turns: int) -> None:
    feed = SimpleNamespace(changed=asyncio.Event())
    app = SimpleNamespace(invalidate=lambda: None)
    program = cast("Program", SimpleNamespace(_feed=feed, _app=app))
    drawing = asyncio.create_task(Program._redraw(program))
    await asyncio.sleep(0.01)
    feed.changed.set()
    for _turn in range(turns):
        await asyncio.sleep(0)
    drawing.cancel()
    await asyncio.wait([drawing], timeout=1.0)
    assert drawing.cancelled()
