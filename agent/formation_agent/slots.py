"""Who holds a slot, and who waits for it. Knows slots and uids, nothing else."""

from __future__ import annotations

from collections import deque

from formation.model import Slot


class Slots:
    """The first uid of a slot holds it; the others wait, in order, for its processes to be gone."""

    def __init__(self) -> None:
        self._uids: dict[Slot, deque[str]] = {}

    def enter(self, slot: Slot, uid: str) -> None:
        self._uids.setdefault(slot, deque()).append(uid)

    def holds(self, slot: Slot, uid: str) -> bool:
        uids = self._uids.get(slot)
        return uids is not None and uids[0] == uid

    def leave(self, slot: Slot, uid: str) -> str | None:
        """The uid whose turn it is now, if the one that leaves held the slot."""
        uids = self._uids[slot]
        held = uids[0] == uid
        uids.remove(uid)
        if not uids:
            del self._uids[slot]
            return None
        return uids[0] if held else None

    def is_empty(self, slot: Slot) -> bool:
        return slot not in self._uids
