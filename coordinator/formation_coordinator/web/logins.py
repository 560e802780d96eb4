"""Who a browser is: tickets that formctl asks for, and the sessions that they become.

In memory alone: a coordinator that starts anew asks everybody to log in again. Only digests are
kept, so that looking one up tells nothing of another by its time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from formation_coordinator.guard import Caller

TICKET_S = 60.0
SESSION_S = 8 * 3600.0
TICKETS_MAX, SESSIONS_MAX = 1_000, 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSession:
    """`csrf`: what every change must show beside the cookie."""

    caller: Caller
    csrf: str = field(repr=False)
    until_s: float


class Logins:
    """`new_secret()` gives a text that nobody can guess."""

    def __init__(self, *, clock: Callable[[], float], new_secret: Callable[[], str]) -> None:
        self._clock, self._new_secret = clock, new_secret
        self._tickets: dict[bytes, tuple[Caller, float]] = {}
        self._sessions: dict[bytes, WebSession] = {}

    def ticket(self, caller: Caller) -> str:
        """Good for one session of this caller, within TICKET_S."""
        self._sweep()
        while len(self._tickets) >= TICKETS_MAX:
            self._tickets.pop(next(iter(self._tickets)))
        ticket = self._new_secret()
        self._tickets[_digest(ticket)] = caller, self._clock() + TICKET_S
        return ticket

    def redeem(self, ticket: str) -> tuple[str, WebSession] | None:
        """The cookie and its session; None for a ticket that is used, too old, or none."""
        caller, until_s = self._tickets.pop(_digest(ticket), (None, 0.0))
        if caller is None or self._clock() >= until_s:
            return None
        self._sweep()
        while len(self._sessions) >= SESSIONS_MAX:
            self._sessions.pop(next(iter(self._sessions)))
        cookie = self._new_secret()
        session = WebSession(
            caller=caller, csrf=self._new_secret(), until_s=self._clock() + SESSION_S
        )
        self._sessions[_digest(cookie)] = session
        return cookie, session

    def session(self, cookie: str) -> WebSession | None:
        found = self._sessions.get(_digest(cookie))
        return found if found is not None and self._clock() < found.until_s else None

    def leave(self, cookie: str) -> None:
        self._sessions.pop(_digest(cookie), None)

    def _sweep(self) -> None:
        now_s = self._clock()
        self._tickets = {key: item for key, item in self._tickets.items() if item[1] > now_s}
        self._sessions = {key: item for key, item in self._sessions.items() if item.until_s > now_s}


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
