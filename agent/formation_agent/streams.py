"""What an exec reads and writes: three pipes, or a pseudo-terminal. Our ends, and theirs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
from dataclasses import dataclass

from formation.execflow import size_in_bounds

_END_OF_INPUT = b"\x04"


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Ours do not block. `stderr` -1: a terminal, which is `stdin` and `stdout` too. `theirs`:
    what the process gets, the receiver's from here on."""

    stdin: int
    stdout: int
    stderr: int
    theirs: tuple[int, ...]

    @property
    def is_terminal(self) -> bool:
        return self.stderr < 0

    def resize(self, rows: int, columns: int) -> None:
        if self.is_terminal:
            with contextlib.suppress(OSError):  # nobody has it open any more
                _set_size(self.stdout, rows, columns)

    def end_of_input(self) -> bytes:
        """What says it: a character to a terminal, nothing to a pipe, which is closed."""
        return _END_OF_INPUT if self.is_terminal else b""


def pipes() -> Streams:
    """Raises OSError."""
    ends: list[int] = []
    try:
        for _ in range(3):
            ends += os.pipe2(os.O_CLOEXEC)
    except OSError:
        close(*ends)
        raise
    stdin_theirs, stdin, stdout, stdout_theirs, stderr, stderr_theirs = ends
    for fd in (stdin, stdout, stderr):
        os.set_blocking(fd, False)
    theirs = (stdin_theirs, stdout_theirs, stderr_theirs)
    return Streams(stdin=stdin, stdout=stdout, stderr=stderr, theirs=theirs)


def terminal(rows: int, columns: int) -> Streams:
    """Raises OSError."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    _set_size(ours, rows, columns)
    return Streams(stdin=ours, stdout=ours, stderr=-1, theirs=(theirs,))


def close(*fds: int) -> None:
    for fd in {*fds} - {-1}:
        os.close(fd)


def _set_size(fd: int, rows: int, columns: int) -> None:
    packed = struct.pack("HHHH", *size_in_bounds(rows, columns), 0, 0)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, packed)
