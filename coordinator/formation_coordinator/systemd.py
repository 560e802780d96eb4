"""What a coordinator tells a service manager, if one wants to hear: that it listens, that its
loop turns (the watchdog), that it stops. Protocol: sd_notify(3) and sd_watchdog_enabled(3).

The agent has its own: its keeper may import nothing of ours.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Manager:
    """Silent when there is none. Takes the variables out of `environ`: they are for us alone."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        given = {name: environ.pop(name, "") for name in _VARIABLES}
        self._socket: socket.socket | None = None
        if given["NOTIFY_SOCKET"].startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self._address = given["NOTIFY_SOCKET"].replace("@", "\0", 1)
        self._beat_s = _watchdog_s(given) / 2

    def ready(self, status: str) -> None:
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        self._tell("STOPPING=1\nSTATUS=stopping")

    async def beat(self) -> None:
        """For ever, from the loop: a loop that hangs is not heard."""
        while self._beat_s and self._socket:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._beat_s)

    def close(self) -> None:
        if self._socket:
            self._socket.close()

    def _tell(self, message: str) -> None:
        if self._socket:
            try:
                self._socket.sendto(message.encode(), self._address)
            except OSError:  # nobody listens, or not now: a beat comes again
                return


def _watchdog_s(given: MutableMapping[str, str]) -> float:
    """0 when nobody watches us."""
    if given["WATCHDOG_PID"] not in ("", str(os.getpid())):
        return 0.0
    text = given["WATCHDOG_USEC"]
    return int(text) / 1_000_000 if text.isascii() and text.isdigit() else 0.0
