"""Tokens and identities as text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from formation.identity import IssuedIdentity, JoinToken
from formctl.tables import table


def about(token: JoinToken) -> str:
    """What was just made, for the person beside it."""
    whom = f"{token.role} {token.name}".strip()
    times = "once" if token.uses_left == 1 else f"{token.uses_left} times"
    return f"token {token.id}: {whom}, {times}, until {_time(token.expires_at_ms)}"


def tokens(found: Sequence[JoinToken], *, width: int | None = None) -> str:
    if not found:
        return "no token waits to be used"
    rows = [
        (
            token.id,
            str(token.role),
            token.name or "any",
            ",".join(token.apps) or "-",
            str(token.uses_left),
            _time(token.expires_at_ms),
            token.who,
        )
        for token in found
    ]
    return table(("ID", "ROLE", "NAME", "APPS", "USES", "UNTIL", "WHO"), rows, width=width)


def identities(found: Sequence[IssuedIdentity], *, width: int | None = None) -> str:
    if not found:
        return "nobody was given a certificate by this cluster yet"
    rows = [
        (
            str(item.role),
            item.name,
            ",".join(item.apps) or "-",
            _time(item.issued_at_ms),
            _time(item.expires_at_ms),
            "revoked" if is_revoked(item) else "",
        )
        for item in found
    ]
    return table(("ROLE", "NAME", "APPS", "ISSUED", "UNTIL", "NOTE"), rows, width=width)


def is_revoked(item: IssuedIdentity) -> bool:
    return item.issued_at_ms < item.void_before_ms


def _time(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
