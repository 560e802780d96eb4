"""Secrets as people see them: never a value. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from formctl.render import local_time
from formctl.tables import table


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretLine:
    """`version`: the release with which it was set, 0: a type names it and nobody has set it."""

    name: str
    version: int = 0
    set_at_ms: int = 0
    set_by: str = ""
    key: str = ""
    types: tuple[str, ...] = ()


def secrets(found: Sequence[SecretLine], *, width: int | None = None) -> str:
    if not found:
        return "no secrets; set one: formctl secret set NAME"
    header = ("NAME", "VERSION", "SET", "BY", "TYPES")
    rows = [
        (
            item.name,
            f"v{item.version}" if item.version else "not set",
            local_time(item.set_at_ms),
            item.set_by or "-",
            " ".join(item.types) or "none",
        )
        for item in found
    ]
    return table(header, rows, width=width)
