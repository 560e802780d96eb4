"""Sees to it that the artifact store has what coordinators have. It may be away at any time: then
it gets everything later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from formation.artifacts import Artifact
from formation_coordinator.artifactkeeping import Name
from formation_coordinator.artifactstore import ArtifactStore, CorruptError
from formation_coordinator.farstore import FarError, FarStore

LOOK_EVERY_S = 30.0
# So long an upload waits for its copy.
WAIT_S = 5.0

log = logging.getLogger(__name__)


class Copies:
    """`wanted`: what releases refer to."""

    def __init__(
        self, far: FarStore, near: ArtifactStore, wanted: Callable[[], Mapping[Name, Artifact]]
    ) -> None:
        self._far, self._near, self._wanted = far, near, wanted
        self._there: set[Name] = set()
        # What was there and is not what its name says.
        self._bad: set[Name] = set()
        self._tasks: dict[Name, asyncio.Task[None]] = {}
        self._problem = ""

    # ------------------------------------------------------------------ from there

    async def fetch(self, app: str, artifact: Artifact) -> None:
        """Raises `ArtifactError`."""
        name = app, artifact.digest
        parts = self._far.read(app, artifact, self._near.offset(*name))
        try:
            await self._near.receive(app, artifact, parts)
        except CorruptError as error:
            self._bad.add(name)
            self._there.discard(name)
            raise FarError(f"{self._far.url} has something else under its name: {error}") from error
        log.info("%s: artifact %s came from %s", app, artifact, self._far.url)

    # ------------------------------------------------------------------ to there

    async def warning(self, app: str, artifact: Artifact) -> str:
        """Puts it there now. Why it is not there yet, or ""."""
        if not self._far.writable:
            return ""
        done, _ = await asyncio.wait([self._copy_soon(app, artifact)], timeout=WAIT_S)
        if not done:
            return f"it is still on its way to the artifact store {self._far.url}"
        error = done.pop().exception()
        return f"it is not in the artifact store yet: {error}" if error else ""

    def _copy_soon(self, app: str, artifact: Artifact) -> asyncio.Task[None]:
        """One at a time for each."""
        name = app, artifact.digest
        if name not in self._tasks:
            task = self._tasks[name] = asyncio.create_task(self._copy(app, artifact))
            task.add_done_callback(lambda done: self._copied(name, done))
        return self._tasks[name]

    def _copied(self, name: Name, done: asyncio.Task[None]) -> None:
        self._tasks.pop(name, None)
        if not done.cancelled():
            done.exception()  # whoever waits for it is told; if nobody does, it is tried again

    async def _copy(self, app: str, artifact: Artifact) -> None:
        """Raises `FarError`."""
        name = app, artifact.digest
        if name in self._bad or await self._far.size(app, artifact) != artifact.size_bytes:
            await self._far.put(app, artifact, self._near.path(*name))
            log.info("%s: artifact %s is in %s too", app, artifact, self._far.url)
        self._bad.discard(name)
        self._there.add(name)

    async def run(self) -> None:
        """For ever."""
        try:
            while self._far.writable:
                await self._look()
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            for task in tuple(self._tasks.values()):
                task.cancel()

    async def _look(self) -> None:
        """Up to the first that it does not take: the others would say the same."""
        wanted, problem = self._wanted(), ""
        self._there &= wanted.keys()
        for (app, digest), artifact in wanted.items():
            if (app, digest) in self._there or not await self._near.check(app, digest):
                continue
            await asyncio.wait([task := self._copy_soon(app, artifact)])
            problem = str(task.exception() or "")
            if problem:
                break
        if problem != self._problem:
            self._problem = problem
            if problem:
                log.warning("artifacts are not copied, trying again: %s", problem)
            else:
                log.info("%s has all artifacts again", self._far.url)
