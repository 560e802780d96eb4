"""Release commands with real programs: in order, once, and nothing of a release before its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster import Cluster
from etcd_server import EtcdServer
from store_backends import require_etcd

MANIFEST = """\
app = "shop"
[release]
command = "sh migrate.sh"
timeout = "{timeout}"
[env]
VERSION = "{version}"
[types.web]
command = "sh web.sh"
quantity = 2
ready.after = "100ms"
rollout.healthy = "100ms"
"""
# It waits while there is a file `hold`, and ends with what the file `code` says.
MIGRATE = """\
echo "$FORMATION_RELEASE begins" >> order
echo "migrating to $VERSION"
while [ -e hold ]; do sleep 0.05; done
code=$(cat code)
echo "last words"
echo "$FORMATION_RELEASE ends $code" >> order
exit "$code"
"""
WEB = """\
echo "$FORMATION_RELEASE $PS" >> order
exec sleep 1000
"""


class Shop:
    """An app whose release command does what the test says."""

    def __init__(self, cluster: Cluster, timeout: str = "60s") -> None:
        self.cluster, self._timeout = cluster, timeout
        self.path = cluster.app({"migrate.sh": MIGRATE, "web.sh": WEB, "code": "0", "order": ""})
        self.version("1")

    def version(self, version: str) -> None:
        text = MANIFEST.format(version=version, timeout=self._timeout)
        (self.path / "formation.toml").write_text(text)

    def code(self, code: int) -> None:
        (self.path / "code").write_text(str(code))

    def hold(self) -> None:
        (self.path / "hold").touch()

    def go(self) -> None:
        (self.path / "hold").unlink()

    def apply(self, version: str, *words: str, fails: bool = False) -> str:
        self.version(version)
        done = self.cluster.formctl("apply", *words, cwd=self.path, check=not fails)
        assert (done.returncode == 1) == fails
        return done.stdout + done.stderr

    @property
    def order(self) -> list[str]:
        return (self.path / "order").read_text().split("\n")[:-1]

    def until(self, line: str) -> None:
        self.cluster.wait(lambda: line in self.order, what=line)

    def says(self, *words: str) -> str:
        return self.cluster.formctl(*words, "--app", "shop").stdout


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        yield made


def pids(cluster: Cluster) -> set[int]:
    return {row["pid"] for row in cluster.healthy().values()}


def process_of(shop: Shop, name: str) -> psutil.Process:
    def found() -> set[int]:
        """It may have begun to write before its agent could tell of it."""
        rows = shop.cluster.ps()
        return {r["pid"] for r in rows if f"{r['type']}.{r['ordinal']}" == name and r["pid"]}

    (pid,) = shop.cluster.wait(found, what=f"the process of {name}")
    return psutil.Process(pid)


def test_it_runs_once_for_each_release_and_before_anything_of_it(cluster: Cluster) -> None:
    cluster.start_and_wait(2)
    shop = Shop(cluster)
    said = shop.apply("1")
    assert "first, as release.1: sh migrate.sh" in said
    assert "release.1 | migrating to 1" in said
    assert "release.1 | last words" in said
    assert "web=2: 2 healthy" in said
    assert "last words" in shop.says("logs", "release.1", "--tail", "all")
    assert [r["id"] for r in cluster.json("runs", "--app", "shop")] == ["release.1"]
    assert shop.order[:2] == ["v1 begins", "v1 ends 0"]
    assert sorted(shop.order[2:]) == ["v1 web.1", "v1 web.2"]

    shop.apply("2")
    assert shop.order[4:6] == ["v2 begins", "v2 ends 0"]
    assert shop.apply("2").startswith("shop v2 unchanged")
    cluster.formctl("config", "set", "LEVEL=1", "--app", "shop")
    assert "v3 ends 0" in shop.order
    assert cluster.json("scale", "--app", "shop")["formation"] == {"web": 2}
    assert shop.order.count("v2 begins") == 1
    before = len([line for line in shop.order if "begins" in line])
    assert "shop v3 -> v1" in shop.says("rollback", "v1")
    assert len([line for line in shop.order if "begins" in line]) == before == 3
    (newest, *_) = cluster.json("releases", "--app", "shop")
    assert newest["release_command"]["command"] == "sh migrate.sh"
    assert newest["release_command_end"]["passed"]
    assert newest["release_command_end"]["how"].startswith("ended with exit 0 on h")


def test_when_it_fails_what_runs_is_not_touched(cluster: Cluster) -> None:
    cluster.start_and_wait(2)
    shop = Shop(cluster)
    shop.apply("1")
    before = pids(cluster)
    shop.code(3)
    said = shop.apply("2", "--canary", "1", fails=True)
    assert "release.2 | last words" in said
    assert "v2 was taken back: release.2 failed on h" in said
    assert "exit 3" in said
    assert pids(cluster) == before
    assert not [line for line in shop.order if line.startswith("v2 web")]
    assert "v1 runs everywhere" in shop.says("rollout")
    assert "v2 (taken back)" in shop.says("releases")
    undone = next(r for r in cluster.json("history", "shop") if r["action"] == "undo")
    assert (undone["from"], undone["to"]) == ("v2", "v1")
    refused = cluster.formctl("rollback", "v2", "--app", "shop", check=False).stderr
    assert "the release command of v2 has not passed: it failed on h" in refused
    # Only the same once more, which is a release of its own.
    shop.code(0)
    assert "run v3; go on with formctl rollout promote" in shop.apply("2", "--canary", "1")
    assert len([line for line in shop.order if line.startswith("v3 web")]) == 1


def test_a_first_release_that_fails_can_be_helped_with_a_variable(cluster: Cluster) -> None:
    cluster.start_and_wait(1)
    shop = Shop(cluster)
    shop.code(1)
    assert "v1 was taken back: release.1 failed on h1: exit 1" in shop.apply("1", fails=True)
    cluster.wait(lambda: cluster.json("ps") == [])
    assert "it has no release yet" in shop.says("rollout")
    no = cluster.formctl("scale", "web=3", "--app", "shop", check=False)
    assert "has no release yet; release.1 failed on h1: exit 1" in no.stderr
    shop.code(0)
    cluster.formctl("config", "set", "DATABASE=there", "--app", "shop")
    assert cluster.healthy().keys() == {"web.1", "web.2"}
    assert shop.order[-4:-2] == ["v2 begins", "v2 ends 0"]


def test_one_that_takes_too_long_is_stopped(cluster: Cluster) -> None:
    cluster.start_and_wait(1)
    shop = Shop(cluster, timeout="2s")
    shop.apply("1")
    before = pids(cluster)
    shop.hold()
    said = shop.apply("2", fails=True)
    assert "v2 was taken back: release.2 was stopped: not over within 2 s" in said
    cluster.wait(lambda: all(row["type"] != "release" for row in cluster.ps()))
    assert "v2 ends 0" not in shop.order
    assert pids(cluster) == before


def test_a_newer_release_takes_its_place_and_two_never_run_at_once(cluster: Cluster) -> None:
    cluster.start_and_wait(2)
    shop = Shop(cluster)
    shop.apply("1")
    shop.hold()
    shop.apply("2", "--no-wait")
    shop.until("v2 begins")
    first = process_of(shop, "release.2")
    assert "v2 waits for its release command" in shop.says("rollout")
    assert "run by" in shop.says("explain", "release.2")
    planned = cluster.formctl("plan", "apply", cwd=shop.path, check=False).stdout
    assert "nothing would change" in planned, "the candidate says so already"
    assert "v1 (v2 waits)" in cluster.formctl("apps").stdout
    shop.apply("3", "--no-wait")
    shop.until("v3 begins")
    assert not first.is_running()
    shop.go()
    shop.says("rollout", "--wait")
    ends = [line for line in shop.order if "ends" in line]
    assert ends == ["v1 ends 0", "v3 ends 0"]
    assert not [line for line in shop.order if line.startswith("v2 web")]
    (of_second,) = [r for r in cluster.json("releases", "--app", "shop") if r["release"] == 2]
    how = of_second["release_command_end"]["how"]
    assert how == "was stopped: v3 has taken its place"


def test_it_can_be_aborted(cluster: Cluster) -> None:
    cluster.start_and_wait(1)
    shop = Shop(cluster)
    shop.apply("1")
    shop.hold()
    shop.apply("2", "--no-wait")
    shop.until("v2 begins")
    shop.says("rollout", "abort")
    cluster.wait(lambda: all(row["type"] != "release" for row in cluster.ps()))
    assert "v1 runs everywhere" in shop.says("rollout")
    assert "v2 was taken back: aborted by" in shop.says("rollout")


def test_a_host_that_is_killed_meanwhile_takes_the_candidate_with_it(cluster: Cluster) -> None:
    cluster.start_and_wait(1)
    shop = Shop(cluster)
    shop.apply("1")
    shop.hold()
    shop.apply("2", "--no-wait")
    shop.until("v2 begins")
    cluster.kill("h1")
    shop.go()
    cluster.wait(lambda: cluster.json("hosts")[0]["state"] != "ready", what="h1 is silent")
    assert "v2 waits for its release command" in shop.says("rollout")
    cluster.start_agent("h1")
    waited = cluster.wait(
        lambda: [r for r in cluster.json("releases", "--app", "shop") if r["undone"]]
    )
    assert waited[0]["release_command_end"]["how"].startswith("failed on h1: ")
    cluster.wait(lambda: len(cluster.healthy()) == 2)
    assert [line for line in shop.order if line.startswith("v2")] == ["v2 begins"]


@pytest.fixture
def shared() -> Iterator[Cluster]:
    with EtcdServer(require_etcd("debian")) as etcd, Cluster(etcd=etcd.endpoint) as made:
        yield made


def test_another_leader_goes_on_with_it(shared: Cluster) -> None:
    shared.start_coordinator("c1")
    shared.start_coordinator("c2")
    for name in ("h1", "h2"):
        shared.start_agent(name)
    shared.wait_hosts(2)
    shop = Shop(shared)
    shop.apply("1")
    shop.hold()
    shop.apply("2", "--no-wait")
    shop.until("v2 begins")
    leader = shared.json("version")["coordinator"]["leader"]
    shared.kill(leader, signal.SIGKILL)
    shop.go()
    assert "v2 runs everywhere" in shop.says("rollout", "--wait") + shop.says("rollout")
    assert [line for line in shop.order if line.startswith("v2 ")][:2] == ["v2 begins", "v2 ends 0"]
    assert shop.order.count("v2 begins") == 1


def test_formctl_dev_leaves_it_to_people(cluster: Cluster) -> None:
    path: Path = cluster.app({"Procfile": "release: touch ran\nweb: echo it runs\n"}, "d")
    done = cluster.formctl("dev", "--exit-on", "any", cwd=path)
    assert "release is not run here: formctl run -- touch ran" in done.stderr
    assert "it runs" in done.stdout
    assert not (path / "ran").exists()
