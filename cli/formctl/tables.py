"""Cells → columns. Pure text out; what a colour means is the caller's word.

For a terminal of `width` columns a last cell that does not fit goes to lines of its own below its
row, so that the columns stay columns. Into a pipe (`width` None) a row is always one line.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence

_GAP = "  "
_INDENT = "    "
_NOTE_MIN = 30
# (row from 0, column, padded cell) → what is printed, which may hold colours.
Paint = Callable[[int, int, str], str]


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    width: int | None = None,
    paint: Paint | None = None,
) -> str:
    """Left-aligned columns, two blanks between; a last column that is empty leaves no blanks."""
    cells = [tuple(printable(cell) for cell in row) for row in rows]
    lines = [tuple(header), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    before = sum(widths[:-1]) + len(_GAP) * (len(header) - 1)
    shown = [_joined(lines[0], widths, None)]
    for number, row in enumerate(cells):
        painted = _painter(paint, number)
        if width is None or before + len(row[-1]) <= width:
            shown.append(_joined(row, widths, painted))
        else:
            shown.append(_joined((*row[:-1], ""), widths, painted))
            shown += below(row[-1], width)
    return "\n".join(shown)


def below(text: str, width: int) -> list[str]:
    """Indented lines that fit."""
    fitting = max(width, len(_INDENT) + _NOTE_MIN)
    return textwrap.wrap(text, fitting, initial_indent=_INDENT, subsequent_indent=_INDENT)


def hanging(label: str, text: str, width: int | None) -> str:
    """`label` in front of `text`, whose further lines begin below its first."""
    if width is None or len(label) + len(text) <= width:
        return label + text
    fitting = max(width, len(label) + _NOTE_MIN)
    return textwrap.fill(text, fitting, initial_indent=label, subsequent_indent=" " * len(label))


def printable(text: str) -> str:
    """What a machine far away wrote must not move this terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _painter(paint: Paint | None, row: int) -> Callable[[int, str], str] | None:
    return None if paint is None else lambda column, padded: paint(row, column, padded)


def _joined(
    line: Sequence[str], widths: Sequence[int], paint: Callable[[int, str], str] | None
) -> str:
    padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
    while padded and not padded[-1].strip():
        padded.pop()
    if padded:
        padded[-1] = padded[-1].rstrip()
    if paint is not None:
        padded = [paint(column, cell) for column, cell in enumerate(padded)]
    return _GAP.join(padded)
