"""One step of a rolling change: which stale stays may be replaced now. Pure.

A stay is stale when it runs an older release or has not had a restart that was asked for. Stale and
unavailable ones cost nothing to replace; available ones are replaced only while no more than
`unavailable_max(quantity)` of the type are away, so a release that does not come up stops itself.
What has FINISHED is available: its work is done. What has FAILED is not, and stays away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_SHARE = 4  # a quarter of a type may be away at once, at least one


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """`demanded`: an operator named this very slot, so the type's budget does not hold it."""

    ordinal: int
    stale: bool
    available: bool
    demanded: bool = False


def unavailable_max(quantity: int) -> int:
    return max(1, quantity // _SHARE)


def replaceable(stays: Sequence[Stay], quantity: int) -> tuple[int, ...]:
    """The ordinals to replace in this step, lowest first.

    `stays` holds the one kept stay of every slot; slots without any count as unavailable.
    """
    away = max(0, quantity - sum(1 for stay in stays if stay.available))
    budget = unavailable_max(quantity) - away
    chosen = []
    for stay in sorted(stays, key=lambda item: item.ordinal):
        if not stay.stale:
            continue
        if stay.available and not stay.demanded:
            if budget <= 0:
                continue
            budget -= 1
        chosen.append(stay.ordinal)
    return tuple(chosen)
