"""Where a dev session writes: instances' lines and its own, in foreman's form, on stdout.

Writing blocks when the reader is slow; that is wanted, since it slows the instances in the end
instead of growing memory here. A reader that has gone ends the session.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Callable

from formctl.loglines import Line, Painter


class Console:
    """`on_gone` is called once, when nobody reads any more."""

    def __init__(
        self,
        out: io.BufferedIOBase,
        painter: Painter,
        *,
        now_us: Callable[[], int],
        on_gone: Callable[[], None] = lambda: None,
    ) -> None:
        self._out = out
        self._painter = painter
        self._now_us = now_us
        self.on_gone = on_gone
        self.is_gone = False
        self.lines_written = 0

    def system(self, text: str) -> None:
        for line in text.splitlines():
            self._write(self._painter.system(self._now_us(), line))

    def lines(self, lines: list[Line]) -> None:
        self.lines_written += len(lines)
        self._write(b"".join(map(self._painter.line, lines)))

    def _write(self, raw: bytes) -> None:
        if self.is_gone:
            return
        try:
            self._out.write(raw)
            self._out.flush()
        except OSError as error:
            closed_window = error.errno == errno.EIO
            if not closed_window and not isinstance(error, BrokenPipeError):
                raise
            self.is_gone = True
            self.on_gone()
