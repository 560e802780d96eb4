"""TOML as people write it: `loads` gives its table or raises `TomlError`, also for what is nested
without end. The parser is loaded when there is something to parse."""

from __future__ import annotations

from typing import Any


class TomlError(ValueError):
    """What is wrong, and in which line and column."""


def loads(text: str) -> dict[str, Any]:
    import tomllib

    try:
        # As in every text file, a byte order mark is not content.
        return tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise TomlError(str(error)) from None
    except RecursionError:
        raise TomlError("nested too deeply") from None
