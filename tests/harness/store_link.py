"""One coordinator's own connection to a store that others share: it can be cut, and heal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from formation_coordinator.store.base import (
    Compare,
    Health,
    KeyValue,
    Operation,
    Outcome,
    Snapshot,
    Span,
    Store,
    StoreUnavailable,
    WatchBatch,
)


class StoreLink:
    """While `cut`, every call fails after `patience_s`, and watches end."""

    def __init__(self, store: Store, *, patience_s: float = 0.0) -> None:
        self.patience_s = patience_s
        self._store = store
        self._broken = asyncio.Event()

    @property
    def cut(self) -> bool:
        return self._broken.is_set()

    @cut.setter
    def cut(self, value: bool) -> None:
        if value:
            self._broken.set()
        else:
            self._broken.clear()

    async def ranges(self, spans: Sequence[Span], *, timeout_s: float = 30.0) -> Snapshot:
        await self._pass()
        return await self._store.ranges(spans, timeout_s=timeout_s)

    async def get(self, key: str, *, timeout_s: float = 5.0) -> KeyValue | None:
        await self._pass()
        return await self._store.get(key, timeout_s=timeout_s)

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Outcome:
        await self._pass()
        return await self._store.commit(compares, operations)

    async def watch(self, span: Span, from_revision: int) -> AsyncGenerator[WatchBatch, None]:
        await self._pass()
        async with aclosing(self._store.watch(span, from_revision)) as batches:
            while True:
                coming = asyncio.ensure_future(anext(batches))
                broken = asyncio.ensure_future(self._broken.wait())
                try:
                    await asyncio.wait([coming, broken], return_when=asyncio.FIRST_COMPLETED)
                    await self._pass()
                    yield await coming
                finally:
                    coming.cancel()
                    broken.cancel()
                    await asyncio.wait([coming, broken])

    async def grant_lease(self, ttl_s: float) -> int:
        await self._pass()
        return await self._store.grant_lease(ttl_s)

    async def keep_lease(self, lease: int) -> float:
        await self._pass()
        return await self._store.keep_lease(lease)

    async def revoke_lease(self, lease: int) -> None:
        await self._pass()
        await self._store.revoke_lease(lease)

    async def health(self) -> Health:
        self._require_whole()
        return await self._store.health()

    async def forget(self, revision: int) -> None:
        self._require_whole()
        await self._store.forget(revision)

    async def close(self) -> None:
        self.cut = True

    async def _pass(self) -> None:
        if self.cut:
            await asyncio.sleep(self.patience_s)
        self._require_whole()

    def _require_whole(self) -> None:
        if self.cut:
            raise StoreUnavailable("the link is cut")
