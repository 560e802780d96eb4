"""Log lines as foreman shows them: `HH:MM:SS web.1  | text`. Pure bytes out.

Into a pipe the text's bytes are left as they are. A terminal, and a pipe for which somebody has
said whether there shall be colours, gets no control characters but those: a log line must not be
able to move the cursor, set the title or forge another line.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from formation.gaps import Gap

_COLOURS = (b"36", b"33", b"32", b"35", b"34", b"96", b"93", b"92", b"95", b"94")
_RESET = b"\x1b[0m"
# Behind a line that goes on in the next record, or never ended. In a pipe bytes stay bytes.
_CUT = "…".encode()
_CUT_DIM = b"\x1b[2m" + _CUT + _RESET
_SYSTEM = "system"
_SYSTEM_COLOUR = b"37"
# A clock that was set back by more was wrong before.
_STEP_BACK_US = 60_000_000
_SGR = re.compile(r"(\x1b\[[0-9;:]*m)")


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """Ordered by time; `sequence` keeps the order of arrival among equal times. With a `gap`,
    `text` says what is missing here; without a name it is all of the host's."""

    at_us: int
    sequence: int
    name: str = field(compare=False)
    text: bytes = field(compare=False)
    app: str = field(compare=False, default="")
    host: str = field(compare=False, default="")
    stderr: bool = field(compare=False, default=False)
    partial: bool = field(compare=False, default=False)
    gap: Gap = field(compare=False, default=Gap.NONE)
    missing: int = field(compare=False, default=0)

    @property
    def type(self) -> str:
        return self.name.rpartition(".")[0]


class Painter:
    """Knows the width of the names so far and the colour of each type. `prefix`: whether time and
    name stand before each line."""

    def __init__(
        self, *, colour: bool, terminal: bool, names: Iterable[str] = (), prefix: bool = True
    ) -> None:
        self._prefix = prefix
        self._colour = colour
        self._terminal = terminal
        self._width = len(_SYSTEM) if names else 0
        self._colours: dict[str, bytes] = {}
        self._known: set[str] = set()
        self.expect(names)

    def expect(self, names: Iterable[str]) -> None:
        """Columns are made wide enough and colours given out before the first line shows."""
        for name in names:
            if name in self._known:
                continue
            self._known.add(name)
            self._width = max(self._width, len(name))
            self._colour_of(name.rpartition(".")[0])

    def line(self, line: Line) -> bytes:
        if not line.name:
            return self.system(line.at_us, line.text.decode(errors="replace"))
        self.expect((line.name,))
        return self._painted(line.at_us, line.name, self._colour_of(line.type), self._shown(line))

    def system(self, at_us: int, text: str) -> bytes:
        return self._painted(at_us, _SYSTEM, _SYSTEM_COLOUR, escaped(text.encode(), colour=False))

    def _painted(self, at_us: int, name: str, colour: bytes, text: bytes) -> bytes:
        if not self._prefix:
            return text + b"\n"
        prefix = f"{clock(at_us)} {name.ljust(self._width)} | ".encode()
        if self._colour:
            prefix = b"\x1b[" + colour + b"m" + prefix + _RESET
        return prefix + text + b"\n"

    def _shown(self, line: Line) -> bytes:
        if not self._terminal:
            return line.text
        shown = escaped(line.text, colour=self._colour)
        mark = _CUT_DIM if self._colour else _CUT
        return shown + mark if line.partial else shown

    def _colour_of(self, type_name: str) -> bytes:
        used = len(self._colours)
        return self._colours.setdefault(type_name, _COLOURS[used % len(_COLOURS)])


def clock(at_us: int) -> str:
    return _clock(at_us // 1_000_000)


@lru_cache(maxsize=64)
def _clock(at_s: int) -> str:
    """Many lines are of one second."""
    return datetime.fromtimestamp(at_s).astimezone().strftime("%H:%M:%S")


def escaped(text: bytes, *, colour: bool) -> bytes:
    """Control characters become `\\x1b` and the like; colour sequences stay if they are wanted."""
    decoded = text.removesuffix(b"\r").decode(errors="backslashreplace")
    if decoded.isprintable():
        return decoded.encode()
    shown = []
    for number, part in enumerate(_SGR.split(decoded)):
        if number % 2:
            shown.append(part if colour else "")
        else:
            shown.append("".join(map(_visible, part)))
    joined = "".join(shown).encode()
    # What this line switched on must not spill into the next one's time.
    return joined + _RESET if colour and b"\x1b[" in joined else joined


def _visible(character: str) -> str:
    if character == "\t" or character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


@dataclass(slots=True)
class History:
    """What all hosts kept, merged by time; holds no more than the last `lines_max` lines.

    The lines of one instance stay in its own order where its host's clock was set back a little.
    """

    lines_max: int | None
    _lines: list[tuple[int, int, Line]] = field(default_factory=list)
    _gaps: list[Line] = field(default_factory=list)  # of whole hosts: they hold for what comes now
    _newest_us: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        if not line.name:
            self._gaps.append(line)
            return
        key = line.host, line.name
        at_us, newest_us = line.at_us, self._newest_us.get(key, 0)
        if newest_us - _STEP_BACK_US <= at_us < newest_us:
            at_us = newest_us
        self._newest_us[key] = at_us
        if self.lines_max is None or len(self._lines) < self.lines_max:
            heapq.heappush(self._lines, (at_us, line.sequence, line))
        elif self.lines_max:
            heapq.heappushpop(self._lines, (at_us, line.sequence, line))

    def take(self) -> list[Line]:
        lines, gaps = sorted(self._lines), self._gaps
        self._lines, self._gaps, self._newest_us = [], [], {}
        return [*(line for _, _, line in lines), *gaps]
