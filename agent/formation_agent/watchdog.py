"""Ends this program when its event loop hangs, so that the keeper starts a new one.

A thread that looks whether the loop still runs. It counts its own looks, not the time: a program
that was suspended, or a machine that slept, is not stuck. Children are not touched.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback

LIMIT_S = 30.0
EXIT_STUCK = 70
_LOOKS = 5
# What hangs may be whoever reads our output.
_SAY_WITHIN_S = 2.0


class Watchdog:
    """The loop is stuck when it did not run for `limit_s`."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._period_s = limit_s / _LOOKS
        self._beats = 0
        self._over = threading.Event()

    async def run(self) -> None:
        """Watches the loop that it runs in, until it is cancelled."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        try:
            while True:
                self._beats += 1
                await asyncio.sleep(self._period_s)
        finally:
            self._over.set()

    def _watch(self) -> None:
        seen, missed = -1, 0
        while not self._over.wait(self._period_s):
            missed = missed + 1 if self._beats == seen else 0
            seen = self._beats
            if missed >= _LOOKS:
                self._end()

    def _end(self) -> None:
        text = f"formation-agent: the event loop did not run for {self._limit_s:g} s\n{_stacks()}"
        # Straight to the descriptor: the loop may hold the lock of sys.stderr.
        say = threading.Thread(
            target=os.write, args=(2, text.encode("utf-8", "replace")), daemon=True
        )
        say.start()
        say.join(_SAY_WITHIN_S)
        os._exit(EXIT_STUCK)


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()  # noqa: SLF001  faulthandler would hold the GIL while it writes
    return "".join(
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in frames.items()
    )
