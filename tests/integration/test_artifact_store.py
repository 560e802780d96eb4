"""The artifact store beside coordinators: each kind of it does the same, and none is waited for."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from eventually import eventually

from formation.artifacts import Artifact
from formation_coordinator import artifactcopies, farstore
from formation_coordinator.artifactcopies import Copies
from formation_coordinator.artifactstore import ArtifactError, ArtifactStore
from formation_coordinator.farstore import FarError, FarStore, NotThereError, opened

CODE = os.urandom(3 * farstore.READ_BYTES + 1234)
ARTIFACT = Artifact(digest=hashlib.sha256(CODE).hexdigest(), size_bytes=len(CODE))
NAME = f"shop/{ARTIFACT.digest}.tar.gz"


class Place:
    """A store, and what is in it without it."""

    def __init__(self, far: FarStore, files: Any, root: str) -> None:
        self.far, self._files, self._root = far, files, root

    def put(self, data: bytes, name: str = NAME) -> None:
        self._files.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(f"{self._root}/{name}", data)

    def names(self) -> list[str]:
        found = self._files.find(self._root)
        return sorted(path.rpartition(self._root.strip("/") + "/")[2] for path in found)


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "share").mkdir()
    if request.param == "file":
        url = f"file://{tmp_path}/share"
        yield Place(opened(url), fsspec.filesystem("file"), f"{tmp_path}/share")
    else:
        files = fsspec.filesystem("memory", skip_instance_cache=True)
        files.makedirs("/share", exist_ok=True)
        yield Place(FarStore(files, "/share", url="memory:///share"), files, "/share")
        files.rm("/share", recursive=True)


@pytest.fixture
def near(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "near", bytes_max=1 << 30, total_bytes_max=1 << 30)


async def some(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 18):
        yield data[start : start + (1 << 18)]


async def came(far: FarStore, offset: int = 0) -> bytes:
    return b"".join([data async for data in far.read("shop", ARTIFACT, offset)])


async def refusal(work: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        await work
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_what_is_put_there_comes_back_from_any_place_in_it(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / "code").write_bytes(CODE)
    assert await place.far.size("shop", ARTIFACT) == 0
    await place.far.put("shop", ARTIFACT, tmp_path / "code")
    assert await place.far.size("shop", ARTIFACT) == len(CODE)
    assert place.names() == [NAME]
    assert await came(place.far) == CODE
    assert await came(place.far, 2_000_000) == CODE[2_000_000:]


async def test_what_is_not_there_is_told_from_what_does_not_answer(place: Place) -> None:
    with pytest.raises(NotThereError, match=f"{place.far.url} has none of it"):
        await came(place.far)


async def test_what_is_larger_than_it_should_be_is_not_read_to_its_end(place: Place) -> None:
    place.put(CODE + bytes(5_000_000))
    assert await came(place.far) == CODE


async def test_what_does_not_arrive_whole_leaves_nothing_under_any_name(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / "code").write_bytes(CODE[:-1])
    said = await refusal(place.far.put("shop", ARTIFACT, tmp_path / "code"))
    assert said == f"{place.far.url}: {len(CODE) - 1} of {len(CODE)} bytes arrived"
    assert place.names() == []


async def test_a_share_that_is_not_mounted_is_not_filled_on_the_disk_below(tmp_path: Path) -> None:
    far = opened(f"file://{tmp_path}/away")
    (tmp_path / "code").write_bytes(CODE)
    said = await refusal(far.put("shop", ARTIFACT, tmp_path / "code"))
    assert said == f"file://{tmp_path}/away: there is no such directory"
    assert not (tmp_path / "away").exists()


# -- a store that hangs ----------------------------------------------------------------------------


class Hangs:
    """A share whose server is away: whoever asks, waits."""

    def __init__(self) -> None:
        self.back = threading.Event()
        self.asked = 0

    def info(self, name: str) -> dict[str, int]:
        self.asked += 1
        self.back.wait()
        return {"size": len(CODE)}


async def test_a_store_that_hangs_is_given_up_and_not_asked_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(farstore, "ANSWER_WITHIN_S", 0.05)
    hangs = Hangs()
    far = FarStore(hangs, "/share", url="file:///share")
    for _ in range(farstore.CALLS_MAX):
        assert "does not answer within" in await refusal(far.size("shop", ARTIFACT))
    said = await refusal(far.size("shop", ARTIFACT))
    assert said == f"file:///share: does not answer: {farstore.CALLS_MAX} calls wait for it"
    assert hangs.asked == farstore.CALLS_MAX
    hangs.back.set()

    async def answers() -> bool:
        with suppress(FarError):
            return await far.size("shop", ARTIFACT) == len(CODE)
        return False

    await eventually(answers)


# -- a web server ----------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web(directory: Path) -> Iterator[FarStore]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    serving.start()
    url = f"http://127.0.0.1:{server.server_port}"
    files = fsspec.filesystem("http", skip_instance_cache=True)
    try:
        yield FarStore(files, url, url=url, writable=False, streams=True)
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


async def test_a_web_server_is_read_from_any_place_in_it(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / NAME).write_bytes(CODE)
    with web(tmp_path) as far:
        assert await came(far) == CODE
        assert await came(far, 2_000_000) == CODE[2_000_000:]
        (tmp_path / NAME).unlink()
        with pytest.raises(NotThereError):
            await came(far)
    assert await refusal(came(far))


# -- copies of what is here ------------------------------------------------------------------------


@asynccontextmanager
async def copying(copies: Copies) -> AsyncIterator[None]:
    task = asyncio.create_task(copies.run())
    yield
    task.cancel()
    await asyncio.wait([task])


async def test_what_is_here_is_put_there_also_when_it_was_away_at_first(
    near: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(artifactcopies, "LOOK_EVERY_S", 0.02)
    await near.receive("shop", ARTIFACT, some(CODE))
    far = opened(f"file://{tmp_path}/share")
    copies = Copies(far, near, lambda: {("shop", ARTIFACT.digest): ARTIFACT})
    said = await copies.warning("shop", ARTIFACT)
    assert said == (
        f"it is not in the artifact store yet: file://{tmp_path}/share: there is no such directory"
    )
    async with copying(copies):
        await eventually(lambda: "are not copied, trying again" in caplog.text)
        (tmp_path / "share").mkdir()
        await eventually((tmp_path / "share" / NAME).exists)
    assert (tmp_path / "share" / NAME).read_bytes() == CODE
    assert await copies.warning("shop", ARTIFACT) == ""


async def test_something_else_under_its_name_is_never_taken_and_put_right_later(
    place: Place, near: ArtifactStore
) -> None:
    copies = Copies(place.far, near, lambda: {("shop", ARTIFACT.digest): ARTIFACT})
    place.put(bytes([CODE[0] ^ 1]) + CODE[1:])
    said = await refusal(copies.fetch("shop", ARTIFACT))
    assert said.startswith(f"{place.far.url} has something else under its name: what came is not")
    assert near.size("shop", ARTIFACT.digest) == near.offset("shop", ARTIFACT.digest) == 0
    await near.receive("shop", ARTIFACT, some(CODE))
    assert await copies.warning("shop", ARTIFACT) == ""
    assert await came(place.far) == CODE


async def test_half_of_it_is_no_artifact_and_the_rest_is_fetched_later(
    place: Place, near: ArtifactStore
) -> None:
    copies = Copies(place.far, near, dict)
    place.put(CODE[:2_000_000])
    assert "only 2000000 of" in await refusal(copies.fetch("shop", ARTIFACT))
    assert near.size("shop", ARTIFACT.digest) == 0
    place.put(CODE)
    await copies.fetch("shop", ARTIFACT)
    assert await near.check("shop", ARTIFACT.digest) == len(CODE)


async def test_who_only_reads_is_asked_for_nothing_else(near: ArtifactStore) -> None:
    far = FarStore(object(), "/", url="https://example.org", writable=False)
    copies = Copies(far, near, lambda: {("shop", ARTIFACT.digest): ARTIFACT})
    assert await copies.warning("shop", ARTIFACT) == ""
    await copies.run()


# -- S3 --------------------------------------------------------------------------------------------


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], FarStore]]:
    """Where moto is installed: it is large, and not needed for anything else."""
    pytest.importorskip("s3fs")
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    server = server_of(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "open-sesame")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-this-session")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield opened
    server.stop()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
async def test_a_bucket_does_the_same(
    s3: Callable[[str], FarStore],
    tmp_path: Path,
    near: ArtifactStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the server, which is no part of it
    far = s3("s3://formation/artifacts")
    (tmp_path / "code").write_bytes(CODE)
    said = await refusal(far.put("shop", ARTIFACT, tmp_path / "code"))
    assert said == "s3://formation/artifacts: The specified bucket does not exist"
    assert "open-sesame" not in said
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    await asyncio.to_thread(files.mkdir, "formation")
    await far.put("shop", ARTIFACT, tmp_path / "code")
    assert await far.size("shop", ARTIFACT) == len(CODE)
    assert await came(far) == CODE
    assert await came(far, 2_000_000) == CODE[2_000_000:]
    copies = Copies(far, near, dict)
    await copies.fetch("shop", ARTIFACT)
    assert await near.check("shop", ARTIFACT.digest) == len(CODE)
    other = Artifact(digest="ab" * 32, size_bytes=1)
    with pytest.raises(NotThereError):
        await anext(far.read("shop", other, 0))
    assert await far.size("shop", other) == 0
    assert "Signature" not in caplog.text
    assert "token-of-this-session" not in caplog.text


# -- what is not installed -------------------------------------------------------------------------


def test_a_library_that_is_missing_is_named_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs", name="s3fs")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(ValueError, match=r"s3fs is not installed here: pip install 'formctl\[sto"):
        opened("s3://bucket")
