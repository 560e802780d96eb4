"""What all of `formation.wire` builds on.

Maps have no order on the wire, and in each process that reads them another one; here they get one,
so that what follows from a document is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

V = TypeVar("V")


class WireError(ValueError):
    """Bytes or a message that cannot be one of ours."""


def in_order(found: Mapping[str, V]) -> dict[str, V]:
    """By name."""
    return dict(sorted(found.items()))
