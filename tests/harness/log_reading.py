"""What tests of the log room read from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from formation_agent.logs import Line, LogBatch

DEADLINE_S = 30.0


async def until(batches: AsyncIterator[LogBatch], text: bytes) -> list[Line]:
    """The lines up to and with the first that has this text."""
    lines: list[Line] = []
    async with asyncio.timeout(DEADLINE_S):
        async for batch in batches:
            lines += batch.lines
            if any(line.text == text for line in batch.lines):
                return lines
    raise AssertionError(f"no {text!r}")
