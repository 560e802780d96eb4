"""The last line of a terminal, while something is waited for: it says how far it is, and every
other line goes above it. There is one terminal, so there is one such line.

Only where both outputs are a terminal that obeys; elsewhere nothing of this is written, and lines
are just lines.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from formctl.progress import Step, line

_ERASE = "\r\x1b[K"
_TICK_S = 0.2
# What is done before this needs no line that comes and goes.
_PATIENCE_S = 0.3


@dataclass(slots=True)
class _Shown:
    text: str = ""


_shown = _Shown()


def is_possible() -> bool:
    """A reader of lines, or a terminal that cannot erase, gets none."""
    return sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextlib.contextmanager
def above() -> Iterator[None]:
    """What is written inside stands above the line."""
    text = _shown.text
    if not text:
        yield
        return
    _write("")
    try:
        yield
    finally:
        _write(text)


@contextlib.asynccontextmanager
async def live(picture: Callable[[], Step]) -> AsyncIterator[None]:
    """Shows it while the work inside goes on, several times a second; gone afterwards."""
    if not is_possible():
        yield
        return
    import asyncio

    drawing = asyncio.create_task(_draw(picture, time.monotonic()))
    try:
        yield
    finally:
        drawing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await drawing
        _write("")


async def _draw(picture: Callable[[], Step], began_s: float) -> None:
    import asyncio

    await asyncio.sleep(_PATIENCE_S)
    while True:
        columns = _columns()
        _write(line(picture(), elapsed_s=time.monotonic() - began_s, columns=columns))
        await asyncio.sleep(_TICK_S)


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80


def _write(text: str) -> None:
    if text == _shown.text:
        return
    _shown.text = text
    with contextlib.suppress(OSError):
        sys.stderr.write(_ERASE + text)
        sys.stderr.flush()
