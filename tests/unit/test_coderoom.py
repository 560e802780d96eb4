"""An agent's code room: what comes, what does not, what waits and what goes."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from eventually import eventually
from evil_archives import archive, link, member

from formation.artifacts import Artifact
from formation.builds import Build
from formation.model import ProcessType, Release
from formation.v1 import artifacts_pb2 as pb
from formation_agent import codefetch, coderoom
from formation_agent.buildplan import code_name
from formation_agent.codedirs import KEPT_UNUSED, CodeDirs, CodeError
from formation_agent.codefetch import Fetcher
from formation_agent.coderoom import CodeRoom
from formation_agent.happenings import User

GOOD = archive([member("web.py", os.urandom(600_000)), member("run", b"#!", mode=0o755)])

OTHER = archive([member("other", b"1")])


def artifact_of(data: bytes) -> Artifact:
    return Artifact(digest=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def release_of(data: bytes, number: int = 1, app: str = "shop") -> Release:
    types = (ProcessType(name="web", command="run"),)
    return Release(app=app, number=number, types=types, artifact=artifact_of(data))


class Unreachable(grpc.aio.AioRpcError):
    def __init__(self, said: str) -> None:
        empty = grpc.aio.Metadata()
        super().__init__(grpc.StatusCode.UNAVAILABLE, empty, empty, details=said)


class Coordinator:
    """Has what is in `files`; `breaks_after`: ends each answer with an error after so many bytes,
    `ends_after`: without one; `holds`: sends nothing while it is not set."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.breaks_after = self.ends_after = 0
        self.offsets: list[int] = []
        self.at_once = self.most_at_once = 0
        self.holds = asyncio.Event()
        self.holds.set()

    def Fetch(self, request: pb.FetchRequest) -> Any:  # noqa: N802
        return _Call(self._parts(request))

    async def _parts(self, request: pb.FetchRequest) -> AsyncIterator[pb.FetchPart]:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self.holds.wait()
            self.offsets.append(request.offset)
            if request.digest not in self.files:
                raise Unreachable("c1 has none of it")
            data = self.files[request.digest]
            if self.ends_after:
                data = data[: self.ends_after]
            end = request.offset + self.breaks_after if self.breaks_after else len(data)
            for start in range(request.offset, min(end, len(data)), 100_000):
                yield pb.FetchPart(data=data[start : min(start + 100_000, end)])
            if end < len(data):
                raise Unreachable("connection lost")
        finally:
            self.at_once -= 1


class _Call:
    def __init__(self, parts: AsyncIterator[pb.FetchPart]) -> None:
        self._parts = parts

    def __aiter__(self) -> AsyncIterator[pb.FetchPart]:
        return self._parts

    def cancel(self) -> bool:
        return True


class Builder:
    """Writes down what it builds, and leaves a file there; `holds`: it does not end while that is
    not set; `wrong`: why it fails."""

    def __init__(self, dirs: CodeDirs) -> None:
        self._dirs = dirs
        self.built: list[str] = []
        self.at_once = self.most_at_once = 0
        self.wrong = ""
        self.holds = asyncio.Event()
        self.holds.set()

    def user(self, release: Release) -> User | None:
        return None

    async def run(self, release: Release, told: Callable[[float], None]) -> None:
        assert release.build is not None
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        path = self._dirs.path(release.app, code_name(release))
        assert not (path / "made").exists()
        (path / "made").write_text("half")
        try:
            await self.holds.wait()
            told(7.0)
            if self.wrong:
                raise CodeError(self.wrong)
        finally:
            self.at_once -= 1
        self.built.append(release.build.command)


class Bench:
    def __init__(self, directory: Path, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.dirs = CodeDirs(directory / "releases")
        self.partial = directory / "artifacts"

        @asynccontextmanager
        async def dial(address: str) -> AsyncIterator[Any]:
            yield coordinator

        self.builder = Builder(self.dirs)
        self.fetcher = Fetcher(self.partial, addresses=lambda: ("c1",), dial=dial)
        self.wanted: list[Release] = []
        self.room = CodeRoom(
            dirs=self.dirs,
            fetcher=self.fetcher,
            builder=self.builder,
            wanted=lambda: self.wanted,
            jitter=lambda: 0.0,
        )
        self.said: list[str] = []
        self.room.listen(lambda app, code: self.said.append(self._hindrance(code)))

    def _hindrance(self, code: str) -> str:
        found = next(r for r in self.wanted if code_name(r) == code)
        return self.room.hindrance(found)

    def want(
        self, data: bytes, *, number: int = 1, app: str = "shop", build: str = ""
    ) -> Callable[[], bool]:
        release = release_of(data, number, app)
        if build:
            release = replace(release, build=Build(command=build))
        self.wanted.append(release)
        return lambda: self.room.hindrance(release) == ""


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(coderoom, "RETRY_MIN_S", 0.01)
    monkeypatch.setattr(coderoom, "RETRY_MAX_S", 0.05)
    monkeypatch.setattr(coderoom, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(coderoom, "SWEEP_EVERY_S", 0.05)
    made = Bench(tmp_path, Coordinator())
    async with running(made):
        yield made


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    task = asyncio.create_task(bench.room.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_code_comes_and_is_unpacked_under_its_digest(bench: Bench) -> None:
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    here = bench.want(GOOD)
    assert not here()
    await eventually(here)
    path = bench.dirs.path("shop", artifact_of(GOOD).digest)
    assert (path / "run").stat().st_mode & 0o777 == 0o755
    assert [bench.dirs.base.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777] == [
        0o711, 0o711,
    ]  # fmt: skip
    assert any(said.startswith("fetches its code: ") for said in bench.said)
    assert "unpacks its code" in bench.said
    assert bench.said[-1] == ""
    assert os.listdir(bench.partial) == []


async def test_after_every_break_it_goes_on_where_it_was(bench: Bench) -> None:
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    bench.coordinator.breaks_after = 250_000
    await eventually(bench.want(GOOD))
    assert bench.coordinator.offsets == [0, 250_000, 500_000]
    assert any("connection lost; tries again in 1 s" in said for said in bench.said)


async def test_what_an_agent_that_was_killed_has_fetched_is_not_fetched_again(
    tmp_path: Path,
) -> None:
    bench, digest = Bench(tmp_path, Coordinator()), artifact_of(GOOD).digest
    bench.partial.mkdir()
    (bench.partial / f"shop@{digest}.part").write_bytes(GOOD[:300_000])
    half_made = bench.dirs.base / "shop" / f".{digest}"
    half_made.mkdir(parents=True)
    (half_made / "junk").write_text("half")
    bench.coordinator.files[digest] = GOOD
    here = bench.want(GOOD)
    async with running(bench):
        await eventually(here)
    assert bench.coordinator.offsets == [300_000]
    assert not half_made.exists()
    assert not (bench.dirs.path("shop", digest) / "junk").exists()


async def test_a_wrong_digest_is_thrown_away_and_never_unpacked(bench: Bench) -> None:
    digest = artifact_of(GOOD).digest
    bench.coordinator.files[digest] = b"x" + GOOD[1:]
    here = bench.want(GOOD)
    await eventually(lambda: any("is not the code" in said for said in bench.said))
    assert not bench.dirs.is_here("shop", digest)
    bench.coordinator.files[digest] = GOOD
    await eventually(here)


@pytest.mark.parametrize("wrong", ["another", "half"])
async def test_a_coordinator_that_gives_wrong_bytes_or_too_few_is_passed_over_for_the_next(
    tmp_path: Path, wrong: str
) -> None:
    digest = artifact_of(GOOD).digest
    bad, good = Coordinator(), Coordinator()
    bad.files[digest] = b"x" + GOOD[1:] if wrong == "another" else GOOD
    bad.ends_after = 300_000 if wrong == "half" else 0
    good.files[digest] = GOOD

    @asynccontextmanager
    async def dial(address: str) -> AsyncIterator[Any]:
        yield {"c1": bad, "c2": good}[address]

    fetcher = Fetcher(tmp_path / "artifacts", addresses=lambda: ("c1", "c2"), dial=dial)
    path = await fetcher.fetch(("shop", digest), artifact_of(GOOD), lambda done: None)
    assert path.read_bytes() == GOOD
    assert good.offsets == [300_000 if wrong == "half" else 0]


async def test_code_that_ends_in_the_middle_everywhere_says_where_and_goes_on_there(
    bench: Bench,
) -> None:
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    bench.coordinator.ends_after = 300_000
    here = bench.want(GOOD)
    said = f"it ends after 300000 of {len(GOOD)} bytes; tries again in"
    await eventually(lambda: any(said in line for line in bench.said))
    bench.coordinator.ends_after = 0
    await eventually(here)
    assert bench.coordinator.offsets[-1] == 300_000


async def test_an_unsafe_artifact_is_refused_with_its_entry_and_leaves_nothing(
    bench: Bench,
) -> None:
    evil = archive([member("a"), link("up", "../../../etc")])
    bench.coordinator.files[artifact_of(evil).digest] = evil
    bench.want(evil)
    await eventually(lambda: any("up: a link that leads out" in said for said in bench.said))
    assert not bench.dirs.is_here("shop", artifact_of(evil).digest)


async def test_at_most_two_are_fetched_at_once(bench: Bench) -> None:
    bench.coordinator.holds.clear()
    codes = [archive([member("a", os.urandom(50))]) for _ in range(5)]
    bench.coordinator.files = {artifact_of(code).digest: code for code in codes}
    ready = [bench.want(code, number=n) for n, code in enumerate(codes, start=1)]
    await eventually(lambda: [here() for here in ready] and bench.coordinator.at_once == 2)
    bench.coordinator.holds.set()
    await eventually(lambda: all(here() for here in ready))
    assert bench.coordinator.most_at_once == 2


async def test_what_nobody_wants_any_more_is_given_up(bench: Bench) -> None:
    bench.coordinator.holds.clear()
    here = bench.want(GOOD)
    assert not here()
    await eventually(lambda: bench.coordinator.at_once == 1)
    bench.wanted.clear()
    await eventually(lambda: bench.coordinator.at_once == 0)


async def test_the_last_releases_stay_and_older_ones_go(bench: Bench) -> None:
    codes = [archive([member("a", bytes([n]))]) for n in range(KEPT_UNUSED + 3)]
    bench.coordinator.files = {artifact_of(code).digest: code for code in codes}
    oldest, *_, newest = (artifact_of(code).digest for code in codes)
    stays = release_of(codes[0])
    for n, code in enumerate(codes):
        bench.wanted = [stays]
        await eventually(bench.want(code, number=n + 1))
        await seen_by_a_sweep(bench.dirs.path("shop", artifact_of(code).digest))
    bench.wanted = [stays]
    left = {oldest, *(artifact_of(code).digest for code in codes[-KEPT_UNUSED:])}
    assert newest in left
    await eventually(lambda: set(os.listdir(bench.dirs.base / "shop")) == left)


async def seen_by_a_sweep(path: Path) -> None:
    """It knows that this is wanted, and touches nothing that was wanted before."""
    before = path.stat().st_mtime_ns
    await eventually(lambda: path.stat().st_mtime_ns != before)


async def test_code_that_somebody_removed_comes_again(bench: Bench) -> None:
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    here = bench.want(GOOD)
    await eventually(here)
    path = bench.dirs.path("shop", artifact_of(GOOD).digest)
    path.rename(path.with_name("elsewhere"))
    await eventually(lambda: path.exists() and here())


async def test_a_full_disk_is_said_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    real = codefetch._append

    def full(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(codefetch, "_append", full)
    here = bench.want(GOOD)
    await eventually(lambda: any("No space left on device" in said for said in bench.said))
    monkeypatch.setattr(codefetch, "_append", real)
    await eventually(here)


def test_no_room_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    from formation_agent.codedirs import check_room

    with pytest.raises(CodeError, match=r"no room for its code in .*: .* GiB are needed"):
        check_room(tmp_path, 1 << 60)


async def test_a_silent_coordinator_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codefetch, "SILENT_FOR_S", 0.01)
    bench.coordinator.holds.clear()
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    here = bench.want(GOOD)
    await eventually(lambda: any("nothing came from c1" in said for said in bench.said))
    monkeypatch.setattr(codefetch, "SILENT_FOR_S", 30.0)
    bench.coordinator.holds.set()
    await eventually(here)


async def test_a_place_that_others_can_write_to_is_not_used(bench: Bench) -> None:
    """Whoever owns it could lead us anywhere while we write."""
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    bench.dirs.base.mkdir()
    bench.dirs.base.chmod(0o777)
    here = bench.want(GOOD)
    await eventually(lambda: any("others can write there" in said for said in bench.said))
    bench.dirs.base.chmod(0o755)
    await eventually(here)
    bench.dirs.base.rename(bench.dirs.base.with_name("moved"))
    bench.dirs.base.symlink_to("moved")
    bench.coordinator.files[artifact_of(OTHER).digest] = OTHER
    bench.said.clear()
    bench.want(OTHER, number=2)
    await eventually(lambda: any("belongs to somebody else" in said for said in bench.said))


async def test_what_is_not_ours_in_the_place_stays(bench: Bench) -> None:
    foreign = bench.dirs.base / "data" / ".cache"
    foreign.mkdir(parents=True)
    (bench.dirs.base / "empty").mkdir()
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    await eventually(bench.want(GOOD))
    assert foreign.exists()
    assert (bench.dirs.base / "empty").exists()


# -- building --------------------------------------------------------------------------------------


def built_trees(bench: Bench) -> list[Path]:
    found = bench.dirs.base / "shop"
    return [path for path in found.iterdir() if not path.name.startswith(".")]


async def test_code_is_there_when_it_is_built_and_not_before(bench: Bench) -> None:
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    bench.builder.holds.clear()
    here = bench.want(GOOD, build="make")
    await eventually(lambda: not here() and bench.builder.at_once)
    assert not bench.dirs.is_here("shop", code_name(bench.wanted[0]))
    bench.builder.holds.set()
    await eventually(here)
    assert "builds its code" in bench.said
    assert bench.said[-1] == ""
    assert [(path / "made").exists() for path in built_trees(bench)] == [True]
    assert os.listdir(bench.partial) == []
    # The next release with the same build has it already.
    assert bench.want(GOOD, number=2, build="make")()
    assert bench.builder.built == ["make"]


async def test_a_build_that_fails_says_so_and_begins_with_nothing_of_it(bench: Bench) -> None:
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    bench.builder.wrong = "its build failed: exit 1: no such package"
    here = bench.want(GOOD, build="make")
    said = "its build failed: exit 1: no such package; tries again in 1 s"
    await eventually(lambda: not here() and bench.said.count(said) > 1)
    assert len(bench.coordinator.offsets) == 1  # what was fetched stays
    assert bench.room.unbuildable(bench.wanted[0]) == bench.builder.wrong
    bench.builder.wrong = ""
    await eventually(here)
    assert bench.room.unbuildable(bench.wanted[0]) == ""


async def test_two_builds_of_the_same_code_do_not_touch_each_other(bench: Bench) -> None:
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    bench.builder.holds.clear()
    ready = [bench.want(GOOD, number=n, build=f"make {n}") for n in (1, 2, 3)]
    await eventually(lambda: [here() for here in ready] and bench.builder.at_once == 2)
    await eventually(lambda: "its code waits for others to be built" in bench.said)
    bench.builder.holds.set()
    await eventually(lambda: all(here() for here in ready))
    assert bench.builder.most_at_once == 2
    assert len(built_trees(bench)) == 3


async def test_what_a_killed_agent_has_half_built_is_thrown_away(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Coordinator())
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    here = bench.want(GOOD, build="make")
    half = bench.dirs.path("shop", code_name(bench.wanted[0]))
    left = half.with_name(half.name[:-1] + ("0" if half.name[-1] != "0" else "1"))
    for path in (half, left):
        path.mkdir(parents=True)
        (path / "made").write_text("by the one that was killed")
    async with running(bench):
        await eventually(lambda: here() and not left.exists())
    assert (half / "made").read_text() == "half"


async def test_a_build_that_nobody_wants_any_more_is_given_up(bench: Bench) -> None:
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    bench.builder.holds.clear()
    here = bench.want(GOOD, build="make")
    await eventually(lambda: not here() and bench.builder.at_once)
    bench.wanted.clear()
    await eventually(lambda: not bench.builder.at_once and not built_trees(bench))


async def test_built_code_goes_when_it_was_not_used_for_long_with_its_mark(bench: Bench) -> None:
    bench.coordinator.files[artifact_of(GOOD).digest] = GOOD
    for n in range(KEPT_UNUSED + 2):
        bench.wanted.clear()
        await eventually(bench.want(GOOD, number=n, build=f"make {n}"))
        await seen_by_a_sweep(bench.dirs.path("shop", code_name(bench.wanted[0])))
    bench.wanted.clear()
    await eventually(lambda: len(built_trees(bench)) == KEPT_UNUSED)
    await eventually(lambda: len(os.listdir(bench.dirs.base / "shop")) == 2 * KEPT_UNUSED)
