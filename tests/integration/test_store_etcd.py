"""What only a real etcd can do to us: die, freeze, refuse, fill up, speak TLS."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from etcd_server import EtcdServer, Relay, shared_server
from eventually import eventually
from store_backends import ETCDS, require_etcd

from formation.runtime import monotonic_s
from formation_coordinator.store.base import (
    REQUEST_BYTES_MAX,
    LeaseLost,
    NoSpace,
    OutcomeUnknown,
    Put,
    Span,
    StoreUnavailable,
    TooLarge,
    operation_bytes,
)
from formation_coordinator.store.endpoints import TlsFiles
from formation_coordinator.store.etcd import EtcdStore

EVERYTHING = Span.prefix("")


@pytest.fixture
def server() -> Iterator[EtcdServer]:
    """One of its own, to be hurt. Debian's: 3.5.1 can be damaged by a crash."""
    with EtcdServer(require_etcd("debian")) as started:
        yield started


@pytest.fixture
async def store(server: EtcdServer) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(server.endpoint)
    yield store
    await store.close()


@pytest.fixture
async def relays(server: EtcdServer) -> AsyncIterator[list[Relay]]:
    started = [await Relay(server.socket).start() for _ in range(2)]
    yield started
    for relay in started:
        await relay.cut()


async def test_a_write_while_etcd_is_down_was_surely_not_done(
    server: EtcdServer, store: EtcdStore
) -> None:
    await store.commit([], [Put("a", b"1")])
    server.kill()
    await eventually(lambda: _fails_as_not_done(store))
    with pytest.raises(StoreUnavailable) as info:
        await store.commit([], [Put("a", b"2")])
    assert server.endpoint in str(info.value)
    server.start()
    item = await store.get("a", timeout_s=20)
    assert item is not None
    assert item.value == b"1"


async def _fails_as_not_done(store: EtcdStore) -> bool:
    """The first write may meet the dying connection, whose outcome nobody knows."""
    try:
        await store.commit([], [Put("a", b"1")])
    except OutcomeUnknown:
        return False
    except StoreUnavailable:
        return True
    return False


async def test_a_write_to_an_etcd_that_freezes_has_an_unknown_outcome(
    server: EtcdServer, store: EtcdStore
) -> None:
    await store.commit([], [Put("a", b"1")])
    server.freeze()
    with pytest.raises(OutcomeUnknown, match="may or may not have done it"):
        await store.commit([], [Put("a", b"2")])
    server.thaw()
    item = await store.get("a", timeout_s=20)
    assert item is not None  # and reading it is how the question is settled


async def test_a_read_outlives_a_restart_of_etcd(server: EtcdServer, store: EtcdStore) -> None:
    await store.commit([], [Put("a", b"1")])
    server.kill()
    reading = asyncio.create_task(store.get("a", timeout_s=30))
    server.start(wait=False)
    item = await reading
    assert item is not None


async def test_a_read_ends_in_time_when_etcd_stays_away(
    server: EtcdServer, store: EtcdStore
) -> None:
    await store.get("a")
    server.freeze()
    started_s = monotonic_s()
    with pytest.raises(StoreUnavailable):
        await store.get("a", timeout_s=1.0)
    assert monotonic_s() - started_s < 3
    server.thaw()


async def test_an_endpoint_that_nobody_serves_is_named() -> None:
    store = EtcdStore("unix:/nonexistent/a,unix:/nonexistent/b")
    with pytest.raises(StoreUnavailable, match="unix:/nonexistent/a, unix:/nonexistent/b"):
        await store.get("a", timeout_s=0.3)
    await store.close()


async def test_when_one_endpoint_goes_the_next_one_serves(relays: list[Relay]) -> None:
    store = EtcdStore([relay.endpoint for relay in relays])
    await store.commit([], [Put("a", b"1")])
    assert relays[1].connections == 0
    await relays[0].cut()
    assert await store.get("a") is not None
    assert (await store.commit([], [Put("a", b"2")])).succeeded
    await relays[1].cut()
    await relays[0].start()
    assert await store.get("a", timeout_s=20) is not None
    await store.close()


async def test_a_lease_is_renewed_through_another_endpoint_when_one_freezes(
    relays: list[Relay],
) -> None:
    store = EtcdStore([relay.endpoint for relay in relays])
    lease = await store.grant_lease(5)
    relays[0].freeze()
    with pytest.raises(StoreUnavailable):
        await store.keep_lease(lease)
    assert await store.keep_lease(lease) == 5
    await store.close()


async def test_a_watch_on_a_frozen_connection_breaks_instead_of_hanging(
    relays: list[Relay],
) -> None:
    store = EtcdStore(relays[0].endpoint)
    start = (await store.commit([], [Put("a", b"1")])).revision
    async with aclosing(store.watch(EVERYTHING, start)) as watch:
        await anext(watch)
        relays[0].freeze()
        with pytest.raises(StoreUnavailable, match=r"silent|does not serve"):
            async with asyncio.timeout(15):
                await anext(watch)
    await store.close()


async def test_a_quiet_watch_stays_open_for_longer_than_its_patience(
    server: EtcdServer, store: EtcdStore
) -> None:
    start = (await store.commit([], [Put("a", b"1")])).revision
    other = EtcdStore(server.endpoint)
    async with aclosing(store.watch(EVERYTHING, start)) as watch:
        await anext(watch)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.wait([waiting], timeout=7)
        assert not waiting.done()
        written = await other.commit([], [Put("b", b"1")])
        assert (await waiting).revision == written.revision
    await other.close()


async def test_a_watch_breaks_when_etcd_is_killed(server: EtcdServer, store: EtcdStore) -> None:
    start = (await store.commit([], [Put("a", b"1")])).revision
    async with aclosing(store.watch(EVERYTHING, start)) as watch:
        await anext(watch)
        server.kill()
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(10):
                await anext(watch)


async def test_a_lease_lives_through_a_restart_of_etcd(
    server: EtcdServer, store: EtcdStore
) -> None:
    lease = await store.grant_lease(30)
    await store.commit([], [Put("sessions/a", b"", lease)])
    server.kill()
    server.start()
    assert await eventually(lambda: _kept(store, lease)) == 30


async def _kept(store: EtcdStore, lease: int) -> float:
    try:
        return await store.keep_lease(lease)
    except StoreUnavailable:
        return 0.0


@pytest.mark.parametrize("flavour", ETCDS)
async def test_what_etcd_itself_finds_too_large_is_the_same_error(flavour: str) -> None:
    store = EtcdStore(shared_server(require_etcd(flavour)).endpoint, prefix="/a-long-prefix/" * 9)
    # Fits by our count, which does not know of the prefix.
    fits = Put("a", bytes(REQUEST_BYTES_MAX - operation_bytes(Put("a", b""))))
    with pytest.raises(TooLarge, match=r"^a is larger than etcd allows; etcd takes at most"):
        await store.commit([], [fits])
    await store.close()


@pytest.mark.parametrize("flavour", ETCDS)
async def test_a_full_database_is_its_own_error_and_reads_go_on(flavour: str) -> None:
    quota = ("--quota-backend-bytes", str(1024 * 1024))
    with EtcdServer(require_etcd(flavour), flags=quota) as server:
        store = EtcdStore(server.endpoint)
        await store.commit([], [Put("small", b"1")])
        with pytest.raises(NoSpace, match="compact and defragment"):
            await _fill(store)
        assert await store.get("small") is not None
        with pytest.raises(LeaseLost):
            await store.keep_lease(1)
        await store.close()


async def _fill(store: EtcdStore) -> None:
    """etcd looks at its size as of the last time it wrote to disk, so this takes many on a slow
    one, and few on most."""
    for number in range(300):
        await store.commit([], [Put(f"a/{number}", bytes(200_000))])


async def test_keys_of_other_prefixes_are_out_of_reach(server: EtcdServer) -> None:
    ours = EtcdStore(server.endpoint, prefix="/formation/")
    others = [EtcdStore(server.endpoint, prefix=f"/formation{end}") for end in ("0/", "-b/", "/x/")]
    for other in others[:2]:
        await other.commit([], [Put("apps/shop", b"theirs")])
    assert (await ours.ranges([EVERYTHING])).items == ()
    await others[2].commit([], [Put("y", b"")])  # a prefix inside ours is ours, too
    assert [item.key for item in (await ours.ranges([EVERYTHING])).items] == ["x/y"]
    for store in (ours, *others):
        await store.close()


@pytest.mark.parametrize("prefix", ["", "formation", "/fö/"])
def test_a_prefix_must_be_ascii_and_end_with_a_slash(prefix: str) -> None:
    with pytest.raises(ValueError, match="etcd prefix"):
        EtcdStore("http://127.0.0.1:1", prefix=prefix)


def _openssl(directory: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """ca.pem, and for `server` and `client` a certificate and a key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: apt install openssl")
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    days = ("-days", "2")
    _openssl(tmp_path, *new, *days, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test")
    for name, usage in (("server", "serverAuth,clientAuth"), ("client", "clientAuth")):
        _openssl(
            tmp_path,
            *(*new, *days, "-keyout", f"{name}.key", "-out", f"{name}.pem"),
            *("-subj", f"/CN={name}", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-addext", f"extendedKeyUsage={usage}", "-addext", "basicConstraints=CA:FALSE"),
        )
    return tmp_path


async def test_over_tls_only_a_client_with_a_certificate_is_served(authority: Path) -> None:
    flags = [
        *(
            "--cert-file",
            str(authority / "server.pem"),
            "--key-file",
            str(authority / "server.key"),
        ),
        *("--trusted-ca-file", str(authority / "ca.pem"), "--client-cert-auth"),
    ]
    server = EtcdServer(require_etcd("debian"), flags=flags, client_scheme="unixs")
    server.start(wait=False)
    relay = Relay(server.socket)
    await relay.start()
    try:
        address = f"https://localhost:{relay.port}"
        ca = str(authority / "ca.pem")
        keys = {"cert": str(authority / "client.pem"), "key": str(authority / "client.key")}
        store = EtcdStore(address, tls=TlsFiles(ca=ca, **keys))
        await eventually(lambda: _serves(store), deadline_s=20)
        assert (await store.commit([], [Put("a", b"1")])).succeeded
        await store.close()
        for refused in (TlsFiles(ca=ca), TlsFiles(**keys)):
            store = EtcdStore(address, tls=refused)
            with pytest.raises(StoreUnavailable):
                await store.get("a", timeout_s=0.5)
            await store.close()
    finally:
        await relay.cut()
        server.stop()


async def _serves(store: EtcdStore) -> bool:
    try:
        await store.get("a", timeout_s=0.5)
    except StoreUnavailable:
        return False
    return True


async def test_a_host_name_and_an_ipv6_address_are_reached(server: EtcdServer) -> None:
    for host, name in (("127.0.0.1", "localhost"), ("::1", "[::1]")):
        relay = Relay(server.socket)
        try:
            await relay.start(host=host)
        except OSError as error:
            pytest.skip(f"cannot listen on {host}: {error}")
        store = EtcdStore(f"http://{name}:{relay.port}")
        assert await store.get("a") is None
        await store.close()
        await relay.cut()
