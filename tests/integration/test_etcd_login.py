"""etcd with authentication on: a user that may touch our keys and nothing else, made by `init`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from coordinator_program import program
from etcd3aio import _protobuf as pb
from etcd_server import MISSING, EtcdServer
from eventually import eventually
from running import coordinator
from store_backends import require_etcd

from formation_coordinator.store.base import ModRevision, Put, Span, StoreError, StoreUnavailable
from formation_coordinator.store.etcd import EtcdStore
from formation_coordinator.store.login import Login, LoginError, make_user

ROOT = Login(user="root", password="r00t")
US = Login(user="formation", password="s3cret")


@pytest.fixture(params=sorted(MISSING))
async def server(request: pytest.FixtureRequest) -> AsyncIterator[EtcdServer]:
    with EtcdServer(require_etcd(request.param)) as started:
        yield started


async def turn_on(server: EtcdServer) -> None:
    """As its administrator does, once."""
    options = [("grpc.default_authority", "localhost")]
    async with grpc.aio.insecure_channel(server.endpoint, options) as channel:
        stub = pb.AuthStub(channel)
        await stub.UserAdd(pb.AuthUserAddRequest(name=ROOT.user, password=ROOT.password))
        await stub.RoleAdd(pb.AuthRoleAddRequest(name="root"))
        await stub.UserGrantRole(pb.AuthUserGrantRoleRequest(user="root", role="root"))
        await stub.AuthEnable(pb.AuthEnableRequest())


async def made(server: EtcdServer) -> bool:
    return await make_user([server.endpoint], None, ROOT, US, "/formation/")


async def store(
    server: EtcdServer, login: Login | None = US, prefix: str = "/formation/"
) -> EtcdStore:
    return EtcdStore([server.endpoint], prefix=prefix, login=login)


async def test_the_user_does_all_that_a_store_does(server: EtcdServer) -> None:
    await turn_on(server)
    assert await made(server)
    assert await made(server)  # again: set right, not refused
    ours = await store(server)
    try:
        lease = await ours.grant_lease(5)
        outcome = await ours.commit([ModRevision("a", 0)], [Put("a", b"1", lease=lease)])
        assert outcome.succeeded
        assert await ours.keep_lease(lease) > 0
        assert (await ours.get("a")) is not None
        assert len((await ours.ranges([Span("", "")])).items) == 1
        watch = ours.watch(Span("", ""), outcome.revision)
        assert (await anext(watch)).events[0].key == "a"
        await watch.aclose()
        await ours.revoke_lease(lease)
        assert (await ours.get("a")) is None
    finally:
        await ours.close()


async def test_the_user_touches_nothing_else(server: EtcdServer) -> None:
    await turn_on(server)
    await made(server)
    for prefix in ("/other/", "/formation-2/", "/formatio/"):
        theirs = await store(server, prefix=prefix)
        with pytest.raises(StoreError, match="permission denied"):
            await theirs.commit([], [Put("a", b"1")])
        with pytest.raises(StoreError, match="permission denied"):
            await theirs.ranges([Span("", "")], timeout_s=1.0)
        await theirs.close()


async def test_nobody_comes_in_without_a_password_or_with_a_wrong_one(server: EtcdServer) -> None:
    await turn_on(server)
    await made(server)
    nobody = await store(server, None)
    with pytest.raises(StoreError, match="user name is empty"):
        await nobody.commit([], [Put("a", b"1")])
    await nobody.close()
    wrong = await store(server, Login(user="formation", password="guess-me"))
    with pytest.raises(StoreUnavailable, match="does not let user formation in") as caught:
        await wrong.commit([], [Put("a", b"1")])
    assert "guess-me" not in str(caught.value)
    await wrong.close()
    with pytest.raises(LoginError, match="authentication failed"):
        await make_user(
            [server.endpoint], None, Login(user="root", password="no"), US, "/formation/"
        )


async def test_a_token_that_etcd_forgot_is_asked_for_again(server: EtcdServer) -> None:
    """etcd keeps tokens in memory: a restart forgets them, and so does it after some minutes."""
    await turn_on(server)
    await made(server)
    ours = await store(server)
    try:
        assert (await ours.commit([], [Put("a", b"1")])).succeeded
        server.kill()
        server.start(wait=False)
        await eventually(lambda: served(ours))
        assert (await ours.commit([], [Put("a", b"2")])).succeeded
        ours._token = "forgotten"
        assert (await ours.commit([], [Put("a", b"3")])).succeeded
        ours._token = "forgotten"
        item = await ours.get("a")
        assert item is not None
        assert item.value == b"3"
    finally:
        await ours.close()


async def served(ours: EtcdStore) -> bool:
    try:
        return await ours.get("a", timeout_s=1.0) is not None
    except StoreError:
        return False


async def test_a_whole_coordinator_runs_with_it(server: EtcdServer, tmp_path: Path) -> None:
    await turn_on(server)
    await made(server)
    ours = await store(server)
    try:
        async with coordinator(ours, tmp_path) as running:
            await eventually(lambda: running.service.election.leading)
    finally:
        await ours.close()


async def test_init_makes_the_user_and_says_what_to_start(
    server: EtcdServer, tmp_path: Path
) -> None:
    password = tmp_path / "root"
    password.write_text("r00t\n")
    password.chmod(0o600)
    words = (
        *("init", "--identity-dir", str(tmp_path / "c1"), "--id", "c1"),
        *("--etcd", server.endpoint, "--etcd-root-password-file", str(password)),
    )
    code, said = await program(tmp_path, *words)
    assert code == 0, said
    assert "authentication is off there" in said
    path = tmp_path / "c1" / "etcd-password"
    assert f"--etcd-user formation --etcd-password-file {path}" in said
    made_password = path.read_text().strip()
    assert made_password not in said
    await turn_on(server)
    ours = await store(server, Login(user="formation", password=made_password))
    assert (await ours.commit([], [Put("a", b"1")])).succeeded
    await ours.close()
