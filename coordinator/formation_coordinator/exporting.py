"""Sends spans to an OTLP receiver over HTTP. What it does not take in time is dropped and counted:
nothing of the coordinator waits for it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp

import formation
from formation.runtime import now_ms
from formation_coordinator.tracing import Span, Tracing, parent_of, request
from formation_coordinator.world import Change, World

if TYPE_CHECKING:
    from formation_coordinator.service import Service

SPANS_MAX, BATCH_MAX = 5_000, 500
LOOKS_EVERY_S, SEND_WITHIN_S, PAUSE_MAX_S = 1.0, 10.0, 30.0
_AGAIN, _NOT_TAKEN = frozenset({429, 502, 503, 504}), 300
_TRACED = frozenset({
    "Apply", "DeleteApp", "Restart", "Retry", "Rollback", "Scale", "SetConfig", "SetSecrets",
    "StartRun", "SteerRollout",
})  # fmt: skip

log = logging.getLogger(__name__)


def new_id(digits: int) -> str:
    return secrets.token_hex(digits // 2)


class Exporter:
    """`leads()`: do we, now?"""

    def __init__(
        self, url: str, *, coordinator: str, share: float, world: Callable[[], World],
        leads: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._url, self._coordinator = f"{url.rstrip('/')}/v1/traces", coordinator
        self._world, self._leads = world, leads
        self._tracing = Tracing(new_id, share)
        self._spans: deque[Span] = deque()
        self.dropped = 0
        self._complaint = ""

    # -- what is traced ---------------------------------------------------------------------------

    def hear(self, before: World, after: World, changes: Sequence[Change]) -> None:
        if before.cluster is None:
            return  # everything that there is, as it is read for the first time
        try:
            self._tracing.hear(before, after, changes, now_ms(), leads=self._leads())
        except Exception:  # who watches must not stop what is watched
            log.exception("a bug: a change cannot be traced")

    @contextmanager
    def traced(
        self, method: str, asked: Any, metadata: Sequence[tuple[str, Any]]
    ) -> Iterator[None]:
        name = method.rpartition("/")[2]
        app = getattr(asked, "app", "")
        if name not in _TRACED or not app:
            yield
            return
        said = next((str(value) for key, value in metadata if key == "traceparent"), "")
        token = self._tracing.begin(name.lower(), app, parent_of(said), now_ms())
        try:
            yield
        except BaseException as error:
            self._tracing.called(token, now_ms(), type(error).__name__)
            raise
        self._tracing.called(token, now_ms())

    # -- the way out ------------------------------------------------------------------------------

    async def run(self) -> None:
        limits = aiohttp.ClientTimeout(total=SEND_WITHIN_S)
        async with aiohttp.ClientSession(timeout=limits) as http:
            pause_s = LOOKS_EVERY_S
            while True:
                await asyncio.sleep(pause_s)
                self._collect()
                went = not self._spans or await self._send(http)
                pause_s = LOOKS_EVERY_S if went else min(pause_s * 2, PAUSE_MAX_S)

    def _collect(self) -> None:
        try:
            self._spans += self._tracing.take(self._world(), now_ms())
        except Exception:  # as above
            log.exception("a bug: changes cannot be traced")
        while len(self._spans) > SPANS_MAX:
            self._spans.popleft()
            self.dropped += 1

    async def _send(self, http: aiohttp.ClientSession) -> bool:
        batch = [self._spans[n] for n in range(min(len(self._spans), BATCH_MAX))]
        body = request(batch, self._coordinator, formation.__version__)
        try:
            async with http.post(self._url, json=body, allow_redirects=False) as response:
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._complain(str(error) or type(error).__name__)
            return False
        if status in _AGAIN:
            self._complain(f"HTTP {status}")
            return False
        if status >= _NOT_TAKEN:
            self._complain(f"HTTP {status}: spans are dropped")
            self.dropped += len(batch)
        else:
            self._complaint = ""
        for _ in batch:
            self._spans.popleft()
        return True

    def _complain(self, why: str) -> None:
        if why != self._complaint:
            log.warning("--otlp %s: %s", self._url, why)
        self._complaint = why


def opened(service: Service) -> Exporter:
    """Hears of every change, and stands around every call, from now on."""

    def leads() -> bool:
        leader = service.live.world.leader
        return leader is not None and leader.id == service.me.id

    made = Exporter(
        service.config.otlp, coordinator=service.me.id, share=service.config.otlp_share,
        world=lambda: service.live.world, leads=leads,
    )  # fmt: skip
    service.live.listeners.append(made.hear)
    service.guard.traced = made.traced
    return made
