"""What this machine lets formations do, whatever a coordinator says. Pure.

The words are those of the machine's owner (`agent.toml`); no message changes them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

ANYBODY = "*"
ROOT = "root"
_HOW = "start the agent with --allow-user {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrails:
    """`users`: who instances may run as, "*" is anybody; empty: anybody but root. `default_user`:
    for types that name none, "" is the agent's own. `directories`: where they may run, with all
    below; empty: anywhere."""

    users: tuple[str, ...] = ()
    default_user: str = ""
    directories: tuple[str, ...] = ()


OPEN = Guardrails(users=(ANYBODY,))


def objection(rails: Guardrails, *, name: str, uid: int, gids: Collection[int]) -> str:
    """Why nothing may run as this user, with these groups, here; or "". Root's group opens what
    is root's, so it is root."""
    if ANYBODY in rails.users or name in rails.users:
        return ""
    if uid == 0:
        how = _HOW.format(ROOT)
        return f"would run as root: name a user in the type (user = …), or {how}"
    if 0 in gids and ROOT not in rails.users:
        return f"user {name} is in root's group: take it out, or {_HOW.format(name)}"
    if rails.users:
        return f"may not run as {name} here, only as {', '.join(rails.users)}"
    return ""
