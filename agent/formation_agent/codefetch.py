"""Fetches an artifact from coordinators into a file, on from where a break has left it. Thin."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import AsyncIterable, Callable, Container
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from formation.artifacts import PART_BYTES, Artifact
from formation.dialling import NotTrustedError, words
from formation.v1 import artifacts_pb2 as pb
from formation_agent.codedirs import CodeError, Name, check_room

if TYPE_CHECKING:  # the stubs know this class, the generated code does not
    from formation.v1.artifacts_pb2_grpc import ArtifactsAsyncStub

SILENT_FOR_S = 30.0

log = logging.getLogger(__name__)

Dial = Callable[[str], "AbstractAsyncContextManager[ArtifactsAsyncStub]"]


class Fetcher:
    """`addresses`: of coordinators, the nearest first. `directory`: for files that come."""

    def __init__(
        self, directory: Path, *, addresses: Callable[[], tuple[str, ...]], dial: Dial
    ) -> None:
        self._directory, self._addresses, self._dial = directory, addresses, dial

    async def fetch(self, name: Name, artifact: Artifact, told: Callable[[int], None]) -> Path:
        """The file, whole and with its digest. `told` hears how many bytes are there. Raises
        `CodeError`."""
        app, path = name[0], self._path(name)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            check_room(path.parent, artifact.size_bytes - _size(path))
            if _size(path) < artifact.size_bytes:
                await self._fetch_from_any(app, artifact, path, told)
            else:  # an agent that was killed had it whole
                await self._check(artifact, path)
        except OSError as error:
            where = error.filename or path
            raise CodeError(f"its code cannot be kept: {where}: {error.strerror}") from error
        return path

    async def _check(self, artifact: Artifact, path: Path) -> None:
        """Raises `CodeError`: then nothing of it is left."""
        if await asyncio.to_thread(_digest, path) != artifact.digest:
            path.unlink(missing_ok=True)
            raise CodeError(
                f"what came is not the code that the release names ({artifact.digest[:12]}): "
                "thrown away"
            )

    def forget(self, name: Name) -> None:
        with contextlib.suppress(OSError):
            self._path(name).unlink()

    def sweep(self, busy: Container[Name]) -> None:
        """What nobody fetches any more. `busy` may change meanwhile."""
        with contextlib.suppress(OSError):
            for path in self._directory.iterdir():
                app, _, code = path.stem.partition("@")
                if (app, code) not in busy:
                    path.unlink()

    def _path(self, name: Name) -> Path:
        """Two that are built of the same artifact do not come into the same file."""
        return self._directory / f"{name[0]}@{name[1]}.part"

    async def _fetch_from_any(
        self, app: str, artifact: Artifact, path: Path, told: Callable[[int], None]
    ) -> None:
        """One that gives too little, or something else, does not keep it from being had of the
        others. Raises `CodeError`, OSError."""
        said = []
        for address in self._addresses():
            try:
                async with self._dial(address) as stub:
                    await self._fetch_from(stub, app, artifact, path, told)
                await self._check(artifact, path)
                return
            except grpc.aio.AioRpcError as error:
                said.append(words(error))
            except (NotTrustedError, CodeError) as error:
                said.append(str(error))
            except TimeoutError:
                said.append(f"nothing came from {address} for {SILENT_FOR_S:g} s")
            log.info("%s: artifact %s from %s: %s", app, artifact, address, said[-1])
        why = "; ".join(dict.fromkeys(said)) or "no coordinator is known"
        raise CodeError(f"its code does not come: {why}")

    async def _fetch_from(
        self,
        stub: ArtifactsAsyncStub,
        app: str,
        artifact: Artifact,
        path: Path,
        told: Callable[[int], None],
    ) -> None:
        """Raises AioRpcError, TimeoutError, `CodeError`, OSError."""
        size = _size(path)
        told(size)
        if size:
            log.info("%s: artifact %s: goes on after %d bytes", app, artifact, size)
        request = pb.FetchRequest(app=app, digest=artifact.digest, offset=size)
        call: AsyncIterable[pb.FetchPart] = stub.Fetch(request)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd, parts = os.open(path, flags, 0o600), aiter(call)
        try:
            while size < artifact.size_bytes:
                async with asyncio.timeout(SILENT_FOR_S):
                    data = (await anext(parts)).data
                # Not more than it says; another size would fail the digest anyway.
                data = data[: artifact.size_bytes - size]
                await asyncio.to_thread(_append, fd, data)
                size += len(data)
                told(size)
        except StopAsyncIteration:
            raise CodeError(f"it ends after {size} of {artifact.size_bytes} bytes") from None
        finally:
            os.close(fd)
            call.cancel()  # type: ignore[attr-defined]


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _append(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _digest(path: Path) -> str:
    summed = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(PART_BYTES):
            summed.update(data)
    return summed.hexdigest()
