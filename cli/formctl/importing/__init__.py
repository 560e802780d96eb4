"""What others' files say an app is, as a beginning for formation.toml. Pure: text in, types out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath

from formctl.importing import appjson, compose, supervisord
from formctl.importing.found import ForeignError, Found

Reader = Callable[[str, str], Found]
_BY_ENDING: Mapping[str, Reader] = {
    ".yml": compose.read,
    ".yaml": compose.read,
    ".conf": supervisord.read,
    ".ini": supervisord.read,
}
APP_JSON = "app.json"


def reader_of(path: str) -> Reader | None:
    """By the file's name; None for what is none of these."""
    name = PurePath(path)
    return appjson.read if name.name == APP_JSON else _BY_ENDING.get(name.suffix.lower())


__all__ = ["APP_JSON", "ForeignError", "Found", "reader_of"]
