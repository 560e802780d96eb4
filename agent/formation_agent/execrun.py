"""One command beside an instance: its process, and what goes in and comes out of it.

It decides nothing about who is there at the other end (`execpush`). Its tree is ended as
docs/design/exec.md says: HUP, and KILL for what is left after a grace.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import deque
from collections.abc import Callable
from typing import Protocol

from formation.execflow import CHUNK_BYTES, GRACE_S, Taking
from formation_agent import streams
from formation_agent.happenings import Event, Exited, SpawnFailed, Started, TreeEmpty
from formation_agent.streams import Streams

# What a process has written is there when its tree has ended, but for what the kernel still moves
# from one end of a terminal to the other.
_SETTLES_S = 0.5
_KILL_AGAIN_S = 1.0

log = logging.getLogger(__name__)


class Signaller(Protocol):
    """What is needed of `processes.Processes`."""

    def signal(self, key: str, signum: int, *, whole_group: bool = True) -> None: ...


class ExecRun:
    """`wake` is set whenever there may be something to tell. `let_go`: nothing of it is left."""

    def __init__(
        self, key: str, ours: Streams, children: Signaller, let_go: Callable[[], None]
    ) -> None:
        self._key, self._ours, self._children, self._let_go = key, ours, children, let_go
        self._loop = asyncio.get_running_loop()
        self.wake = asyncio.Event()
        self.pid = 0
        self.exit: Exited | SpawnFailed | None = None
        self.why = ""
        self.taking = Taking()
        self._over = self._ending = self._settled = self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._input = bytearray()
        self._input_ends = False
        self._stdin = ours.stdin
        self._outputs = {fd for fd in (ours.stdout, ours.stderr) if fd >= 0}
        self._readable: deque[int] = deque()
        for fd in self._outputs:
            self._await_output(fd)

    # -- its process -------------------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        match event:
            case Started():
                self.pid = event.pid
            case SpawnFailed():
                self.exit = event
                self._is_over()
            case Exited():
                self.exit = event
                if event.empty:
                    self._is_over()
                else:
                    self.end()  # what it left behind
            case TreeEmpty():
                self._is_over()
        self.wake.set()

    def _is_over(self) -> None:
        self._over = True
        self._set_timer(_SETTLES_S, self._settle)
        self._let_go()

    def _settle(self) -> None:
        self._settled = True
        self.wake.set()

    def end(self, why: str = "") -> None:
        """All of it, soon. `why`: for people; the first one counts."""
        self.why = self.why or (why if self.exit is None else "")
        if self._ending or self._over:
            return
        self._ending = True
        self._children.signal(self._key, signal.SIGHUP)
        self._children.signal(self._key, signal.SIGCONT)
        self._set_timer(GRACE_S, self._kill)

    def _kill(self) -> None:
        """Again, until the keeper has seen the end: a shell may just have made another group."""
        self._children.signal(self._key, signal.SIGKILL)
        self._set_timer(_KILL_AGAIN_S, self._kill)

    def _set_timer(self, delay_s: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, then)

    def stop_timers(self) -> None:
        """This brain ends; the next one kills what is left."""
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """Nobody reads or writes any more; closing a terminal hangs it up."""
        if self._closed:
            return
        self._closed = True
        for fd in (*self._outputs, self._stdin):
            self._forget(fd)
        streams.close(self._stdin, *self._outputs)
        self._stdin, self._outputs = -1, set()
        self._readable.clear()
        self._input.clear()

    def _forget(self, fd: int) -> None:
        if fd >= 0:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)

    # -- what it writes ----------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """It has ended, and all that it wrote was read."""
        if self.exit is None:
            return False
        return not self._outputs or (self._settled and not self._readable)

    def read(self, most: int) -> tuple[bool, bytes] | None:
        """Is it of stderr, and the bytes; None: nothing now."""
        for _ in range(len(self._readable)):
            fd = self._readable.popleft()
            try:
                found = os.read(fd, most)
            except BlockingIOError:
                self._await_output(fd)
                continue
            except OSError:  # how a terminal says that nobody has it open any more
                found = b""
            if found:
                self._readable.append(fd)
                return fd == self._ours.stderr, found
            self._end_of_output(fd)
        return None

    def _await_output(self, fd: int) -> None:
        self._loop.add_reader(fd, self._on_output, fd)

    def _on_output(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._readable.append(fd)
        self.wake.set()

    def _end_of_output(self, fd: int) -> None:
        self._outputs.discard(fd)
        if fd == self._stdin:
            self._end_input()
        else:
            self._forget(fd)
            os.close(fd)

    # -- what it reads -----------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Raises `FlowError` for more than may be under way."""
        self.taking = self.taking.arrived(len(data))
        self._input += data
        self._write()

    def feed_end(self) -> None:
        if not self._input_ends:
            self._input_ends = True
            self._input += self._ours.end_of_input()  # which nobody has sent, so it is not counted
            self._write()

    def resize(self, rows: int, columns: int) -> None:
        if not self._closed and self._stdin >= 0:
            self._ours.resize(rows, columns)

    def _write(self) -> None:
        while self._input:
            if self._stdin < 0:
                self._take(len(self._input))  # it does not read any more
                break
            try:
                self._take(os.write(self._stdin, self._input[:CHUNK_BYTES]))
            except BlockingIOError:
                self._loop.add_writer(self._stdin, self._write)
                return
            except OSError:
                self._end_input()
        if self._stdin >= 0:
            self._loop.remove_writer(self._stdin)
        if self._input_ends and not self._ours.is_terminal:
            self._end_input()

    def _take(self, count: int) -> None:
        del self._input[:count]
        self.taking = self.taking.took(min(count, self.taking.held))
        if self.taking.owes:
            self.wake.set()

    def _end_input(self) -> None:
        fd, self._stdin = self._stdin, -1
        if fd < 0:
            return
        self._loop.remove_writer(fd)
        if fd not in self._outputs:
            self._forget(fd)
            os.close(fd)
