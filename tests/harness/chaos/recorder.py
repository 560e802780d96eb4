"""What was decided in etcd during a run, in order, with what justifies it; looked at afterwards.

Watches documents, apps and sessions by itself, and through outages: etcd keeps the history.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field

from formation.model import App, Assignment, AssignmentDocument
from formation_coordinator.store import codec
from formation_coordinator.store.base import Event, Span, StoreError
from formation_coordinator.store.etcd import EtcdStore


@dataclass(slots=True)
class Stay:
    """One assignment over its life, in seconds after the beginning."""

    item: Assignment
    host: str
    placed_s: float
    gone_s: float | None = None
    # Why it could go: another of its slot, fewer wanted, another definition.
    because: str = ""


@dataclass(slots=True)
class Record:
    stays: dict[str, Stay] = field(default_factory=dict)
    stale_writes: int = 0
    unexplained: list[str] = field(default_factory=list)


class Recorder(threading.Thread):
    def __init__(self, endpoints: str, began_s: float) -> None:
        super().__init__(daemon=True)
        self.record = Record()
        self._endpoints, self._began_s = endpoints.split(","), began_s
        self._apps: dict[str, App] = {}
        self._documents: dict[str, AssignmentDocument] = {}
        self._epoch = 0
        self._over = threading.Event()

    def run(self) -> None:
        asyncio.run(self._watch())

    def finish(self) -> Record:
        self._over.set()
        self.join(timeout=20.0)
        return self.record

    async def _watch(self) -> None:
        store = EtcdStore(self._endpoints)
        revision = 0
        while not self._over.is_set():
            with contextlib.suppress(StoreError, TimeoutError):
                if not revision:
                    snapshot = await store.ranges([Span.prefix("")])
                    for item in snapshot.items:
                        self._take(Event(key=item.key, value=item, revision=item.mod_revision))
                    revision = snapshot.revision
                async with asyncio.timeout(1.0):
                    async for batch in store.watch(Span.prefix(""), revision + 1):
                        for event in batch.events:
                            self._take(event)
                        revision = batch.revision
            await asyncio.sleep(0.05)
        await store.close()

    def _take(self, event: Event) -> None:
        kind, _, name = event.key.partition("/")
        if event.value is None:
            return
        if kind == "leader":
            self._epoch = max(self._epoch, event.value.create_revision)
        elif kind == "apps":
            app = codec.decode(event.key, event.value.value)
            assert isinstance(app, App)
            self._apps[name] = app
        elif kind == "assignments":
            document = codec.decode(event.key, event.value.value)
            assert isinstance(document, AssignmentDocument)
            self._follow(document)

    def _follow(self, document: AssignmentDocument) -> None:
        now_s = time.monotonic() - self._began_s
        self.record.stale_writes += document.epoch < self._epoch
        before = self._documents.get(document.host)
        self._documents[document.host] = document
        new = {item.uid: item for item in document.instances}
        for uid, item in new.items():
            if uid not in self.record.stays:
                self.record.stays[uid] = Stay(item, document.host, now_s)
        for item in before.instances if before else ():
            if item.uid not in new:
                stay = self.record.stays[item.uid]
                stay.gone_s, stay.because = now_s, self._why(item)
                if not stay.because:
                    self.record.unexplained.append(f"{item.uid} on {document.host} at {now_s:.1f}")

    def _why(self, item: Assignment) -> str:
        """Of what is written now."""
        app = self._apps.get(item.slot.app)
        if app is None:
            return "the app is gone"
        everywhere = [i for d in self._documents.values() for i in d.instances]
        if any(i.slot == item.slot for i in everywhere):
            return "another one has its slot"
        if item.ending:
            return "it had ended"
        slots = {i.slot.ordinal for i in everywhere if i.slot.type == item.slot.type}
        if len(slots) >= app.formation.get(item.slot.type, 0):
            return "fewer are wanted"
        return ""
