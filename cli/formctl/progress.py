"""How far something is that one waits for → one line of a terminal. Pure: times are arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from formctl.cells import fit
from formctl.tables import printable

_BAR, _BAR_NARROW = 20, 10
_NARROW, _TINY = 70, 40
_NAMED_MAX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`total` 0: nobody knows how many; then there is no bar. `what`: what is waited for."""

    done: int = 0
    total: int = 0
    what: str = ""


def line(step: Step, *, elapsed_s: float, columns: int) -> str:
    """`[#####-----] 12/24 8s  web.13 starting, web.14 starting and 10 more`; always one row."""
    parts = [took(elapsed_s), printable(step.what)]
    if step.total:
        parts.insert(0, f"{_bar(step, columns)}{step.done}/{step.total}")
    return fit("  ".join(part for part in parts if part), columns - 1)


def _bar(step: Step, columns: int) -> str:
    if columns < _TINY:
        return ""
    cells = _BAR_NARROW if columns < _NARROW else _BAR
    full = cells * step.done // step.total
    return f"[{'#' * full}{'-' * (cells - full)}] "


def took(seconds: float) -> str:

    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def named(found: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    if len(found) <= _NAMED_MAX + 1:
        return ", ".join(found)
    return f"{', '.join(found[:_NAMED_MAX])} and {len(found) - _NAMED_MAX} more"
