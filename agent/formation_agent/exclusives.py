"""Exclusive stays run only while the agent's lease holds: stopped when it is over, started again
when it is back. A part of the supervisor, whose table this looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set

from formation_agent import machine
from formation_agent.entries import Entry
from formation_agent.lease import Lease
from formation_agent.machine import Phase
from formation_agent.rooms import Children

_WAITS = "waits for a coordinator: it is exclusive"
_OVER = "no coordinator was heard for too long: it is exclusive"


class Exclusives:
    """`feed` gives an event to a stay's machine, `start` starts one if its slot is free."""

    def __init__(
        self,
        children: Children,
        entries: Mapping[str, Entry],
        live: Set[str],
        feed: Callable[[str, machine.Event], None],
        start: Callable[[Entry], None],
    ) -> None:
        self._entries, self._live, self._feed, self._start = entries, live, feed, start
        self.lease = Lease(
            until_s=children.lease_until_s,
            over=self._stop_all,
            back=self._start_all,
            tell=children.lease,
        )

    @property
    def are_any(self) -> bool:
        return any(self._entries[uid].stay.spec.exclusive for uid in self._live)

    def hindrance(self, entry: Entry) -> str:
        """Why it may not be started now; "" when it may."""
        return _WAITS if entry.stay.spec.exclusive and not self.lease.holds else ""

    def _stop_all(self) -> None:
        """Before one of them may be started elsewhere."""
        for uid in [uid for uid in self._live if self._entries[uid].stay.spec.exclusive]:
            if self._entries[uid].stay.phase is not Phase.WAITING:
                self._feed(uid, machine.StopWanted(reason=_OVER, at_once=True))

    def _start_all(self) -> None:
        for entry in [e for e in self._entries.values() if e.stay.spec.exclusive]:
            self._start(entry)
