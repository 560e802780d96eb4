"""Secrets with the real programs: where the value is, and where it must never be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from certified import Authority
from cluster import BIN, Cluster
from etcd_server import EtcdServer
from store_backends import require_etcd

CANARY = "c4nary-Xq7-5ecret-url"
PEM = "c4nary-Zk2-5ecret-pem"
SHOP = """
app = "shop"
[types.web]
command = "sleep 1000"
quantity = 1
secrets = ["DB_URL"]
secret_files = ["KEY"]
ready.after = "100ms"
rollout.healthy = "100ms"
placement.require = ["where=a"]
[types.plain]
command = "sleep 1000"
quantity = 1
secrets = []
placement.require = ["where=b"]
"""
EVERYTHING = (
    ("ps", "-A"),
    ("secret",),
    ("config",),
    ("releases",),
    ("diff", "v1", "v3"),
    ("apps",),
    ("hosts",),
    ("history",),
    ("rollout",),
    ("show", "web.1"),
    ("explain", "web.1"),
)


class Certified(Cluster):
    """Coordinators with certificates, so with a keyring; people and agents by Unix sockets."""

    def __init__(self, etcd: EtcdServer) -> None:
        super().__init__(etcd=etcd.endpoint)
        self.authority = Authority()

    def serve(self, name: str, *flags: str) -> None:
        directory = self.directory / f"identity-{name}"
        if not directory.exists():
            self.authority.coordinator(directory, name)
        self.start_coordinator(name, "--identity-dir", str(directory), *flags)

    def set(self, name: str, value: str, *words: str) -> str:
        done = subprocess.run(
            [str(BIN / "formctl"), "secret", "set", name, *words],
            input=f"{value}\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.directory,
            env={
                **self.environment(),
                "FORMATION_COORDINATOR": ",".join(self.coordinators.values()),
            },
        )
        assert done.returncode == 0, done.stderr
        assert value not in done.stdout + done.stderr
        return done.stdout

    def environment_of(self, slot: str) -> dict[str, str]:
        pid = self.healthy()[slot]["pid"]
        words = Path(f"/proc/{pid}/environ").read_text().split("\0")
        return dict(word.split("=", 1) for word in words if word)


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer(require_etcd("debian")) as server:
        yield server


@pytest.fixture
def cluster(etcd: EtcdServer) -> Iterator[Certified]:
    with Certified(etcd) as made:
        made.serve("c1")
        for name in "ab":
            made.start_agent(name, "--label", f"where={name}", "--verbose")
        made.wait_hosts(2)
        made.app({"formation.toml": SHOP})
        yield made


def knows(cluster: Certified, agent: str, coordinator: str) -> bool:
    told = [line for line in cluster.log(agent).splitlines() if " coordinators: " in line]
    return bool(told) and cluster.coordinators[coordinator] in told[-1]


def files_with(directory: Path, text: str) -> list[str]:
    """Below it, by what is in them; sockets and what goes meanwhile are no files."""
    found = []
    for path in directory.rglob("*"):
        try:
            if path.is_file() and text.encode() in path.read_bytes():
                found.append(str(path.relative_to(directory)))
        except OSError:
            continue
    return sorted(found)


def command_lines() -> str:
    """Of everything that runs on this machine."""
    words = []
    for process in psutil.process_iter():
        try:
            words += process.cmdline()
        except psutil.Error:
            continue
    return "\0".join(words)


def test_a_value_is_in_the_process_that_needs_it_and_nowhere_that_people_look(
    cluster: Certified, etcd: EtcdServer
) -> None:
    done = cluster.formctl("apply", "-f", "shop/formation.toml", "--no-wait")
    assert "web needs DB_URL: formctl secret set DB_URL" in done.stderr
    cluster.wait(lambda: "secret DB_URL is not set" in cluster.formctl("ps").stdout)
    assert "shop v2: set secret DB_URL" in cluster.set("DB_URL", CANARY, "--no-wait")
    assert "1 healthy" in cluster.set("KEY", PEM)
    cluster.wait(lambda: set(cluster.healthy()) == {"web.1", "plain.1"})

    seen = cluster.environment_of("web.1")
    assert seen["DB_URL"] == CANARY
    key = Path(seen["KEY_FILE"])
    assert key.read_text() == PEM
    assert "KEY" not in seen
    assert not {"DB_URL", "KEY_FILE"} & cluster.environment_of("plain.1").keys()

    everything = [
        cluster.formctl(*words, *more) for words in EVERYTHING for more in ((), ("-o", "json"))
    ]
    backup = cluster.directory / "all.backup"
    cluster.formctl("backup", str(backup))
    said = backup.read_bytes()
    backup.unlink()
    for canary in (CANARY, PEM):
        # Private to the agent of the host where it runs.
        assert files_with(cluster.directory, canary) == ["state-a/agent.pb"]
        assert files_with(etcd.directory, canary) == []
        assert canary not in command_lines()
        assert not [done.args for done in everything if canary in done.stdout + done.stderr]
        assert canary.encode() not in said
    assert os.stat(cluster.directory / "state-a" / "agent.pb").st_mode & 0o077 == 0

    cluster.formctl("scale", "web=0")
    cluster.wait(lambda: not key.parent.exists(), what="its files are gone")
    cluster.wait(lambda: files_with(cluster.directory, CANARY) == [], what="the journal forgets it")


def test_what_needs_a_secret_goes_on_without_coordinators_and_through_another_key(
    cluster: Certified,
) -> None:
    cluster.formctl("apply", "-f", "shop/formation.toml", "-m", "web=0", "--no-wait")
    cluster.set("KEY", PEM, "--no-wait")
    cluster.set("DB_URL", CANARY, "--no-wait")
    cluster.formctl("scale", "web=1")
    cluster.serve("c2")  # which has joined before there was any key
    cluster.wait(lambda: "keys came from coordinator c1" in cluster.log("c2"))
    before = cluster.healthy()["web.1"]["pid"]

    assert " seals: 3 sealed anew, of 2 releases" in cluster.formctl("secret", "rotate").stdout
    assert "0 sealed anew" in cluster.formctl("secret", "rotate", "--finish").stdout
    assert "seal with" in cluster.formctl("history").stdout
    assert cluster.healthy()["web.1"]["pid"] == before

    # The agents hear of it, after they had come to the first.
    for name in "ab":
        cluster.wait(lambda name=name: knows(cluster, name, "c2"))  # type: ignore[misc]
    cluster.kill("c1")
    cluster.coordinators.pop("c1")
    cluster.wait(lambda: "leads, epoch" in cluster.log("c2"), what="c2 leads")
    cluster.wait_hosts(2)
    assert "1 healthy" in cluster.set("DB_URL", CANARY + "2")
    assert cluster.environment_of("web.1")["DB_URL"] == CANARY + "2"

    cluster.kill("c2")
    (killed,) = running(cluster)
    psutil.Process(killed).kill()
    again = cluster.wait(lambda: other_than(cluster, killed), what="started again by its agent")
    assert f"DB_URL={CANARY}2" in Path(f"/proc/{again}/environ").read_text().split("\0")


def running(cluster: Cluster) -> list[int]:
    """Pids of processes of type web, as the machine knows them."""
    found = []
    for process in psutil.process_iter():
        try:
            environ, name = process.environ(), process.name()
        except psutil.Error:
            continue
        mine = environ.get("HOME") == str(cluster.directory) and "KEY_FILE" in environ
        if mine and name == "sleep":
            found.append(process.pid)
    return found


def other_than(cluster: Cluster, pid: int) -> int:
    return next((found for found in running(cluster) if found != pid), 0)


def test_what_cannot_be_is_told_in_one_line(cluster: Certified) -> None:
    cluster.formctl("apply", "-f", "shop/formation.toml", "--no-wait")
    for words, said in (
        (("set", f"DB_URL={CANARY}"), "a value on a command line is seen by everybody"),
        (("set", "A B"), "'A B' is no name of a variable"),
        (("set", "PORT"), "PORT is set by Formation"),
        (("unset", "GONE"), "GONE is no secret of it; see formctl secret"),
    ):
        done = cluster.formctl("secret", *words, check=False)
        assert done.returncode == 2, words
        assert said in done.stderr
        assert CANARY not in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_coordinator_without_certificates_has_no_key_and_says_so() -> None:
    with Cluster() as plain:
        plain.start_coordinator()
        plain.app({"Procfile": "web: sleep 1\n"})
        plain.wait(lambda: plain.formctl("apply", "-f", "shop/Procfile", "--no-wait"))
        done = subprocess.run(
            [str(BIN / "formctl"), "secret", "set", "A"],
            input="x",
            capture_output=True,
            text=True,
            check=False,
            cwd=plain.directory,
            env={**plain.environment(), "FORMATION_COORDINATOR": plain.coordinators["c1"]},
        )
        assert done.returncode == 1
        assert "no key to seal secrets with: formation-coordinator init" in done.stderr
