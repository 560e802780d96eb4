"""Autoscaling and webhooks with the real programs: load that is real, leaders that die, and URLs
that misbehave."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certified import Authority
from cluster import Cluster
from etcd_server import EtcdServer
from http_desk import HttpDesk, http_desk
from receiver import Received
from store_backends import require_etcd

# Burns a tenth of a core or so while a file is there: the tests' machine has other work.
BURN = """\
import os, time
while True:
    ends_s = time.thread_time() + (0.01 if os.path.exists("burn") else 0)
    while time.thread_time() < ends_s:
        pass
    time.sleep(0.05)
"""
SHOP = """
app = "shop"
[types.web]
command = "python3 burn.py"
quantity = 1
rollout.healthy = "0s"
[types.worker]
command = "sleep 1000"
quantity = 1
rollout.healthy = "0s"
[types.one]
command = "sleep 1000"
exclusive = true
rollout.healthy = "0s"
"""


pytestmark = pytest.mark.timeout(300)


class Certified(Cluster):
    def __init__(self, etcd: EtcdServer) -> None:
        super().__init__(etcd=etcd.endpoint)
        self.authority = Authority()

    def serve(self, name: str) -> None:
        directory = self.directory / f"identity-{name}"
        if not directory.exists():
            self.authority.coordinator(directory, name)
        self.start_coordinator(name, "--identity-dir", str(directory))

    def rule(self, type_name: str = "web") -> dict[str, Any]:
        found = self.json("autoscale")
        return next(row for row in found if row["type"] == type_name)

    def hook(self) -> dict[str, Any]:
        (found,) = self.json("webhook")
        return dict(found)

    def leader(self) -> str:
        said = self.formctl("version").stdout
        found = re.search(r"(c\d) leads|leader:? (c\d)", said)
        assert found, said
        return found[1] or found[2]


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer(require_etcd("debian")) as server:
        yield server


@pytest.fixture
def shop(etcd: EtcdServer) -> Iterator[Certified]:
    with Certified(etcd) as made:
        made.serve("c1")
        for name in "ab":
            made.start_agent(name)
        made.wait_hosts(2)
        made.app({"formation.toml": SHOP, "burn.py": BURN})
        made.formctl("apply", "shop")
        yield made


@pytest.fixture
def desk() -> Iterator[HttpDesk]:
    with http_desk() as made:
        yield made


def burn(shop: Certified, *, on: bool) -> None:
    path: Path = shop.directory / "shop" / "burn"
    path.touch() if on else path.unlink()


def of_type(shop: Certified, type_name: str) -> list[str]:
    return [slot for slot in shop.healthy() if slot.startswith(f"{type_name}.")]


def test_a_type_that_burns_is_scaled_up_and_when_it_rests_down_again(shop: Certified) -> None:
    burn(shop, on=True)
    done = shop.formctl(
        *("autoscale", "web", "--min", "1", "--max", "3", "--cpu", "3%"),
        *("--every", "5s", "--down-window", "10s"),
    )
    assert done.stdout == "web is autoscaled: 1..3, cpu 3 %, looked at every 5 s\n"
    shop.wait(lambda: len(of_type(shop, "web")) == 3, deadline_s=60)

    refused = shop.formctl("scale", "web=2", check=False)
    assert refused.returncode == 2
    assert "web is autoscaled (1..3), so web=2 would not stay" in refused.stderr
    assert shop.formctl("plan", "scale", "web=2", check=False).returncode == 2
    assert "web=3" in shop.formctl("scale").stdout
    assert "web is autoscaled, 1..3" in shop.formctl("scale").stderr
    shop.formctl("scale", "worker=2")
    assert shop.formctl("scale", "--undo").returncode == 0

    burn(shop, on=False)
    shop.wait(lambda: len(of_type(shop, "web")) == 1, deadline_s=90)
    last = shop.rule()["last_change"]
    assert last["after"] == 1
    assert last["why"].startswith(f"{last['before']} -> 1: cpu ")
    rows = [row for row in shop.json("history") if row["action"] == "autoscale"]
    assert {row["who"] for row in rows} == {"autoscale"}
    assert all(row["why"] for row in rows)
    events = shop.json_lines("events", "--what", "app.autoscaled")
    assert events[-1]["text"] == f"web: {last['why']}"
    scaled = shop.json_lines("events", "--what", "app.scaled")
    assert not [row for row in scaled if row["text"].startswith("web")]

    off = shop.formctl("autoscale", "web", "--off")
    assert off.stdout == "web is no longer autoscaled; it stays at 1\n"
    assert "web=2: 2 healthy" in shop.formctl("scale", "web=2").stdout


def test_a_metric_is_followed_and_rubbish_changes_nothing(shop: Certified, desk: HttpDesk) -> None:
    desk.text = "25"
    shop.formctl(
        *("autoscale", "worker", "--min", "0", "--max", "4", "--metric", desk.url),
        *("--target", "10", "--every", "5s", "--down-window", "0s"),
    )
    shop.wait(lambda: shop.rule("worker")["quantity"] == 3)
    for status, text, why in (
        (500, "0", "status 500"),
        (200, "NaN", "NaN"),
        (200, "-5", "less than nothing"),
        (200, "1e400", "more than anything can be"),
        (200, "<html>no</html>", "neither a number nor"),
        (200, "7" * 100_000, "more than 65536 bytes"),
    ):
        desk.status, desk.text = status, text
        shop.wait(lambda why=why: why in shop.rule("worker")["sentence"], what=why)  # type: ignore[misc]
        assert shop.rule("worker")["quantity"] == 3
    desk.hangs.set()
    shop.wait(lambda: "no answer within 5 s" in shop.rule("worker")["sentence"], what="hangs")
    assert shop.rule("worker")["quantity"] == 3
    assert shop.formctl("autoscale").stdout.splitlines()[1].startswith("shop  worker  3    0..4")
    desk.hangs.clear()
    desk.status, desk.text = 200, '{"data":{"resultType":"scalar","result":[1,"0"]}}'
    shop.wait(lambda: shop.rule("worker")["quantity"] == 0)
    shop.wait(lambda: not of_type(shop, "worker"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("web",), 2, "what shall web follow?"),
        (("web", "--cpu", "60%"), 2, "how many at most? --max N"),
        (("web", "--max", "3"), 2, "say what it follows"),
        (("web", "--max", "3", "--memory", "70%"), 2, "neither resources.memory nor limits"),
        (("web", "--max", "3", "--cpu", "0%"), 2, "x>0"),
        (("web", "--max", "3", "--cpu", "x"), 2, "'x' is not a valid"),
        (("web", "--max", "3", "--metric", "http://x/"), 2, "needs its --target"),
        (("web", "--off", "--max", "3"), 2, "--off takes nothing else"),
        (("web", "--off"), 2, "web of shop is not autoscaled"),
        (("nope", "--max", "3", "--cpu", "60"), 2, "no type nope in the current release"),
        (("one", "--max", "3", "--cpu", "60"), 2, "one is exclusive"),
        (("--max", "3"), 2, "which type?"),
        (("web", "--max", "3", "--cpu", "60", "-o", "json"), 2, "-o json is for reading"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    one_shop: Certified, words: tuple[str, ...], code: int, said: str
) -> None:
    done = one_shop.formctl("autoscale", *words, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def one_shop() -> Iterator[Certified]:
    """Shared by those that change nothing."""
    with EtcdServer(require_etcd("debian")) as server, Certified(server) as made:
        made.serve("c1")
        made.app({"formation.toml": SHOP, "burn.py": BURN})
        made.wait(lambda: made.formctl("apply", "shop", "--no-wait"))
        yield made


def test_events_reach_a_webhook_also_when_the_leader_is_killed(
    shop: Certified, desk: HttpDesk
) -> None:
    shop.serve("c2")
    shop.wait(lambda: "c2" in shop.formctl("version").stdout or "c2" in shop.log("c2"))
    shop.formctl("autoscale", "web", "--min", "1", "--max", "3", "--cpu", "60%", "--every", "5s")
    added = shop.formctl("webhook", "add", desk.url, "--what", "app,host", "--name", "ops")
    secret = added.stdout.strip()
    assert secret.startswith("whsec_")
    assert "is not shown again" in added.stderr
    assert "webhook ops: 200" in shop.formctl("webhook", "test", "ops").stdout
    shop.formctl("scale", "worker=2")
    shop.wait(lambda: "app.scaled" in desk.types())
    shop.wait(lambda: shop.hook()["delivered"] == 1)

    shop.kill("c1")
    shop.wait(lambda: "webhook.resumed" in desk.types(), deadline_s=60)
    shop.formctl("scale", "worker=3")
    shop.wait(lambda: desk.body(-1)["data"]["text"] == "worker: 2 -> 3")
    shop.wait(lambda: shop.hook()["waiting"] == 0)
    assert all(Received(*item).is_signed_with(secret) for item in desk.posted)
    # Autoscaling goes on, too, with what it measures itself.
    shop.wait(lambda: shop.rule()["measured"] and shop.rule()["measured"][0]["value"] is not None)

    everything = "".join(
        done.stdout + done.stderr
        for words in (("webhook",), ("history",), ("events",))
        for more in ((), ("-o", "json"))
        for done in [shop.formctl(*words, *more)]
    )
    logs = "".join(shop.log(name) for name in ("c1", "c2", "a", "b"))
    assert secret.removeprefix("whsec_") not in everything + logs
    assert "ops" in shop.formctl("webhook").stdout
    assert shop.formctl("webhook", "remove", "ops").stdout == "webhook ops removed\n"
    assert shop.formctl("webhook", "test", "ops", check=False).returncode == 2
