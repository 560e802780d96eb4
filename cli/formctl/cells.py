"""How much room a text takes on a terminal, and cutting it to that. Pure.

A character is one cell wide, East Asian wide ones two, combining marks none.
"""

from __future__ import annotations

import unicodedata

_CUT = "…"
_WIDE = ("W", "F")
_NO_WIDTH = ("Mn", "Me")


def width(text: str) -> int:
    return len(text) if text.isascii() else sum(map(_of, text))


def fit(text: str, cells: int) -> str:
    """At most so many cells; what is left out shows as `…`."""
    if cells <= 0:
        return ""
    if width(text) <= cells:
        return text
    taken = 0
    for number, character in enumerate(text):
        taken += _of(character)
        if taken > cells - 1:
            return text[:number] + _CUT
    return text


def pad(text: str, cells: int, *, right: bool = False) -> str:
    """Just so many cells."""
    shown = fit(text, cells)
    blanks = " " * (cells - width(shown))
    return blanks + shown if right else shown + blanks


def _of(character: str) -> int:
    if unicodedata.category(character) in _NO_WIDTH:
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1
