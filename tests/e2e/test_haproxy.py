"""Debian's HAProxy before an app, under constant load, told by `formctl endpoints`: what fails when
the app is scaled, released and moved away from a host, and when a host is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from balancer import HAPROXY, SERVER, Balancer, Load
from cluster import Cluster

MANIFEST = """\
app = "shop"
[types.web]
command = "exec python3 -I server.py"
quantity = 3
ready.http = "/"
rollout.surge = "100%"
rollout.healthy = "500ms"
stop.drain = "3s"
stop.grace = "5s"
"""
PHASE_DEADLINE_S = 60.0
# A request that its server was answering when it was killed cannot be answered any more, and one
# that a client sends meanwhile is tried elsewhere.
LOST_MAX = 40


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if not HAPROXY:
        pytest.skip("no HAProxy: apt install haproxy")
    with Cluster() as made:
        made.start_coordinator("c1", "--replace-after", "2")
        for name in "abc":
            made.start_agent(name)
        made.wait_hosts(3)
        made.app({"formation.toml": MANIFEST, "server.py": SERVER, ".env": "VERSION=one\n"})
        made.formctl("apply", "shop")
        yield made


class Story:
    def __init__(self, cluster: Cluster, balancer: Balancer, load: Load) -> None:
        self.cluster, self.balancer, self.load = cluster, balancer, load

    def endpoints(self) -> set[tuple[str, str]]:
        found = self.cluster.json("endpoints", "web")
        return {(item["instance"], f"{item['address']}:{item['port']}") for item in found}

    def phase(self, name: str, *words: str, count: int, not_on: str = "") -> None:
        """Does it, and waits until HAProxy sends requests to exactly those that are to stay, and
        nothing else of the app runs where anybody can see it."""
        self.load.phase = name
        if words:
            self.cluster.formctl(*words)
        try:
            self.cluster.wait(
                lambda: self._settled(count, not_on), deadline_s=PHASE_DEADLINE_S, what=name
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.balancer.seen()}\n{self.cluster.ps()}") from error
        before = self.load.answers(name)
        self.cluster.wait(lambda: self.load.answers(name) > before + 100, what="more answers")

    def _settled(self, count: int, not_on: str) -> bool:
        servers = self.balancer.servers()
        if servers is None or len(servers) != count:
            return False  # before formctl is started for a look
        rows = [row for row in self.cluster.ps() if row["host"] != not_on]
        healthy = all(row["state"] == "healthy" and not row["surplus"] for row in rows)
        return len(rows) == count and healthy and servers == self.endpoints()


@pytest.mark.timeout(300)
def test_no_request_fails_but_when_a_host_is_lost(cluster: Cluster) -> None:
    with Balancer(cluster) as balancer, Load(balancer.port) as load:
        story = Story(cluster, balancer, load)
        story.phase("begin", count=3)
        story.phase("up", "scale", "web=6", count=6)
        story.phase("down", "scale", "web=3", count=3)
        (cluster.directory / "shop" / ".env").write_text("VERSION=two\n")
        story.phase("release", "apply", "shop", count=3)
        story.phase("restart", "restart", "web.1", count=3)
        story.phase("drain", "drain", "a", count=3, not_on="a")
        failed = {name: load.failures(name) for name in load.heard}
        assert not any(failed.values()), failed
        assert set(load.heard["release"]) == {"one", "two"}
        assert set(load.heard["drain"]) == {"two"}
        cluster.formctl("uncordon", "a")
        # The keeper is killed, and the kernel takes its children along.
        load.phase = "loss"
        cluster.kill("b")
        story.phase("loss", count=3, not_on="b")
        lost, answered = load.failures("loss"), load.answers("loss")
        print(f"a host was lost: {len(lost)} of {len(lost) + answered} requests failed: {lost[:5]}")
        assert len(lost) <= LOST_MAX, lost
        story.phase("after", count=3, not_on="b")
        assert load.failures("after") == []
