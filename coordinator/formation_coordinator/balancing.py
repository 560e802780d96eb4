"""Coordinators share the agents evenly: who has too many asks some to go on elsewhere.

Who has how many is in etcd, so each decides for itself about its own. A few at a time, since each
that moves is a handshake for both sides; its host is never without a session in etcd.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from formation.model import Coordinator
from formation_coordinator.live import LiveWorld
from formation_coordinator.registration import AgentSession

log = logging.getLogger(__name__)

LOOKS_EVERY_S = 2.0
MOVES_EACH_LOOK = 40
# So many too many, or such a share of what is fair, are not worth a handshake.
TOLERATED, TOLERATED_SHARE = 8, 0.1
# Coordinators that are restarted one after the other would send agents round in circles.
SETTLED_S = 10.0
# Whoever does not come there is not asked again soon: it may not be able to.
ASKED_AGAIN_S = 600.0


def moves(counts: Mapping[str, int], me: str) -> dict[str, int]:
    """How many of our agents ought to be whose. `counts`: agents of every coordinator, at `me` too.

    Each fills its part of the room that others have, so that several with too many do not all go
    to the same one.
    """
    mean = sum(counts.values()) / len(counts)
    if counts[me] - mean <= max(TOLERATED, mean * TOLERATED_SHARE):
        return {}
    fair = math.ceil(mean)
    too_many = sum(max(0, count - fair) for count in counts.values())
    room = {name: max(0, math.floor(mean) - count) for name, count in counts.items()}
    share = (counts[me] - fair) / max(1, too_many, sum(room.values()))
    return {name: int(free * share) for name, free in sorted(room.items()) if int(free * share) > 0}


class Balancing:
    """`held`: the sessions here. `is_busy`: somebody follows something through it, which a move
    would cut. `may`: whether what we know of the others is of now."""

    def __init__(
        self,
        *,
        live: LiveWorld,
        me: Coordinator,
        held: Mapping[str, AgentSession],
        is_busy: Callable[[str], bool],
        may: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._live, self._me, self._held = live, me, held
        self._is_busy, self._may, self._clock = is_busy, may, clock
        self._others: Collection[str] = ()
        self._settled_s = 0.0
        self._asked: dict[str, tuple[AgentSession, str, float]] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOKS_EVERY_S)
            self.look()

    def look(self) -> None:
        now_s = self._clock()
        others = self._live.world.coordinators.keys() - {self._me.id}
        if others != self._others or not self._may():
            self._others, self._settled_s = others, now_s + SETTLED_S
        if not others or now_s < self._settled_s:
            return
        self._asked = {
            host: asked
            for host, asked in self._asked.items()
            if now_s - asked[2] < ASKED_AGAIN_S
        }  # fmt: skip
        wanted = moves(self._counts(), self._me.id)
        hosts = self._movable()
        for name, count in wanted.items():
            for session in hosts[:count]:
                self._ask(session, name, now_s)
            del hosts[:count]

    def _counts(self) -> dict[str, int]:
        """Who was asked to go counts as gone while etcd has the session that it was asked in."""
        counts = Counter(
            entry.session.coordinator_id
            for entry in self._live.world.hosts.values()
            if entry.session is not None
        )
        for host, (session, name, _) in self._asked.items():
            entry = self._live.world.hosts.get(host)
            if entry and entry.session and entry.session.session_id == session.id:
                counts[self._me.id] -= 1
                counts[name] += 1
        return {name: counts[name] for name in (self._me.id, *self._others)}

    def _movable(self) -> list[AgentSession]:
        """At most as many as may move at once."""
        found: list[AgentSession] = []
        for session in self._held.values():
            if len(found) == MOVES_EACH_LOOK:
                break
            if session.host not in self._asked and not self._is_busy(session.host):
                found.append(session)
        return found

    def _ask(self, session: AgentSession, name: str, now_s: float) -> None:
        address = self._live.world.coordinators[name].address
        self._asked[session.host] = session, name, now_s
        log.info("host %s: asked to go on at coordinator %s (%s)", session.host, name, address)
        session.move(address)
