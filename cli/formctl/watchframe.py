"""A list that stays on a terminal and is drawn again in its place: as much of it as there is room
for, and what changed last. Pure: text in, text out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from formctl import wording
from formctl.cells import fit, width
from formctl.tables import printable
from formctl.views import Instance, Update

_HOME, _ERASE_LINE, _ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_INDENT = "    "
# Of what changed.
CHANGES_MAX = 3


def frame(text: str, changes: Sequence[str], *, columns: int, rows: int) -> str:
    """Written as it is: over what is there, row by row, so that nothing flickers.

    The last row stays free: a terminal would scroll.
    """
    lines = text.split("\n")
    told = list(changes[-CHANGES_MAX:]) if rows > 2 * CHANGES_MAX else []
    room = max(1, rows - 1 - len(told))
    if len(lines) > room:
        more = sum(not line.startswith(_INDENT) for line in lines[room - 1 :])
        lines = [*lines[: room - 1], f"and {more} more; formctl top scrolls"]
    shown = [_cut(line, columns) + _ERASE_LINE for line in [*lines, *told]]
    return _HOME + "\n".join(shown) + "\n" + _ERASE_BELOW


def _cut(line: str, columns: int) -> str:
    """In one row; a line that is too long loses its colours."""
    plain = _COLOUR.sub("", line)
    return line if width(plain) <= columns else fit(plain, columns)


def changes(
    before: Mapping[str, Instance], update: Update, gone: Sequence[Instance], *, now_ms: int
) -> list[str]:
    """A line for each that is not what it was; nothing of a first picture."""
    if not before:
        return []
    lines = [f"{item.slot.short} has gone from {item.host}" for item in gone if item.host]
    for item in update.changed:
        old = before.get(item.uid)
        text = wording.state(item)
        said = wording.note(item, now_ms)
        if old is None or wording.state(old) != text or wording.note(old, now_ms) != said:
            where = f" on {item.host}" if item.host else ""
            lines.append(f"{item.slot.short} {text}{where}{f': {said}' if said else ''}")
    return [printable(line) for line in lines]
