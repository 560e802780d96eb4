"""The code of what this host is to run: fetched, unpacked, built while everything else goes on.

Whoever wants to start an instance asks `hindrance`. What it says changes as the code comes; `moved`
is told then. Nothing here ever stops a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from formation.artifacts import Artifact, done_text
from formation.model import Release
from formation.unpacking import Cancelled
from formation_agent.buildplan import code_name
from formation_agent.codedirs import CodeDirs, CodeError, Name
from formation_agent.codefetch import Fetcher
from formation_agent.entries import Entry
from formation_agent.happenings import User
from formation_agent.machine import Phase

FETCHES_MAX = 2
BUILDS_MAX = 2
BUILD_TRIES = 2
RETRY_MIN_S, RETRY_MAX_S = 1.0, 60.0
TELL_EVERY_S = 0.5
LOOK_EVERY_S, SWEEP_EVERY_S = 2.0, 60.0
_WAITS_ITS_TURN = "its code waits for others to be fetched"
_WAITS_TO_BE_BUILT = "its code waits for others to be built"

log = logging.getLogger(__name__)

Moved = Callable[[str, str], None]


class Code(Protocol):
    """What the supervisor needs of a `CodeRoom`."""

    def hindrance(self, release: Release | None) -> str:
        """Why nothing of it can be started yet, or ""; then it is seen to."""

    def unbuildable(self, release: Release | None) -> str:
        """Why it cannot be built here: `BUILD_TRIES` builds have failed, so it is no accident."""

    def listen(self, moved: Moved) -> None: ...


class Builder(Protocol):
    """What is needed of `buildrun.Builds`."""

    def user(self, release: Release) -> User | None: ...
    async def run(self, release: Release, told: Callable[[float], None]) -> None: ...


class AllThere:
    """For agents whose releases bring no code."""

    def hindrance(self, release: Release | None) -> str:
        return ""

    def unbuildable(self, release: Release | None) -> str:
        return ""

    def listen(self, moved: Moved) -> None: ...


@dataclass(slots=True, eq=False)
class _Job:
    release: Release
    artifact: Artifact
    name: Name
    said: str = _WAITS_ITS_TURN
    told_s: float = 0.0
    failures: int = 0
    failed_builds: int = 0
    unbuildable: str = ""
    task: asyncio.Task[None] | None = None
    dropped: threading.Event = field(default_factory=threading.Event)

    @property
    def app(self) -> str:
        return self.release.app


class CodeRoom:
    """`wanted`: the releases that this host is to run. `jitter` in [0, 1)."""

    def __init__(
        self,
        *,
        dirs: CodeDirs,
        fetcher: Fetcher,
        builder: Builder,
        wanted: Callable[[], Iterable[Release]],
        jitter: Callable[[], float],
    ) -> None:
        self._dirs, self._fetcher, self._builder, self._wanted = dirs, fetcher, builder, wanted
        self._jitter = jitter
        self._loop = asyncio.get_running_loop()
        self._fetches = asyncio.Semaphore(FETCHES_MAX)
        self._builds = asyncio.Semaphore(BUILDS_MAX)
        self._jobs: dict[Name, _Job] = {}
        self._moved: Moved = lambda app, code: None

    def listen(self, moved: Moved) -> None:
        self._moved = moved

    def hindrance(self, release: Release | None) -> str:
        if release is None or release.artifact is None:
            return ""
        name = release.app, code_name(release)
        if name not in self._jobs:
            if self._dirs.is_here(*name):
                return ""
            job = self._jobs[name] = _Job(release=release, artifact=release.artifact, name=name)
            job.task = self._loop.create_task(self._bring(job))
        return self._jobs[name].said

    def unbuildable(self, release: Release | None) -> str:
        job = release and self._jobs.get((release.app, code_name(release)))
        return job.unbuildable if job else ""

    async def run(self) -> None:
        """For ever: sees that what is wanted stays here, and that the rest goes."""
        sweep_s = self._loop.time()
        try:
            while True:
                wanted, now_s = self._names_wanted(), self._loop.time()
                if self._drop_unwanted(wanted):
                    sweep_s = now_s + LOOK_EVERY_S  # what was begun for it is just being ended
                elif now_s >= sweep_s:
                    await asyncio.to_thread(self._sweep, wanted)
                    sweep_s = now_s + SWEEP_EVERY_S
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            for job in tuple(self._jobs.values()):
                self._drop(job)

    def _names_wanted(self) -> set[Name]:
        """And begins with what is not here, such as what somebody has removed."""
        found = set()
        for release in self._wanted():
            if release.artifact is not None:
                found.add((release.app, code_name(release)))
                self.hindrance(release)
        return found

    def _drop_unwanted(self, wanted: set[Name]) -> bool:
        """Was there anything to drop?"""
        unwanted = [job for name, job in self._jobs.items() if name not in wanted]
        for job in unwanted:
            self._drop(job)
        return bool(unwanted)

    def _drop(self, job: _Job) -> None:
        job.dropped.set()
        if job.task is not None:
            job.task.cancel()
        self._jobs.pop(job.name, None)

    def _sweep(self, wanted: set[Name]) -> None:
        """In a thread: meanwhile other jobs begin, whose files it must not take for left ones."""
        self._fetcher.sweep(self._jobs)
        for app, code in self._dirs.sweep(wanted, self._jobs):
            log.info("%s: its release %s is removed: nothing runs from it", app, code[:12])

    # -- one release's code ------------------------------------------------------------------------

    async def _bring(self, job: _Job) -> None:
        while True:
            try:
                await self._try(job)
            except CodeError as error:
                pause_s = min(RETRY_MAX_S, RETRY_MIN_S * 2**job.failures)
                pause_s *= 1 + self._jitter() / 2
                job.failures += 1
                log.warning("%s: %s", job.app, error)
                await self._wait(job, str(error), pause_s)
            except Exception:  # one bad artifact must not end all the others
                log.exception("%s: a bug: artifact %s", job.app, job.artifact)
                await self._wait(job, "its code cannot be had: see the agent's log", RETRY_MAX_S)
            else:
                break
        self._jobs.pop(job.name, None)
        log.info("%s: artifact %s is here", job.app, job.artifact)
        self._moved(*job.name)

    async def _try(self, job: _Job) -> None:
        async with self._fetches:
            size = job.artifact.size_bytes
            archive = await self._fetcher.fetch(
                job.name,
                job.artifact,
                lambda done: self._tell(job, f"fetches its code: {done_text(done, size)}"),
            )
        self._tell(job, "unpacks its code", now=True)
        await asyncio.to_thread(self._unpack, job, archive)
        if job.release.build is not None:
            await self._build(job)
        self._fetcher.forget(job.name)

    def _unpack(self, job: _Job, archive: Path) -> None:
        """In a thread, which a cancel does not end."""
        with contextlib.suppress(Cancelled):
            self._dirs.unpack(
                *job.name,
                archive,
                told=lambda done: None,
                cancelled=job.dropped.is_set,
            )

    async def _build(self, job: _Job) -> None:
        """Raises `CodeError`: then nothing of it is left."""
        self._tell(job, _WAITS_TO_BE_BUILT, now=True)
        async with self._builds:
            self._tell(job, "builds its code", now=True)
            try:
                await self._build_now(job)
            except CodeError as error:
                job.failed_builds += 1
                job.unbuildable = str(error) if job.failed_builds >= BUILD_TRIES else ""
                await asyncio.to_thread(self._dirs.discard, *job.name)
                raise

    async def _build_now(self, job: _Job) -> None:
        user = self._builder.user(job.release)
        await asyncio.to_thread(self._dirs.lend, *job.name, user)
        await self._builder.run(
            job.release,
            lambda passed_s: self._tell(job, f"builds its code: {passed_s:.0f} s so far"),
        )
        await asyncio.to_thread(self._dirs.built, *job.name, user)

    async def _wait(self, job: _Job, why: str, pause_s: float) -> None:
        """A second at a time: people see how long it is."""
        until_s = self._loop.time() + pause_s
        while (left_s := until_s - self._loop.time()) > 0:
            self._tell(job, f"{why}; tries again in {max(1, round(left_s))} s", now=True)
            await asyncio.sleep(min(left_s, _step_s(left_s)))

    def _tell(self, job: _Job, said: str, *, now: bool = False) -> None:
        now_s = self._loop.time()
        if said == job.said or (not now and now_s - job.told_s < TELL_EVERY_S):
            return
        job.said, job.told_s = said, now_s
        self._moved(*job.name)


def _step_s(left_s: float) -> float:
    """Seldom while it is long."""
    return 1.0 if left_s <= 10.0 else 5.0  # noqa: PLR2004


class CodeGate:
    """Stays that wait for their code, in the supervisor's table. `start` starts one if it can,
    `changed` hears of those whose reason is another."""

    def __init__(
        self,
        code: Code | None,
        entries: Mapping[str, Entry],
        release_of: Callable[[Entry], Release | None],
        start: Callable[[Entry], None],
    ) -> None:
        self._code, self._entries, self._release_of = code or AllThere(), entries, release_of
        self._start = start
        self.changed: Callable[[str], None] = lambda uid: None
        self._code.listen(self._moved)

    def hindrance(self, entry: Entry) -> str:
        release = self._release_of(entry)
        why = self._code.hindrance(release)
        entry.unbuildable = self._code.unbuildable(release)
        return why

    def _moved(self, app: str, code: str) -> None:
        for entry in tuple(self._entries.values()):
            if entry.slot.app != app or entry.stay.phase is not Phase.WAITING:
                continue
            release = self._release_of(entry)
            if release and code_name(release) == code:
                self._start(entry)
                self.changed(entry.uid)
