"""One more place where artifacts are: a share, an object store, a web server. Thin; `fsspec` is
the way there.

Nothing of it is trusted: what comes is verified by whoever receives it (`artifactstore`). Nothing
of it is waited for on the loop: each call has a thread of its own, which nobody waits for at the
end, and a time after which it counts as failed whatever becomes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from formation.artifacts import Artifact
from formation.runtime import new_id
from formation_coordinator.artifactstore import ArtifactError

ANSWER_WITHIN_S = 30.0
# What is slower than that while it is put there is given up.
BYTES_PER_S_MIN = 256 << 10
READ_BYTES = 1 << 20
CALLS_MAX = 8
_SAID_MAX = 200
_NO_LIBRARY = (
    "--artifact-store {}: {} is not installed here: pip install 'formctl[stores]' where "
    "this coordinator is installed"
)
_OPTIONS: dict[str, dict[str, Any]] = {
    "file": {},
    # Proxies and ~/.netrc count.
    "https": {"client_kwargs": {"trust_env": True}},
    "s3": {
        "use_listings_cache": False,
        "default_block_size": 4 << 20,
        "config_kwargs": {"connect_timeout": 10, "read_timeout": 20},
    },
}

# What they say beyond warnings has session tokens in it.
_TALKATIVE = ("aiobotocore", "botocore", "fsspec", "s3fs", "urllib3")

Result = TypeVar("Result")


class FarError(ArtifactError):
    """One line for people, with where it was."""


class NotThereError(FarError):
    """It answers, and has none."""


class NoLibraryError(ValueError):
    """What is needed to get there is not installed."""


def opened(url: str) -> FarStore:
    """Asks nobody yet. Raises `NoLibraryError`."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    scheme, _, rest = url.partition("://")
    try:
        import fsspec

        files = fsspec.filesystem(scheme, skip_instance_cache=True, **_OPTIONS[scheme])
    except ImportError as error:
        missing = "s3fs" if scheme == "s3" and error.name != "fsspec" else "fsspec"
        raise NoLibraryError(_NO_LIBRARY.format(url, missing)) from error
    is_web = scheme == "https"
    return FarStore(
        files,
        (url if is_web else rest).rstrip("/"),
        url=url,
        writable=not is_web,
        renames=scheme == "file",
        streams=is_web,
    )


class FarStore:
    """`files`: a file system of fsspec, below whose `root` artifacts are named as on coordinators.
    `renames`: what is written there is seen before it is whole, so it gets its name at last.
    `streams`: it is read in one go, since not all that speak HTTP give parts."""

    def __init__(
        self,
        files: Any,
        root: str,
        *,
        url: str,
        writable: bool = True,
        renames: bool = True,
        streams: bool = False,
    ) -> None:
        self._files, self._root, self.url = files, root, url
        self.writable, self._renames = writable, renames
        self._block_bytes = 0 if streams else 4 * READ_BYTES
        self._calls = _Calls(CALLS_MAX)

    async def size(self, app: str, artifact: Artifact) -> int:
        """Of what is there under its name; 0 for nothing. Raises `FarError`."""
        name = self._name(app, artifact)
        try:
            return int(await self._call(lambda: self._files.info(name)["size"] or 0))
        except NotThereError:
            return 0

    async def read(self, app: str, artifact: Artifact, offset: int) -> AsyncIterator[bytes]:
        """From there on, and never more than it should be. Raises `FarError`."""
        name, left = self._name(app, artifact), artifact.size_bytes - offset
        file = await self._call(lambda: self._at(name, offset))
        try:
            while left > 0:
                most = min(left, READ_BYTES)
                if not (data := await self._call(partial(file.read, most))):
                    return
                left -= len(data)
                yield data
        finally:
            self._calls.start(file.close)

    def _at(self, name: str, offset: int) -> Any:
        file = self._files.open(name, "rb", block_size=self._block_bytes)
        if offset:
            try:
                file.seek(offset)
            except ValueError:  # it streams
                while offset and (data := file.read(min(offset, READ_BYTES))):
                    offset -= len(data)
        return file

    async def put(self, app: str, artifact: Artifact, path: Path) -> None:
        """Whole or not at all. Raises `FarError`."""
        within_s = ANSWER_WITHIN_S + artifact.size_bytes / BYTES_PER_S_MIN
        name = self._name(app, artifact)
        await self._call(lambda: self._put(str(path), name, artifact.size_bytes), within_s)

    def _put(self, source: str, name: str, size: int) -> None:
        try:
            if self._renames:
                self._put_and_rename(source, name, size)
            else:
                self._files.put_file(source, name)
        except FileNotFoundError as error:  # the bucket, or what it is put in
            raise FarError(_said(error)) from error
        if (there := self._files.info(name)["size"]) != size:
            raise FarError(f"{there} of {size} bytes arrived")

    def _put_and_rename(self, source: str, name: str, size: int) -> None:
        if not self._files.isdir(self._root):  # a share that is not mounted
            raise FarError("there is no such directory")
        self._files.makedirs(name.rpartition("/")[0], exist_ok=True)
        part = f"{name}.{new_id()}.part"
        try:
            self._files.put_file(source, part)
            if (there := self._files.info(part)["size"]) != size:
                raise FarError(f"{there} of {size} bytes arrived")
            self._files.mv(part, name)
        except BaseException:
            with contextlib.suppress(Exception):
                self._files.rm_file(part)
            raise

    def _name(self, app: str, artifact: Artifact) -> str:
        return f"{self._root}/{app}/{artifact.digest}.tar.gz"

    async def _call(self, work: Callable[[], Result], within_s: float = 0.0) -> Result:
        try:
            return await self._calls.run(work, within_s or ANSWER_WITHIN_S)
        except FileNotFoundError as error:
            raise NotThereError(f"{self.url} has none of it") from error
        except FarError as error:
            raise FarError(f"{self.url}: {error}") from error
        except Exception as error:
            raise FarError(f"{self.url}: {_said(error)}") from error


class _Calls:
    """Work in threads of its own, at most so much at once. One that hangs for ever, as on a share
    that is away, takes a place, and does not keep the program from ending."""

    def __init__(self, most: int) -> None:
        self._most, self._running = most, 0

    async def run(self, work: Callable[[], Result], within_s: float) -> Result:
        """Raises what `work` raises, and `FarError` when it takes longer."""
        answer = self.start(work)
        done, _ = await asyncio.wait([answer], timeout=within_s)
        if not done:
            raise FarError(f"does not answer within {within_s:.0f} s")
        return answer.result()

    def start(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        """Raises `FarError` when too much hangs already."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        if self._running >= self._most:
            answer.set_exception(FarError(f"does not answer: {self._running} calls wait for it"))
            answer.exception()  # nobody may be interested
            return answer
        self._running += 1

        def finish(result: Result | None, error: BaseException | None) -> None:
            self._running -= 1
            if answer.cancelled():
                return
            if error is None:
                answer.set_result(result)  # type: ignore[arg-type]
            else:
                answer.set_exception(error)
                answer.exception()

        def run() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:  # noqa: BLE001  told to whoever waits
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(finish, result, error)

        threading.Thread(target=run, name="artifact store", daemon=True).start()
        return answer


def _said(error: Exception) -> str:
    """Libraries say much, and some of it in several lines."""
    if isinstance(error, OSError) and error.strerror:
        said = error.strerror
    else:
        said = str(error).strip() or type(error).__name__
    return " ".join(said.split())[:_SAID_MAX]
