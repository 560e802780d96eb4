"""A program on a terminal of its own: keys go in, and a screen is there to be looked at.

pyte is the terminal: it obeys what the program writes, so that tests see what a person would.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pyte
from eventually import eventually

DEADLINE_S = 30.0
# As terminals send them.
KEYS = {"up": "\x1b[A", "down": "\x1b[B", "enter": "\r", "escape": "\x1b", "ctrl-c": "\x03"}
_ALTERNATE = (b"\x1b[?1049h", b"\x1b[?1049l")


class Terminal:
    def __init__(self, columns: int, rows: int) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._master, self._slave = os.openpty()
        self.raw = bytearray()
        self.resize(columns, rows, tell=False)
        self.modes_before = termios.tcgetattr(self._slave)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def start(self, words: Sequence[str], environ: Mapping[str, str], cwd: str) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *words, stdin=self._slave, stdout=self._slave, stderr=self._slave, cwd=cwd,
            env={"TERM": "xterm-256color", **environ}, start_new_session=True,
        )  # fmt: skip
        asyncio.get_running_loop().add_reader(self._master, self._read)

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
        os.close(self._slave)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return
        self.raw += data
        # pyte has no alternate screen; what counts is that it was left.
        self._stream.feed(data)

    def press(self, *keys: str) -> None:
        """Names of KEYS, or texts as they are typed."""
        os.write(self._master, "".join(KEYS.get(key, key) for key in keys).encode())

    def resize(self, columns: int, rows: int, *, tell: bool = True) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, size)
        self._screen.resize(rows, columns)
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def line(self, part: str) -> str:
        """The first with that in it."""
        return next((line for line in self.lines if part in line), "")

    async def shows(self, *parts: str) -> None:
        try:
            await eventually(
                lambda: all(part in self.text for part in parts), deadline_s=DEADLINE_S
            )
        except AssertionError:
            raise AssertionError(f"{parts} not on the screen:\n{self.text}") from None

    async def hides(self, part: str) -> None:
        try:
            await eventually(lambda: part not in self.text, deadline_s=DEADLINE_S)
        except AssertionError:
            raise AssertionError(f"{part} still on the screen:\n{self.text}") from None

    async def ended(self) -> int:
        """The exit code; the terminal is as it was before."""
        code = await asyncio.wait_for(self.process.wait(), DEADLINE_S)
        entered, left = _ALTERNATE
        await eventually(lambda: self.raw.rfind(left) >= self.raw.rfind(entered))
        assert termios.tcgetattr(self._slave) == self.modes_before
        return code


@asynccontextmanager
async def terminal(
    words: Sequence[str], environ: Mapping[str, str], cwd: str, *, columns: int = 80, rows: int = 24
) -> AsyncIterator[Terminal]:
    found = Terminal(columns, rows)
    try:
        await found.start(words, environ, cwd)
        yield found
    finally:
        await found.close()
