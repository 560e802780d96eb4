"""TOML as people write it, or `tomllib.TOMLDecodeError`: also for what is nested without end."""

from __future__ import annotations

import tomllib
from typing import Any

TOMLDecodeError = tomllib.TOMLDecodeError


def loads(text: str) -> dict[str, Any]:
    try:
        # As in every text file, a byte order mark is not content.
        return tomllib.loads(text.removeprefix("\ufeff"))
    except RecursionError:
        raise TOMLDecodeError("nested too deeply") from None
