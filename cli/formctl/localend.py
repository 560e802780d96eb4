"""This end of an exec: what we read and write, and the terminal, which is always put back.

Nothing here waits for a reader of ours: what is written goes through a thread, so that a stopped
pager does not look like a dead connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import termios
import threading
import tty
from collections.abc import Callable, Iterator

_STDIN, _STDOUT, _STDERR = 0, 1, 2


def is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def size() -> tuple[int, int]:
    """Rows and columns; 24 and 80 where there is no terminal."""
    for fd in (_STDOUT, _STDIN, _STDERR):
        with contextlib.suppress(OSError):
            found = os.get_terminal_size(fd)
            return found.lines, found.columns
    return 24, 80


@contextlib.contextmanager
def raw(fd: int = _STDIN) -> Iterator[Callable[[], None]]:
    """Every key is a byte; what is yielded makes it so again after somebody else has changed it."""
    before = termios.tcgetattr(fd)

    def enter() -> None:
        with contextlib.suppress(termios.error):
            tty.setraw(fd, termios.TCSADRAIN)

    enter()
    try:
        yield enter
    finally:
        with contextlib.suppress(termios.error):  # the terminal itself has gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Reader:
    """Standard input. `wake` is called when there may be something."""

    def __init__(self, wake: Callable[[], None], fd: int = _STDIN) -> None:
        self._fd, self._wake = fd, wake
        self._loop = asyncio.get_running_loop()
        self._is_ready = False
        self._always = False
        self.ended = False
        self._await()

    def _await(self) -> None:
        try:
            self._loop.add_reader(self._fd, self._on_ready)
        except PermissionError:  # a file, which never waits
            self._always = self._is_ready = True
            self._wake()
        except (OSError, ValueError):  # it was closed
            self._always = self._is_ready = True
            self._wake()

    def _on_ready(self) -> None:
        self._loop.remove_reader(self._fd)
        self._is_ready = True
        self._wake()

    def read(self, most: int) -> bytes | None:
        """b"" at the end; None when there is nothing now."""
        if not self._is_ready or self.ended:
            return None
        try:
            found = os.read(self._fd, most)
        except BlockingIOError:
            found = None
        except OSError:
            found = b""
        self.ended = found == b""
        if not self._always and not self.ended:
            self._is_ready = False
            self._await()
        return found

    def close(self) -> None:
        if not self._always:
            self._loop.remove_reader(self._fd)


class Writer:
    """Standard output and error. `wrote` is called with how much was written, or None when nobody
    reads it any more. What waits is bounded by the window of the exec."""

    def __init__(self, wrote: Callable[[int | None], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._wrote = wrote
        self._waiting: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="exec-output").start()

    def write(self, data: bytes, *, stderr: bool = False) -> None:
        self._waiting.put((_STDERR if stderr else _STDOUT, data))

    def _run(self) -> None:
        while True:
            fd, data = self._waiting.get()
            try:
                _write_all(fd, data)
            except OSError:
                self._tell(None)
                return
            self._tell(len(data))

    def _tell(self, count: int | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._wrote, count)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # somebody else made our terminal or pipe so
            _await_room(fd)


def _await_room(fd: int) -> None:
    import select

    select.select([], [fd], [])


def say(text: str) -> None:
    """A few words beside the output, as raw terminals want them."""
    with contextlib.suppress(OSError):
        os.write(_STDERR, text.encode())


@contextlib.contextmanager
def handling(handlers: dict[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
