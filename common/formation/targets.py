"""What a person names to act on: a type (`web`) or one of its instances (`web.3`)."""

from __future__ import annotations

import re

from formation.errors import InputError
from formation.names import TYPE_NAME

_ORDINAL = re.compile(r"[1-9][0-9]{0,6}")


def parse_target(text: str | None) -> tuple[str, int]:
    """`web` → ("web", 0), `web.3` → ("web", 3), nothing → ("", 0): every type.

    Raises `InputError`.
    """
    if not text:
        return "", 0
    name, dot, number = text.partition(".")
    if not TYPE_NAME.fullmatch(name) or (dot and not _ORDINAL.fullmatch(number)):
        raise InputError(f"{text!r} is neither a type (web) nor an instance (web.3)")
    return name, int(number or 0)
