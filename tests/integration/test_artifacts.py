"""Artifacts on coordinators: who may send and fetch them, what is refused, what is kept."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from certified import Authority
from eventually import eventually
from hollow_agent import HollowAgent
from running import RunningCoordinator, coordinator
from secure_rig import Rig

from formation.artifacts import PART_BYTES, Artifact
from formation.credentials import Credential
from formation.identity import Role
from formation.runtime import client_channel_options
from formation.v1 import artifacts_pb2 as pb
from formation.v1 import control_pb2, types_pb2
from formation.v1.artifacts_pb2_grpc import ArtifactsStub
from formation.v1.control_pb2_grpc import ControlStub
from formation_coordinator import artifactstore
from formation_coordinator.artifactkeeping import RELEASES_KEPT
from formation_coordinator.store.memory import MemoryStore

if TYPE_CHECKING:  # the stubs know this class, the generated code does not
    from formation.v1.artifacts_pb2_grpc import ArtifactsAsyncStub

CODE = random.Random(7).randbytes(3 * PART_BYTES + 1234)
DIGEST = hashlib.sha256(CODE).hexdigest()
Status = grpc.StatusCode


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        authority = Authority()
        running = await stack.enter_async_context(
            coordinator(
                MemoryStore(), tmp_path, authority=authority,
                artifact_bytes_max=1 << 20, artifact_total_bytes_max=2 << 20,
            )
        )  # fmt: skip
        yield Rig(tmp_path, authority, running)


def artifacts_dir(rig: Rig) -> Path:
    return rig.directory / "identity-c1" / "artifacts" / "c1"


def files(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def stub_of(channel: grpc.aio.Channel) -> ArtifactsAsyncStub:
    made: ArtifactsAsyncStub = ArtifactsStub(channel)
    return made


async def begin(
    stub: ArtifactsAsyncStub, app: str = "shop", data: bytes = CODE, size: int = 0
) -> pb.BeginUploadResponse:
    return await stub.BeginUpload(
        pb.BeginUploadRequest(
            app=app, digest=hashlib.sha256(data).hexdigest(), size_bytes=size or len(data)
        )
    )


async def parts(ticket: str, data: bytes) -> AsyncIterator[pb.UploadPart]:
    yield pb.UploadPart(ticket=ticket)
    for start in range(0, len(data), PART_BYTES):
        yield pb.UploadPart(data=data[start : start + PART_BYTES])


async def upload(stub: ArtifactsAsyncStub, app: str = "shop", data: bytes = CODE) -> None:
    begun = await begin(stub, app, data)
    if not begun.present:
        await stub.Upload(parts(begun.ticket, data[begun.offset :]))


async def fetched(stub: ArtifactsAsyncStub, app: str = "shop", offset: int = 0) -> bytes:
    request = pb.FetchRequest(app=app, digest=DIGEST, offset=offset)
    return b"".join([part.data async for part in stub.Fetch(request)])


def applying(app: str = "shop", data: bytes = CODE, size: int = 0) -> control_pb2.ApplyRequest:
    return control_pb2.ApplyRequest(
        app=app,
        types=[types_pb2.ProcessType(name="web", command="run")],
        formation={"web": 1},
        artifact=types_pb2.Artifact(
            digest=hashlib.sha256(data).hexdigest(), size_bytes=size or len(data)
        ),
    )


async def refused(work: object) -> tuple[Status, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await work  # type: ignore[misc]
    return error.value.code(), error.value.details() or ""


async def test_what_was_uploaded_is_there_and_need_not_be_sent_again(rig: Rig) -> None:
    async with rig.channel(rig.somebody(Role.OPERATOR)) as channel:
        stub = stub_of(channel)
        await upload(stub)
        assert files(artifacts_dir(rig)) == [f"shop/{DIGEST}.tar.gz"]
        assert (artifacts_dir(rig) / "shop" / f"{DIGEST}.tar.gz").read_bytes() == CODE
        assert (await begin(stub)).present
        assert not (await begin(stub, app="blog")).present


async def test_an_upload_that_broke_goes_on_where_it_was(rig: Rig) -> None:
    async with rig.channel(rig.somebody(Role.OPERATOR)) as channel:
        stub = stub_of(channel)
        begun = await begin(stub)

        async def broken() -> AsyncIterator[pb.UploadPart]:
            yield pb.UploadPart(ticket=begun.ticket)
            yield pb.UploadPart(data=CODE[:PART_BYTES])
            part = artifacts_dir(rig) / "shop" / f"{DIGEST}.part"
            await eventually(lambda: part.exists() and part.stat().st_size == PART_BYTES)
            call.cancel()

        call = stub.Upload(broken())
        with pytest.raises(asyncio.CancelledError):
            await call
        again = await eventually(lambda: _begun_free(rig, stub))
        assert again is not None
        assert again.offset == PART_BYTES
        await stub.Upload(parts(again.ticket, CODE[PART_BYTES:]))
        assert files(artifacts_dir(rig)) == [f"shop/{DIGEST}.tar.gz"]


async def _begun_free(rig: Rig, stub: ArtifactsAsyncStub) -> pb.BeginUploadResponse | None:
    """Once the broken one is over on the other side."""
    store = rig.running.service.artifacts.store
    return None if store.comes("shop", DIGEST) else await begin(stub)


@pytest.mark.parametrize("wrong", ["another", "longer", "shorter"])
async def test_what_is_not_what_its_digest_says_is_never_kept(rig: Rig, wrong: str) -> None:
    sent = {"another": b"x" + CODE[1:], "longer": CODE + b"x", "shorter": CODE[:-1]}[wrong]
    async with rig.channel(rig.somebody(Role.OPERATOR)) as channel:
        stub = stub_of(channel)
        begun = await begin(stub)
        code, _ = await refused(stub.Upload(parts(begun.ticket, sent)))
        assert code in (Status.INVALID_ARGUMENT, Status.FAILED_PRECONDITION)
        assert not [name for name in files(artifacts_dir(rig)) if name.endswith(".tar.gz")]
        assert (await begin(stub)).offset == (len(sent) if wrong == "shorter" else 0)


async def test_too_large_and_too_much_are_refused_with_the_numbers(rig: Rig) -> None:
    async with rig.channel(rig.somebody(Role.OPERATOR)) as channel:
        stub = stub_of(channel)
        code, said = await refused(begin(stub, size=2 << 20))
        assert code is Status.FAILED_PRECONDITION
        assert "2.0 MiB is more than the 1.0 MiB" in said
        for number in range(2):
            await upload(stub, data=os.urandom(1 << 20 - number))
        code, said = await refused(begin(stub, size=1 << 20))
        assert code is Status.FAILED_PRECONDITION
        assert "no room for 1.0 MiB more" in said


async def test_a_full_disk_refuses_an_upload_with_its_reason_and_keeps_no_half(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = artifactstore._append, [PART_BYTES]

    def small(file: IO[bytes], summed: Any, data: bytes) -> None:
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, summed, data)

    async with rig.channel(rig.somebody(Role.OPERATOR)) as channel:
        stub = stub_of(channel)
        monkeypatch.setattr(artifactstore, "_append", small)
        code, said = await refused(upload(stub))
        assert code is Status.FAILED_PRECONDITION
        assert "this coordinator cannot keep it: " in said
        assert "No space left on device" in said
        assert files(artifacts_dir(rig)) == []
        monkeypatch.setattr(artifactstore, "_append", real)
        await upload(stub)
        assert files(artifacts_dir(rig)) == [f"shop/{DIGEST}.tar.gz"]


@pytest.mark.parametrize(
    "request_", [{"app": "../x"}, {"app": ""}, {"digest": "../../etc/passwd"}, {"digest": "A" * 64}]
)
async def test_names_that_lead_elsewhere_are_refused(rig: Rig, request_: dict[str, str]) -> None:
    given = {"app": "shop", "digest": DIGEST} | request_
    async with rig.channel(rig.somebody(Role.OPERATOR)) as channel:
        asked = pb.BeginUploadRequest(**given, size_bytes=10)
        assert (await refused(stub_of(channel).BeginUpload(asked)))[0] is Status.INVALID_ARGUMENT
    async with rig.channel(rig.somebody(Role.COORDINATOR)) as channel:
        call = stub_of(channel).Fetch(pb.FetchRequest(app=given["app"], digest=given["digest"]))
        assert (await refused(call.read()))[0] is Status.INVALID_ARGUMENT


async def test_viewers_and_deployers_of_other_apps_send_nothing(rig: Rig) -> None:
    viewer = rig.somebody(Role.VIEWER)
    deployer = rig.somebody(Role.DEPLOYER, "dora", ("shop-*",))
    for who, app in ((viewer, "shop-eu"), (deployer, "blog"), (rig.somebody(Role.AGENT), "shop")):
        async with rig.channel(who) as channel:
            assert (await refused(begin(stub_of(channel), app)))[0] is Status.PERMISSION_DENIED
    async with rig.channel(deployer) as channel:
        await upload(stub_of(channel), "shop-eu")


async def test_a_ticket_is_of_no_use_to_anybody_else(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        ann, dora = [
            stub_of(await stack.enter_async_context(rig.channel(who)))
            for who in (rig.somebody(Role.OPERATOR), rig.somebody(Role.DEPLOYER, "d", ("shop",)))
        ]
        ticket = (await begin(ann, "blog")).ticket
        code, said = await refused(dora.Upload(parts(ticket, CODE)))
        assert code is Status.FAILED_PRECONDITION
        assert "unknown" in said
        assert (await refused(ann.Upload(parts("guessed", CODE))))[0] is Status.FAILED_PRECONDITION
        assert not artifacts_dir(rig).exists()


async def test_nobody_but_hosts_that_run_it_and_coordinators_fetches(rig: Rig) -> None:
    async with AsyncExitStack() as stack:

        async def channel(who: Credential) -> grpc.aio.Channel:
            return await stack.enter_async_context(rig.channel(who))

        people = await channel(rig.somebody(Role.OPERATOR))
        await upload(stub_of(people))
        with pytest.raises(grpc.aio.AioRpcError) as denied:
            await fetched(stub_of(people))
        assert denied.value.code() is Status.PERMISSION_DENIED
        of_a, of_b = [await channel(rig.somebody(Role.AGENT, name)) for name in "ab"]
        agent = HollowAgent(rig.address, "a")
        await agent.stub_to(of_a)
        async with agent:
            await ControlStub(people).Apply(applying())
            await agent.wait_for(lambda: len(agent.running) == 1)
            assert await fetched(stub_of(of_a)) == CODE
            assert await fetched(stub_of(of_a), offset=PART_BYTES) == CODE[PART_BYTES:]
            for stub, app in ((stub_of(of_b), "shop"), (stub_of(of_a), "blog")):
                with pytest.raises(grpc.aio.AioRpcError) as denied:
                    await fetched(stub, app)
                assert denied.value.code() is Status.FAILED_PRECONDITION
        assert await fetched(stub_of(await channel(rig.somebody(Role.COORDINATOR)))) == CODE


async def test_a_release_of_code_that_nobody_has_is_refused(rig: Rig) -> None:
    async with rig.channel(rig.somebody(Role.OPERATOR)) as channel:
        control, stub = ControlStub(channel), stub_of(channel)
        code, said = await refused(control.Apply(applying()))
        assert code is Status.FAILED_PRECONDITION
        assert "deploy it again" in said
        await upload(stub)
        assert (await refused(control.Apply(applying("blog"))))[0] is Status.FAILED_PRECONDITION
        assert "bytes, not" in (await refused(control.Apply(applying(size=5))))[1]
        bad = applying()
        bad.artifact.digest = "../x"
        assert (await refused(control.Apply(bad)))[0] is Status.INVALID_ARGUMENT
        release = (await control.Apply(applying())).release
        assert (release.artifact.digest, release.artifact.size_bytes) == (DIGEST, len(CODE))


async def test_an_apply_keeps_the_code_or_says_where_else_it_lies(rig: Rig) -> None:
    async with rig.channel(rig.somebody(Role.OPERATOR)) as channel:
        control = ControlStub(channel)
        await upload(stub_of(channel))
        await control.Apply(applying())
        later = applying()
        later.ClearField("artifact")
        later.workdir, later.keep_artifact = "/here", True
        assert (await control.Apply(later)).unchanged
        later.types[0].command = "run faster"
        assert (await control.Apply(later)).release.artifact.digest == DIGEST
        later.keep_artifact = False  # as an older formctl
        release = (await control.Apply(later)).release
        assert (release.HasField("artifact"), release.workdir) == (False, "/here")


async def test_code_that_changes_alone_is_another_release(rig: Rig) -> None:
    async with rig.channel(rig.somebody(Role.OPERATOR)) as channel:
        control, other = ControlStub(channel), os.urandom(100)
        for data, number in ((CODE, 1), (other, 2), (other, 2)):
            await upload(stub_of(channel), data=data)
            assert (await control.Apply(applying(data=data))).release.number == number


# -- several coordinators --------------------------------------------------------------------------


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[list[RunningCoordinator]]:
    store = MemoryStore()
    async with AsyncExitStack() as stack:
        found = [
            await stack.enter_async_context(
                coordinator(store, tmp_path, name, artifact_dir=str(tmp_path / f"of-{name}"))
            )
            for name in ("c1", "c2")
        ]
        await eventually(lambda: all(len(c.service.live.world.coordinators) == 2 for c in found))
        yield found


async def plain(stack: AsyncExitStack, running: RunningCoordinator) -> grpc.aio.Channel:
    channel = grpc.aio.insecure_channel(running.address, client_channel_options())
    return await stack.enter_async_context(channel)


async def test_the_others_have_it_soon_so_that_losing_one_loses_nothing(
    two: list[RunningCoordinator], tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        channel = await plain(stack, two[0])
        await upload(stub_of(channel))
        await ControlStub(channel).Apply(applying())
        copy = tmp_path / "of-c2" / "shop" / f"{DIGEST}.tar.gz"
        await eventually(copy.exists)
        assert copy.read_bytes() == CODE


async def test_a_coordinator_gets_what_it_is_asked_for_and_lacks(
    two: list[RunningCoordinator], tmp_path: Path
) -> None:
    """Apply at the one that was not uploaded to, and a fetch of what was lost there."""
    async with AsyncExitStack() as stack:
        first, second = [await plain(stack, running) for running in two]
        await upload(stub_of(first))
        await ControlStub(second).Apply(applying())
        copy = tmp_path / "of-c2" / "shop" / f"{DIGEST}.tar.gz"
        assert copy.read_bytes() == CODE
        copy.unlink()
        assert await fetched(stub_of(second)) == CODE


async def test_what_has_gone_bad_on_one_disk_comes_anew_from_another(
    two: list[RunningCoordinator], tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        first, second = [await plain(stack, running) for running in two]
        await upload(stub_of(first))
        await ControlStub(first).Apply(applying())
        copy = tmp_path / "of-c2" / "shop" / f"{DIGEST}.tar.gz"
        await eventually(copy.exists)
        assert await fetched(stub_of(second)) == CODE
        copy.write_bytes(b"x" + CODE[1:])
        assert await fetched(stub_of(second)) == CODE
        copy.write_bytes(b"")
        assert await fetched(stub_of(second)) == CODE


async def _applied(channel: grpc.aio.Channel, data: bytes) -> bool:
    """False while the leader is faster: it notes each release that has arrived."""
    try:
        await ControlStub(channel).Apply(applying(data=data))
    except grpc.aio.AioRpcError as error:
        if error.code() is not Status.ABORTED:
            raise
        return False
    return True


async def test_what_nothing_refers_to_goes_after_an_hour_and_kept_releases_stay(
    two: list[RunningCoordinator], tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        channel = await plain(stack, two[0])
        codes = [os.urandom(50) for _ in range(RELEASES_KEPT + 2)]
        for data in codes:
            await upload(stub_of(channel), data=data)
            await eventually(partial(_applied, channel, data))
        await upload(stub_of(channel), data=b"never applied")
        mine = tmp_path / "of-c1" / "shop"
        digests = [hashlib.sha256(data).hexdigest() for data in codes]
        service = two[0].service.artifacts
        await eventually(lambda: len(service.kept_now()) == RELEASES_KEPT)
        await service.look()
        assert len(list(mine.iterdir())) == len(codes) + 1  # all of them are young
        for path in mine.iterdir():
            os.utime(path, (time.time() - 4000,) * 2)
        await service.look()
        left = {path.name.partition(".")[0] for path in mine.iterdir()}
        assert left == set(digests[2:])
        assert Artifact(digest=digests[-1], size_bytes=50) in service.kept_now().values()
