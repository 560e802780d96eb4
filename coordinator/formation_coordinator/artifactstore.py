"""Artifacts on this coordinator's disk: received, verified, read, removed. Thin; knows no network.

`<directory>/<app>/<digest>.tar.gz`, and `.part` while it comes. Only what is whole and has the
digest of its name gets the first name: written, synced, renamed, in this order. Never more than one
part of one is in memory. What blocks runs in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from formation.artifacts import DIGEST, PART_BYTES, Artifact, size_text
from formation_coordinator.artifactkeeping import Held, Name

log = logging.getLogger(__name__)

_WHOLE, _PART = ".tar.gz", ".part"


class ArtifactError(Exception):
    """One line for people."""


class NoRoomError(ArtifactError):
    """It is too large, or too much is here already."""


class BusyError(ArtifactError):
    """Somebody else sends the same just now."""


class CorruptError(ArtifactError):
    """What came is not what was said to come; it is thrown away."""


class ArtifactStore:
    def __init__(self, directory: Path, *, bytes_max: int, total_bytes_max: int) -> None:
        self._directory = directory
        self._bytes_max, self._total_bytes_max = bytes_max, total_bytes_max
        # What comes now, and how much of it has not come yet.
        self._coming: dict[Name, int] = {}
        # What was found to have its digest, and its size and time of change then.
        self._sound: dict[Name, tuple[int, int]] = {}

    # ------------------------------------------------------------------ what is here

    def size(self, app: str, digest: str) -> int:
        """In bytes; 0 when it is not here."""
        with contextlib.suppress(OSError):
            return self._whole(app, digest).stat().st_size
        return 0

    def offset(self, app: str, digest: str) -> int:
        """How much of it came before."""
        with contextlib.suppress(OSError):
            return self._part(app, digest).stat().st_size
        return 0

    def path(self, app: str, digest: str) -> Path:
        """Where it is, if it is here."""
        return self._whole(app, digest)

    def comes(self, app: str, digest: str) -> bool:
        """Somebody sends it just now."""
        return (app, digest) in self._coming

    async def check(self, app: str, digest: str) -> int:
        """As `size`; what has gone bad on the disk is thrown away. Its bytes are summed up once,
        and again when the file has changed."""
        name, path = (app, digest), self._whole(app, digest)
        with contextlib.suppress(OSError):
            seen = _look_of(path)
            if self._sound.get(name) != seen:
                if await asyncio.to_thread(_digest_of, path) != digest:
                    log.error("%s: %s is not what its name says: thrown away", app, path)
                    path.unlink()
                    return 0
                self._sound[name] = seen
            return seen[0]
        return 0

    def use(self, app: str, digest: str) -> None:
        """It is young again: somebody is about to refer to it."""
        name, path = (app, digest), self._whole(app, digest)
        with contextlib.suppress(OSError):
            is_sound = self._sound.get(name) == _look_of(path)
            os.utime(path)
            if is_sound:
                self._sound[name] = _look_of(path)

    def held(self) -> list[Held]:
        now_s, found = time.time(), []
        for path in self._files():
            with contextlib.suppress(OSError):
                digest = path.name.partition(".")[0]
                if DIGEST.fullmatch(digest):
                    found.append(
                        Held(
                            app=path.parent.name,
                            digest=digest,
                            is_part=path.suffix == _PART,
                            age_s=now_s - path.stat().st_mtime,
                        )
                    )
        return found

    def used_bytes(self) -> int:
        """With what is still to come of what comes now."""
        total = sum(self._coming.values())
        for path in self._files():
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total

    def _files(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return [path for app in self._directory.iterdir() for path in app.iterdir()]
        return []

    # ------------------------------------------------------------------ receiving

    def check_room(self, app: str, artifact: Artifact) -> None:
        """Raises `NoRoomError`."""
        if artifact.size_bytes > self._bytes_max:
            raise NoRoomError(
                f"{size_text(artifact.size_bytes)} is more than the {size_text(self._bytes_max)} "
                "that this coordinator takes (--artifact-max-bytes); leave something out with "
                ".formationignore"
            )
        more = artifact.size_bytes - self.offset(app, artifact.digest)
        used = self.used_bytes()
        if used + more > self._total_bytes_max:
            raise NoRoomError(
                f"no room for {size_text(more)} more: {size_text(used)} of "
                f"{size_text(self._total_bytes_max)} are used (--artifact-total-bytes)"
            )

    async def receive(self, app: str, artifact: Artifact, parts: AsyncIterator[bytes]) -> None:
        """`parts` go on where the part on disk ends. Whatever ends them, what came stays for the
        next time. Raises `ArtifactError`."""
        name = app, artifact.digest
        if name in self._coming:
            raise BusyError(f"{artifact} of {app} is being sent to this coordinator just now")
        self.check_room(app, artifact)
        self._coming[name] = artifact.size_bytes - self.offset(*name)
        try:
            await self._receive(app, artifact, parts)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                await asyncio.to_thread(self._drop_part, app, artifact.digest)
            why = f"{error.filename or self._directory}: {error.strerror or error}"
            raise NoRoomError(f"this coordinator cannot keep it: {why}") from error
        finally:
            del self._coming[name]

    async def _receive(self, app: str, artifact: Artifact, parts: AsyncIterator[bytes]) -> None:
        file = await asyncio.to_thread(self._open_part, app, artifact.digest)
        try:
            summed, size = hashlib.sha256(), 0
            size = await asyncio.to_thread(_sum_up, file, summed)
            async for data in parts:
                size += len(data)
                if size > artifact.size_bytes:
                    break
                await asyncio.to_thread(_append, file, summed, data)
                self._coming[app, artifact.digest] = artifact.size_bytes - size
            if size < artifact.size_bytes:
                raise ArtifactError(f"only {size} of {artifact.size_bytes} bytes came")
            await asyncio.to_thread(_sync, file)
        finally:
            file.close()
        if size > artifact.size_bytes or summed.hexdigest() != artifact.digest:
            await asyncio.to_thread(self._drop_part, app, artifact.digest)
            raise CorruptError(
                f"what came is not {artifact.digest[:12]} of {artifact.size_bytes} bytes: thrown "
                "away; send it again"
            )
        await asyncio.to_thread(self._name, app, artifact.digest)
        self._sound[app, artifact.digest] = _look_of(self._whole(app, artifact.digest))

    def _open_part(self, app: str, digest: str) -> IO[bytes]:
        path = self._part(app, digest)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return open(os.open(path, flags, 0o600), "r+b", buffering=0)

    def _name(self, app: str, digest: str) -> None:
        whole = self._whole(app, digest)
        os.rename(self._part(app, digest), whole)
        for directory in (whole.parent, self._directory):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    # ------------------------------------------------------------------ reading, removing

    async def read(self, app: str, digest: str, offset: int) -> AsyncIterator[bytes]:
        """From there on. Raises OSError."""
        file = await asyncio.to_thread(open, self._whole(app, digest), "rb", buffering=0)
        try:
            await asyncio.to_thread(file.seek, offset)
            while data := await asyncio.to_thread(file.read, PART_BYTES):
                yield data
        finally:
            file.close()

    def remove(self, item: Held) -> None:
        if (item.app, item.digest) in self._coming:
            return
        path = (self._part if item.is_part else self._whole)(item.app, item.digest)
        with contextlib.suppress(OSError):
            path.unlink()
        self._sound.pop((item.app, item.digest), None)
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # only when it is empty

    def _drop_part(self, app: str, digest: str) -> None:
        with contextlib.suppress(OSError):
            self._part(app, digest).unlink()

    def _whole(self, app: str, digest: str) -> Path:
        return self._directory / app / (digest + _WHOLE)

    def _part(self, app: str, digest: str) -> Path:
        return self._directory / app / (digest + _PART)


def _look_of(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _digest_of(path: Path) -> str:
    summed = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        _sum_up(file, summed)
    return summed.hexdigest()


def _sum_up(file: IO[bytes], summed: hashlib._Hash) -> int:
    size = 0
    while data := file.read(PART_BYTES):
        summed.update(data)
        size += len(data)
    return size


def _append(file: IO[bytes], summed: hashlib._Hash, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    summed.update(data)


def _sync(file: IO[bytes]) -> None:
    os.fsync(file.fileno())
