"""Asks the program that would be executed whether it can take over, by running it.

Used by the keeper alone; standard library only. Nothing waits here and nothing is risked: a
program that cannot be run, or does not know our state, costs a line of text.
"""

from __future__ import annotations

import os
import select
import signal

from formation_agent import takeover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from formation_agent.spawn import Spawner

WITHIN_S = 10.0
_SAID_BYTES_MAX = 64 * 1024
_STDERR = 2


class Preflight:
    """`done` is called once, with "" or with why the program on disk cannot take over.

    The loop calls `hear` when `fd` is readable, `give_up` after `WITHIN_S` and `ended` when `pid`
    was reaped.
    """

    def __init__(self, spawner: Spawner, poll: select.epoll, done: Callable[[str], None]) -> None:
        """Raises OSError when it cannot be started."""
        self._poll = poll
        self._done = done
        self._said = b""
        self._is_overdue = False
        self.fd, end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.fd, False)
        env = {**os.environb, takeover.CHECK_VARIABLE.encode(): b"%d" % takeover.VERSION}
        try:
            poll.register(self.fd, select.EPOLLIN)
            self.pid = spawner.program(takeover.program(), env, end, _STDERR)
        except OSError:
            os.close(self.fd)  # and is watched no more
            raise
        finally:
            os.close(end)

    def hear(self) -> bool:
        """What it says for people; False when there is no more now."""
        if self.fd < 0:
            return False
        try:
            data = os.read(self.fd, _SAID_BYTES_MAX)
        except BlockingIOError:
            return False
        self._said = (self._said + data)[-_SAID_BYTES_MAX:]
        if not data:
            self._close()
        return bool(data)

    def give_up(self) -> None:
        self._is_overdue = True
        self._kill()

    def call_off(self) -> None:
        """Nobody wants the answer any more."""
        self._done = lambda _problem: None
        self._kill()

    def _kill(self) -> None:
        """With all that it may have started: it leads a session of its own."""
        os.killpg(self.pid, signal.SIGKILL)  # ours and not yet reaped

    def ended(self, info: os.waitid_result) -> None:
        while self.hear():
            pass
        self._close()
        if info.si_code == os.CLD_EXITED and info.si_status == 0:
            self._done("")
        elif self._is_overdue:
            self._done(f"it did not answer within {WITHIN_S:g} s")
        else:
            self._done(self._last_line() or "it cannot be run")

    def _last_line(self) -> str:
        lines = self._said.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def _close(self) -> None:
        if self.fd >= 0:
            self._poll.unregister(self.fd)
            os.close(self.fd)
            self.fd = -1
