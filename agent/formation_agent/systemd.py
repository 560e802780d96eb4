"""What a service manager is told (sd_notify) and promised (its watchdog), if one wants to hear.

Used by the keeper alone; standard library only. Never waits: what the manager's socket does not
take now is sent again a moment later. Protocol: sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_WAITING_MAX = 16
_SEND_AGAIN_S = 0.1
_EXTEND_EVERY_S, _EXTEND_BY_S = 5.0, 20


class Manager:
    """Silent when there is none. Takes the variables out of `environ`: they are for us alone.

    `later` calls something after some seconds.
    """

    def __init__(
        self,
        environ: MutableMapping[str, str],
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self.variables = {name: environ.pop(name) for name in _VARIABLES if name in environ}
        self._later = later
        self._address = _address(self.variables.get("NOTIFY_SOCKET", ""))
        self._waiting: deque[bytes] = deque(maxlen=_WAITING_MAX)
        self._is_ready = False
        self._status = ""
        self._socket: socket.socket | None = None
        if self._address:
            # For good: no descriptor may be free when the watchdog wants to hear from us.
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self._watchdog_s = _watchdog_s(self.variables) if self._address else 0.0

    # --- what it is told ------------------------------------------------------------------------

    def ready(self) -> None:
        self._is_ready = True
        self._tell("READY=1", f"STATUS={self._status}")

    def status(self, text: str) -> None:
        self._status = text.replace("\n", " ")
        self._tell(f"STATUS={self._status}")

    def reloading(self) -> None:
        if self._is_ready:  # nobody waits for a reload before
            now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._tell("RELOADING=1", f"MONOTONIC_USEC={now_us}", "STATUS=re-executing")

    def reloaded(self) -> None:
        """Or not: everything is as before."""
        if self._is_ready:
            self.ready()

    def stopping(self) -> None:
        """And that it takes as long as it takes: every instance has a grace of its own."""
        self._tell("STOPPING=1", "STATUS=stopping everything on this host")
        self._extend()

    def _extend(self) -> None:
        if self._socket is not None:
            self._tell(f"EXTEND_TIMEOUT_USEC={_EXTEND_BY_S * 1_000_000}")
            self._later(_EXTEND_EVERY_S, self._extend)

    def beat(self) -> None:
        """From the loop, so that it stops when the loop hangs; goes on by itself."""
        if self._watchdog_s:
            self._tell("WATCHDOG=1")
            self._later(self._watchdog_s / 2, self.beat)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # --- sending --------------------------------------------------------------------------------

    def _tell(self, *lines: str) -> None:
        if self._socket is not None:
            self._waiting.append("\n".join(lines).encode("utf-8", "replace"))
            self._flush()

    def _flush(self) -> None:
        assert self._socket is not None
        while self._waiting:
            try:
                self._socket.sendto(self._waiting[0], self._address)
            except (BlockingIOError, InterruptedError):
                self._later(_SEND_AGAIN_S, self._flush)
                return
            except OSError:
                self._waiting.clear()  # nobody listens
                return
            self._waiting.popleft()


def _address(text: str) -> str:
    """Paths and abstract names; what else there may be (vsock) is not for processes of a host."""
    if text.startswith("@"):
        return f"\0{text[1:]}"
    return text if text.startswith("/") else ""


def _watchdog_s(variables: MutableMapping[str, str]) -> float:
    """0 when nobody watches us."""
    if variables.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = variables.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isascii() and text.isdigit() else 0.0
