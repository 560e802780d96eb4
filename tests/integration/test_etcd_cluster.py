"""deploy/etcd: three members with TLS towards everybody, as its unit and its script have them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from coordinator_program import program
from etcd3aio import _protobuf as pb
from etcd_server import MISSING
from eventually import eventually
from running import coordinator
from store_backends import require_etcd

from formation.credentials import read_password
from formation_coordinator.config import read_config
from formation_coordinator.embedded import bound_command
from formation_coordinator.store.base import Put, StoreError
from formation_coordinator.store.endpoints import TlsFiles
from formation_coordinator.store.etcd import EtcdStore
from formation_coordinator.store.login import Login

DEPLOY = Path(__file__).parents[2] / "deploy"
SCRIPT, UNIT = DEPLOY / "etcd" / "make-cluster.sh", DEPLOY / "etcd" / "formation-etcd.service"

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")


def make(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False)


def unit_lines(key: str) -> list[str]:
    text = UNIT.read_text("utf-8").replace("\\\n", " ")
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


class Cluster:
    """Three members, each at a loopback address of its own: ports are those of the script."""

    def __init__(self, etcd: Path, directory: Path) -> None:
        pid = os.getpid()
        net = f"127.{1 + pid // 250 % 250}.{1 + pid % 250}"
        self.addresses = {f"h{number}": f"{net}.{number}" for number in (1, 2, 3)}
        self.directory = directory
        done = make(directory, *(f"{name}={where}" for name, where in self.addresses.items()))
        assert done.returncode == 0, done.stderr
        found = re.search(r'^etcd = "(.*)"$', done.stdout, re.MULTILINE)
        assert found, done.stdout
        self.endpoints = found[1].split(",")
        ours = directory / "coordinator"
        self.tls = TlsFiles(
            ca=str(ours / "ca.pem"), cert=str(ours / "client.pem"), key=str(ours / "client-key.pem")
        )
        self._etcd = etcd
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        place = self.directory / name
        data = self.directory / f"{name}-data"
        data.mkdir(mode=0o700, exist_ok=True)
        assert unit_lines("EnvironmentFile") == ["/etc/formation-etcd/etcd.env"]
        env = dict(line.split("=", 1) for line in (place / "etcd.env").read_text().splitlines())
        (line,) = unit_lines("ExecStart")
        line = line.replace("${CREDENTIALS_DIRECTORY}", str(place))
        words = shlex.split(line.replace("${STATE_DIRECTORY}", str(data)))
        assert words[0] == "/usr/bin/etcd"
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                bound_command(self._etcd, *words[1:]), env=env, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(10)

    def close(self) -> None:
        for name in list(self._processes):
            self.kill(name)

    def channel(self, name: str) -> grpc.aio.Channel:
        paths = (self.tls.ca, self.tls.key, self.tls.cert)
        credentials = grpc.ssl_channel_credentials(*(Path(path).read_bytes() for path in paths))
        return grpc.aio.secure_channel(f"{self.addresses[name]}:2379", credentials)

    async def leader(self) -> str:
        for name in self.addresses:
            async with self.channel(name) as channel:
                stub = pb.MaintenanceStub(channel)
                status = await stub.Status(pb.StatusRequest(), timeout=20, wait_for_ready=True)
                if status.leader == status.header.member_id:
                    return name
        return ""


@pytest.fixture(params=sorted(MISSING))
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    started = Cluster(require_etcd(request.param).path, tmp_path / "cluster")
    try:
        for name in started.addresses:
            started.start(name)
        yield started
    finally:
        started.close()


def flags(cluster: Cluster) -> tuple[str, ...]:
    tls = cluster.tls
    return ("--etcd-ca", tls.ca, "--etcd-cert", tls.cert, "--etcd-key", tls.key)


async def turn_on_authentication(cluster: Cluster) -> None:
    """As docs/install.md says it for etcdctl."""
    async with cluster.channel("h1") as channel:
        stub = pb.AuthStub(channel)
        await stub.UserAdd(
            pb.AuthUserAddRequest(name="root", password="r00t"), timeout=20, wait_for_ready=True
        )
        await stub.RoleAdd(pb.AuthRoleAddRequest(name="root"))
        await stub.UserGrantRole(pb.AuthUserGrantRoleRequest(user="root", role="root"))
        await stub.AuthEnable(pb.AuthEnableRequest())


async def made_by_init(cluster: Cluster, tmp_path: Path) -> Login:
    """The user that `init` makes in it."""
    password = tmp_path / "root-password"
    password.write_text("r00t\n")
    password.chmod(0o600)
    code, said = await program(
        tmp_path,
        *("init", "--identity-dir", str(tmp_path / "c1"), "--id", "c1"),
        *("--etcd", ",".join(cluster.endpoints), *flags(cluster)),
        *("--etcd-root-password-file", str(password)),
    )
    assert code == 0, said
    assert "authentication is off" not in said
    return Login(user="formation", password=read_password(str(tmp_path / "c1" / "etcd-password")))


async def test_a_coordinator_works_with_it_while_a_member_is_gone(
    cluster: Cluster, tmp_path: Path
) -> None:
    await turn_on_authentication(cluster)
    login = await made_by_init(cluster, tmp_path)
    store = EtcdStore(cluster.endpoints, prefix="/formation/", tls=cluster.tls, login=login)
    try:
        async with coordinator(store, tmp_path) as running:
            await eventually(lambda: running.service.election.leading)
            gone = await eventually(cluster.leader)
            cluster.kill(gone)

            async def written() -> bool:
                try:
                    return (await store.commit([], [Put("x", b"1")])).succeeded
                except StoreError:
                    return False

            await eventually(written, what="a write by the two that are left")
            await eventually(lambda: running.service.election.leading)
            cluster.start(gone)

            async def is_back() -> bool:
                async with cluster.channel(gone) as channel:
                    stub = pb.MaintenanceStub(channel)
                    try:
                        status = await stub.Status(pb.StatusRequest(), timeout=5)
                    except grpc.aio.AioRpcError:
                        return False
                    return bool(status.leader)

            await eventually(is_back, what="the member with the same data and the same name")
    finally:
        await store.close()


async def test_nobody_reaches_it_without_a_certificate_for_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    await eventually(cluster.leader)
    place = cluster.directory
    wrong = {
        "none": TlsFiles(ca=cluster.tls.ca),
        "a member's, for members": TlsFiles(
            ca=cluster.tls.ca, cert=str(place / "h1/peer.pem"), key=str(place / "h1/peer-key.pem")
        ),
        "a server's": TlsFiles(
            ca=cluster.tls.ca,
            cert=str(place / "h1/server.pem"),
            key=str(place / "h1/server-key.pem"),
        ),
    }
    for tls in wrong.values():
        store = EtcdStore(cluster.endpoints[:1], prefix="/formation/", tls=tls)
        with pytest.raises(StoreError):
            await store.commit([], [Put("a", b"1")])
        await store.close()


async def test_a_certificate_alone_changes_nothing_once_there_are_users(cluster: Cluster) -> None:
    await turn_on_authentication(cluster)
    store = EtcdStore(cluster.endpoints, prefix="/formation/", tls=cluster.tls)
    with pytest.raises(StoreError, match=r"permission denied|user name"):
        await store.commit([], [Put("a", b"1")])
    await store.close()


# -- the script ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "DIRECTORY and at least one NAME=ADDRESS"),
        (["x"], "DIRECTORY and at least one NAME=ADDRESS"),
        (["x", "h1"], "h1: not a NAME=ADDRESS"),
        (["x", "h1=a b"], "not a NAME=ADDRESS"),
        (["x", "coordinator=10.0.0.1"], "another name is needed"),
    ],
)
def test_what_is_asked_wrongly_makes_nothing(
    words: list[str], complaint: str, tmp_path: Path
) -> None:
    done = make(*(tmp_path / word if word == "x" else word for word in words))
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_again_it_renews_and_keeps_the_authorities(tmp_path: Path) -> None:
    def contents() -> dict[str, bytes]:
        paths = sorted(tmp_path.rglob("*.pem"))
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in paths}

    assert make(tmp_path, "h1=::1", "h2=etcd.example").returncode == 0
    before = contents()
    assert make(tmp_path, "h1=::1", "h2=etcd.example").returncode == 0
    after = contents()
    same = {name for name in before if before[name] == after[name]}
    kept = {"h1/ca.pem", "h1/peer-ca.pem", "h2/ca.pem", "h2/peer-ca.pem", "coordinator/ca.pem"}
    kept |= {f"authorities/{name}.pem" for name in ("clients", "clients-key", "peers", "peers-key")}
    assert same == kept
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*"))
    assert "ETCD_LISTEN_PEER_URLS=https://[::1]:2380" in (tmp_path / "h1/etcd.env").read_text()
    assert "ETCD_LISTEN_PEER_URLS=https://0.0.0.0:2380" in (tmp_path / "h2/etcd.env").read_text()


def test_the_settings_that_come_along_name_its_files() -> None:
    text = (DEPLOY / "config" / "coordinator.toml").read_text("utf-8")
    text = re.sub(r"^#(etcd-[\w-]+ = )", r"\1", text, flags=re.MULTILINE)
    read = read_config(["--config", "c.toml"], {}, lambda _path: text)
    assert Path(read.etcd_ca).name == "ca.pem"
    assert Path(read.etcd_cert).name == "client.pem"
    assert Path(read.etcd_key).name == "client-key.pem"
