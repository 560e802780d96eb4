"""Every store behind one face, so that the same contract tests run on each."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import etcd_server
import pytest

from formation_coordinator.store.base import Store
from formation_coordinator.store.etcd import EtcdStore
from formation_coordinator.store.memory import MemoryStore

ETCDS = tuple(etcd_server.MISSING)
BACKENDS = ("memory", *ETCDS)
_prefixes = itertools.count(1)


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(slots=True)
class MemoryBackend:
    store: MemoryStore
    clock: ManualClock

    def compact(self, revision: int) -> None:
        self.store.compact(revision)

    def pass_time(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.store.tick()


@dataclass(slots=True)
class EtcdBackend:
    store: Store
    endpoint: str

    def compact(self, revision: int) -> None:
        etcd_server.compact(self.endpoint, revision)

    def pass_time(self, seconds: float) -> None:
        """Passes by itself: the test waits for what follows from it."""


Backend = MemoryBackend | EtcdBackend


def require_etcd(flavour: str) -> etcd_server.EtcdBinary:
    binary = etcd_server.find(flavour)
    if binary is None:
        pytest.skip(etcd_server.MISSING[flavour])
    return binary


@asynccontextmanager
async def open_backend(name: str) -> AsyncIterator[Backend]:
    """An empty one."""
    if name == "memory":
        clock = ManualClock()
        yield MemoryBackend(MemoryStore(clock=clock), clock)
        return
    endpoint = etcd_server.shared_server(require_etcd(name)).endpoint
    store = EtcdStore(endpoint, prefix=f"/contract-{next(_prefixes)}/")
    try:
        yield EtcdBackend(store, endpoint)
    finally:
        await store.close()
