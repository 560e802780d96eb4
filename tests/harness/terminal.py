"""A program in a real terminal: what is typed, what it shows, its size, and how it was left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

DEADLINE_S = 60.0
# Both ends of a line's life; where the terminal is raw neither is on.
_COOKED = termios.ICANON | termios.ECHO


class Terminal:
    """Use as a context manager. The terminal stays when the program has ended."""

    def __init__(
        self,
        words: Sequence[str],
        environ: Mapping[str, str],
        cwd: Path,
        *,
        size: tuple[int, int] = (24, 80),
    ) -> None:
        self._ours, self._theirs = os.openpty()
        self.resize(*size)
        self.before = self._settings()
        self.shown = b""
        self._seen = 0
        self.process = subprocess.Popen(
            words,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**environ, "TERM": "xterm-256color"},
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_control_terminal,  # noqa: PLW1509  there is no other way, and no thread
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    # -- keys and size -----------------------------------------------------------------------------

    def type(self, keys: str | bytes) -> None:
        os.write(self._ours, keys.encode() if isinstance(keys, str) else keys)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    # -- what it shows -----------------------------------------------------------------------------

    def wait_for(self, text: str | bytes) -> bytes:
        """What was shown since the last wait, up to and with this."""
        wanted = text.encode() if isinstance(text, str) else text
        ends_s = time.monotonic() + DEADLINE_S
        while (at := self.shown.find(wanted, self._seen)) < 0:
            left_s = ends_s - time.monotonic()
            assert left_s > 0, f"{wanted!r} was not shown: {self.shown[self._seen :]!r}"
            self._read(left_s)
        since, self._seen = self._seen, at + len(wanted)
        return self.shown[since : self._seen]

    def _read(self, most_s: float) -> bool:
        readable, _, _ = select.select([self._ours], [], [], min(most_s, 0.2))
        if readable:
            self.shown += os.read(self._ours, 1 << 16)
        return bool(readable)

    def exit_code(self) -> int:
        """Of the program; what it shows meanwhile is read."""
        ends_s = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < ends_s, f"it has not ended: {self.shown[-2000:]!r}"
            self._read(0.05)
        while self._read(0.0):
            pass
        return self.process.returncode

    # -- how it is left ----------------------------------------------------------------------------

    @property
    def is_raw(self) -> bool:
        return not self._settings()[3] & _COOKED

    @property
    def is_as_before(self) -> bool:
        return self._settings() == self.before

    def _settings(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)


def _control_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
