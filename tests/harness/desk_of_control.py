"""The rooms that carry out what people ask for, over a store in memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from worlds import process_type

from formation.model import App, AuditRecord, Host, ProcessType, Release
from formation.requests import Run
from formation_coordinator.control import Control
from formation_coordinator.control_hosts import HostControl
from formation_coordinator.control_releases import ReleaseControl
from formation_coordinator.control_runs import RunControl
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Put
from formation_coordinator.store.memory import MemoryStore

WEB = process_type("web", initial_quantity=1)
WORKER = process_type("worker")


class ControlDesk:
    def __init__(self) -> None:
        self.store = MemoryStore(clock=lambda: 0.0)
        self.times = count(1_000)
        numbers = count(1)
        shell = {
            "store": self.store,
            "now_ms": lambda: next(self.times),
            "new_id": lambda: f"id{next(numbers):04d}",
        }
        self.apps = Control(**shell)  # type: ignore[arg-type]
        self.releases = ReleaseControl(**shell)  # type: ignore[arg-type]
        self.hosts = HostControl(**shell)  # type: ignore[arg-type]
        self.runs = RunControl(**shell)  # type: ignore[arg-type]

    async def apply(
        self, *types: ProcessType, env: dict[str, str] | None = None, canary: int = 0
    ) -> App:
        wanted = Release(app="shop", number=0, types=types or (WEB, WORKER), env=env or {})
        return (await self.apps.apply(wanted, {}, "ann", canary=canary)).app

    async def arrive(self) -> App:
        """As the leader notes that a change is everywhere."""
        app = await self.app()
        return await self.put_app(replace(app, stable_release=app.release))

    async def put_app(self, app: App) -> App:
        await self.store.commit([], [Put(keys.app(app.name), codec.encode(app))])
        return app

    async def app(self) -> App:
        item = await self.store.get(keys.app("shop"))
        assert item is not None
        record = codec.decode(item.key, item.value)
        assert isinstance(record, App)
        return record

    async def host(self, name: str) -> Host:
        item = await self.store.get(keys.host(name))
        assert item is not None
        record = codec.decode(item.key, item.value)
        assert isinstance(record, Host)
        return record

    async def join(self, name: str) -> None:
        await self.store.commit([], [Put(keys.host(name), codec.encode(Host(name=name)))])

    async def run(self, run_id: str) -> Run:
        item = await self.store.get(keys.run("shop", run_id))
        assert item is not None
        record = codec.decode(item.key, item.value)
        assert isinstance(record, Run)
        return record

    async def history(self) -> list[AuditRecord]:
        found = (await self.store.ranges([keys.AUDIT])).items
        records = [codec.decode(item.key, item.value) for item in found]
        return [record for record in records if isinstance(record, AuditRecord)]
