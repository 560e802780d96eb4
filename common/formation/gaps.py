"""What is said where log lines are missing. Pure."""

from __future__ import annotations

from enum import Enum


class Gap(Enum):
    """The values are those of `formctl logs -o json`."""

    NONE = ""
    ROTATED = "rotated"
    AWAY = "away"
    HOST_LOST = "host-lost"
    HOST_BACK = "host-back"


_WHY = {
    Gap.ROTATED: "rotated away before they could be read",
    Gap.AWAY: "more was written meanwhile than is sent again; --tail all reads what is kept",
}


def words(gap: Gap, *, missing: int = 0, host: str = "", whole: bool = True) -> str:
    """For people. `missing`: lines, 0 when nobody knows. `whole`: all that was missed has come."""
    match gap:
        case Gap.HOST_LOST:
            return f"host {host} does not answer: its lines are missing from here"
        case Gap.HOST_BACK:
            if whole:
                return f"host {host} is back: what it kept meanwhile has come"
            return f"host {host} is back, elsewhere: its lines of meanwhile are missing"
    some = f"{missing:,} line{'' if missing == 1 else 's'}" if missing else "some lines"
    return f"{some} {'is' if missing == 1 else 'are'} missing here: {_WHY.get(gap, 'gone')}"
