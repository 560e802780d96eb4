"""Tokens and identities as text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from formation.identity import IssuedIdentity, JoinToken, Trust
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


def rotation(trust: Trust, behind: Sequence[IssuedIdentity], *, width: int | None = None) -> str:
    """How far it is, and what comes next."""
    lines = [f"authority {trust.signer} signs"]
    if len(trust.authorities) == 1:
        return f"{lines[0]}; no other counts"
    lines[0] += "; the one before still counts"
    if not behind:
        return f"{lines[0]}, and nobody needs it: formctl access rotate --finish"
    lines.append(identities(behind, width=width))
    lines.append("these have nothing of it yet; they renew within a day when they are connected")
    return "\n".join(lines)


def is_revoked(item: IssuedIdentity) -> bool:
    return item.issued_at_ms < item.void_before_ms


def _time(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
