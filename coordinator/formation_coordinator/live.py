"""The world as this coordinator knows it now: etcd's mirror plus what its own agents just said.

Thin and without decisions. Statuses of hosts whose session is held here come straight from the
stream (etcd gets them later, coalesced), all else from the mirror. Everyone who needs to know is
told that something changed, never what: they look at `world`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from formation.model import AuditRecord, HostStatus
from formation.wire import WireError
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Event, StoreError
from formation_coordinator.store.mirror import Mirror
from formation_coordinator.world import Change, World, apply, restamp_silence

_REACH_S = 5.0

log = logging.getLogger(__name__)


class LiveWorld:
    def __init__(self, mirror: Mirror, clock: Callable[[], float]) -> None:
        self.world = World()
        self._mirror = mirror
        self._clock = clock
        self._held: set[str] = set()
        # What the leader here is writing: it need not be decoded when it comes back.
        self.written: dict[str, tuple[bytes, codec.Record]] = {}
        # In the order in which they came, which is the same whenever the same happens.
        self._hints: dict[asyncio.Event, None] = {}
        self._document_hints: dict[str, dict[asyncio.Event, None]] = {}
        # Called with the world before and after, and what has changed.
        self.listeners: list[Callable[[World, World, Sequence[Change]], None]] = []
        mirror.subscribe(self._on_events)

    def subscribe(self) -> asyncio.Event:
        """An event that every change sets; whoever waits on it clears it."""
        hint = asyncio.Event()
        self._hints[hint] = None
        return hint

    def unsubscribe(self, hint: asyncio.Event) -> None:
        self._hints.pop(hint, None)

    def subscribe_document(self, host: str) -> asyncio.Event:
        """Set only when this host's document, or any release, changes: there are many hosts."""
        hint = asyncio.Event()
        self._document_hints.setdefault(host, {})[hint] = None
        return hint

    def unsubscribe_document(self, host: str, hint: asyncio.Event) -> None:
        hints = self._document_hints.get(host, {})
        hints.pop(hint, None)
        if not hints:
            self._document_hints.pop(host, None)

    async def reach(self, revision: int) -> None:
        """Returns when the world is at least of that revision. Raises `StoreError`."""
        try:
            await self._mirror.wait_for(revision, _REACH_S)
        except TimeoutError as error:
            raise StoreError("this coordinator lags behind etcd; try again") from error

    def hold(self, host: str) -> None:
        """From now on this host's status comes from `publish`, not from etcd."""
        self._held.add(host)

    def let_go(self, host: str) -> None:
        """Back to etcd's word, which another coordinator may have written meanwhile."""
        self._held.discard(host)
        key = keys.status(host)
        record = self._mirror.records.get(key)
        self._on_events([Event(key=key, value=record, revision=self._mirror.revision)])

    def publish(self, status: HostStatus) -> None:
        """What a host with a session here just said."""
        self._apply([Change(kind="status", names=(status.host,), record=status)])

    def restamp(self) -> None:
        """A new leader judges nobody by what happened before it led."""
        self.world = restamp_silence(self.world, now_s=self._clock())

    def revision_of(self, key: str) -> int:
        """The key's mod_revision as mirrored, 0 when there is none."""
        record = self._mirror.records.get(key)
        return record.mod_revision if record else 0

    def _on_events(self, events: Sequence[Event]) -> None:
        self._apply(change for event in events if (change := self._change(event)))

    def _change(self, event: Event) -> Change | None:
        parsed = keys.parse(event.key)
        if parsed is None:
            return None
        kind, names = parsed.kind, parsed.names
        if kind == "status" and names[0] in self._held:
            return None
        if event.value is None:
            return Change(kind=kind, names=names, record=None, revision=event.revision)
        try:
            record = self._decode(event.key, event.value.value)
        except WireError as error:
            log.warning("etcd holds what this version cannot read: %s; it is left alone", error)
            return Change(
                kind=kind, names=names, record=None, problem=str(error), revision=event.revision
            )
        assert not isinstance(record, AuditRecord), "the audit trail is not mirrored"
        return Change(kind=kind, names=names, record=record, revision=event.revision)

    def _decode(self, key: str, value: bytes) -> codec.Record:
        known = self.written.get(key)
        return known[1] if known and known[0] == value else codec.decode(key, value)

    def _apply(self, given: Iterable[Change]) -> None:
        changes, before = tuple(given), self.world
        self.world = apply(self.world, changes, revision=self._mirror.revision, now_s=self._clock())
        for hint in self._hints:
            hint.set()
        for listener in self.listeners:
            listener(before, self.world, changes)
        for change in changes:
            if change.kind == "assignments":
                for hint in self._document_hints.get(change.names[0], ()):
                    hint.set()
            elif change.kind == "releases":  # rare; whoever waits for it knows
                for hints in self._document_hints.values():
                    for hint in hints:
                        hint.set()
