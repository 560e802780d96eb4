"""What operators say to a cluster of the real programs, and what comes of it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import BIN, Cluster
from leftovers import alive

MANIFEST = """\
app = "shop"
[types.web]
command = "python3 -u -m http.server $PORT"
quantity = 3
ready.http = "/"
rollout.healthy = "500ms"
[types.worker]
command = "sleep 1000"
quantity = 2
rollout.healthy = "0s"
[types.one]
command = "sleep 1000"
exclusive = true
quantity = 1
rollout.healthy = "0s"
[types.hostd]
command = "sleep 1000"
per_host = true
rollout.healthy = "0s"
"""


@contextmanager
def running(text: str = MANIFEST) -> Iterator[Cluster]:
    """Three hosts in two zones."""
    with Cluster() as made:
        made.start_coordinator()
        for index, name in enumerate("abc"):
            made.start_agent(name, "--label", f"zone=z{index % 2}")
        made.wait_hosts(3)
        made.app({"formation.toml": text})
        made.formctl("apply", "shop")
        yield made


@pytest.fixture(scope="module")
def shop() -> Iterator[Cluster]:
    """Shared by tests that put things back as they were."""
    with running() as made:
        yield made


def hosts_of(cluster: Cluster, type_name: str) -> dict[str, str]:
    return {
        slot: row["host"]
        for slot, row in cluster.healthy().items()
        if slot.startswith(f"{type_name}.")
    }


def test_config_is_a_release_that_apply_hands_on_and_rollback_takes_back(shop: Cluster) -> None:
    done = shop.formctl("config", "set", "LEVEL=hidden-debug")
    assert "shop v2: set LEVEL" in done.stdout
    listed = shop.formctl("config")
    assert "LEVEL" in listed.stdout
    shown = [listed.stdout, str(shop.json("config")), str(shop.json("releases"))]
    assert not [text for text in shown if "hidden-debug" in text]
    assert "hidden-debug" in shop.formctl("config", "--values").stdout
    assert shop.formctl("run", "--", "sh", "-c", "echo level=$LEVEL").stdout == (
        "level=hidden-debug\n"
    )
    assert "env added: LEVEL" in shop.formctl("diff", "v1", "v2").stdout
    changed = MANIFEST.replace("sleep 1000", "sleep 1001", 1)
    (shop.directory / "shop" / "formation.toml").write_text(changed)
    shop.formctl("apply", "shop")
    assert shop.json("config")["variables"] == [{"name": "LEVEL", "from": "config"}]
    back = shop.formctl("rollback", "v1", "--why", "enough")
    assert "shop v3 -> v1" in back.stdout
    assert shop.json("config")["variables"] == []
    assert shop.json("apps")[0]["release"] == 1
    first = shop.json("history", "shop")[1]
    assert (first["action"], first["from"], first["to"], first["why"]) == (
        "rollback", "v3", "v1", "enough",
    )  # fmt: skip
    (shop.directory / "shop" / "formation.toml").write_text(MANIFEST)


def test_a_scale_can_be_undone_and_releases_do_not_touch_quantities(shop: Cluster) -> None:
    before = shop.formctl("scale").stdout
    shop.formctl("scale", "worker=5", "--why", "a busy day")
    undone = shop.formctl("scale", "--undo")
    assert undone.stdout.splitlines()[-1].startswith("worker=2: 2 healthy")
    assert shop.formctl("scale").stdout == before
    scaled = next(r for r in shop.json("history", "shop") if r["action"] == "scale")
    assert "worker=2" in scaled["from"]
    assert ("worker=5" in scaled["to"], scaled["why"]) == (True, "a busy day")


def test_a_plan_changes_nothing_and_only_what_was_planned_is_applied(shop: Cluster) -> None:
    nothing = shop.formctl("plan", "scale", "worker=2", check=False)
    assert (nothing.returncode, "nothing would change" in nothing.stdout) == (0, True)
    planned = shop.formctl("plan", "scale", "worker=4", "-o", "json", check=False)
    assert planned.returncode == 1
    plan = json.loads(planned.stdout)
    assert [step["kind"] for step in plan["steps"]] == ["start", "start"]
    told = {step["instance"]: step["to_host"] for step in plan["steps"]}
    revision = str(plan["revision"])
    shop.formctl("scale", "worker=4", "--if-revision", revision)
    found = hosts_of(shop, "worker")
    assert {slot: found[slot] for slot in told} == told
    late = shop.formctl("scale", "worker=6", "--if-revision", revision, check=False)
    assert late.returncode == 1
    assert "plan again" in late.stderr
    shop.formctl("scale", "worker=2")


def test_what_does_not_fit_is_said_per_host_with_numbers_and_what_would_help(
    shop: Cluster,
) -> None:
    hungry = MANIFEST + '[types.big]\ncommand = "sleep 1"\nresources.memory = "4000GiB"\n'
    directory = shop.app({"formation.toml": hungry}, name="hungry")
    planned = shop.formctl("plan", "apply", str(directory), "-m", "big=1", check=False)
    assert planned.returncode == 2
    assert re.search(r"a: memory: needs 4000 GiB, [\d.]+ GiB of [\d.]+ GiB free", planned.stdout)
    assert re.search(r"it would fit on [abc] with [\d.]+ GiB more memory free", planned.stdout)


def test_explain_says_why_it_is_there_and_where_it_would_go_now(shop: Cluster) -> None:
    found = shop.json("explain", "web.1")
    assert found["host"] in "abc"
    assert found["reason"]
    ranks = [item["rank"] for item in found["hosts"]]
    assert ranks == [1, 2, 3]
    assert any("zone" in name for name in found["hosts"][0]["terms"])
    assert "where it would go now" in shop.formctl("explain", "web.1").stdout
    unknown = shop.formctl("explain", "web.99", check=False)
    assert (unknown.returncode, "Traceback" in unknown.stderr) == (2, False)


def test_a_cordoned_host_takes_nothing_and_a_drained_one_is_empty(shop: Cluster) -> None:
    shop.formctl("cordon", "a")
    shop.formctl("scale", "worker=6")
    before = hosts_of(shop, "worker")
    assert list(before.values()).count("a") <= 1
    planned = shop.formctl("plan", "drain", "b", check=False)
    assert planned.returncode == 1
    done = shop.formctl("drain", "b", "--deadline", "10min")
    assert "b is empty" in done.stdout
    row = next(row for row in shop.json("hosts") if row["host"] == "b")
    assert (row["draining"], row["instances"]) == (True, 0)
    assert len(hosts_of(shop, "web")) == 3
    shop.formctl("uncordon", "a", "b")
    shop.formctl("rebalance")
    spread = list(hosts_of(shop, "worker").values())
    assert max(map(spread.count, "abc")) - min(map(spread.count, "abc")) <= 2
    assert sorted(hosts_of(shop, "hostd").values()) == ["a", "b", "c"]
    shop.formctl("scale", "worker=2")


def test_labels_decide_where_a_type_runs(shop: Cluster) -> None:
    shop.formctl("hosts", "label", "c", "ssd=yes", "zone-")
    text = MANIFEST.replace("[types.worker]\n", '[types.worker]\nplacement.require = ["ssd"]\n')
    (shop.directory / "shop" / "formation.toml").write_text(text)
    shop.formctl("apply", "shop")
    shop.wait(lambda: set(hosts_of(shop, "worker").values()) == {"c"}, what="workers on c")
    why = shop.json("explain", "worker.1")["reason"]
    assert why in ("wanted", "a no longer has what the type requires") or "requires" in why
    (shop.directory / "shop" / "formation.toml").write_text(MANIFEST)
    shop.formctl("apply", "shop")
    shop.formctl("hosts", "label", "c", "ssd-")


def test_a_run_prints_what_it_prints_and_ends_as_it_ends(shop: Cluster) -> None:
    done = shop.formctl("run", "--", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.returncode, done.stdout) == (3, "out\n")
    assert "err\n" in done.stderr
    killed = shop.formctl("run", "--", "sh", "-c", "kill -9 $$", check=False)
    assert killed.returncode == 137
    missing = shop.formctl("run", "--", "no-such-program", check=False)
    assert (missing.returncode, "command not found" in missing.stderr) == (127, True)
    first = next(r for r in shop.json("runs") if "exit 3" in (r["command"] or ""))
    assert (first["state"], first["last_exit"]) == ("failed", "exit 3")


def test_ctrl_c_cancels_a_run_and_its_process_ends(shop: Cluster) -> None:
    environment = {**shop.environment(), "FORMATION_COORDINATOR": shop.coordinators["c1"]}
    words = [str(BIN / "formctl"), "run", "--", "sh", "-c", "echo pid $$; exec sleep 1000"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        cwd=shop.directory,
    )  # fmt: skip
    assert process.stdout is not None
    pid = int(process.stdout.readline().split()[1])
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "cancelled" in said
    shop.wait(lambda: not alive(pid), what="its process ends")


def test_a_release_that_does_not_come_up_is_taken_back_with_its_last_words() -> None:
    with running() as cluster:
        pids = {slot: row["pid"] for slot, row in cluster.healthy().items()}
        broken = MANIFEST.replace("http.server", "no_such_module")
        (cluster.directory / "shop" / "formation.toml").write_text(broken)
        done = cluster.formctl("apply", "shop", check=False)
        assert done.returncode == 1
        assert "v2 was taken back: web.4 keeps crashing" in done.stderr
        assert "No module named no_such_module" in done.stderr
        shop_now = cluster.json("rollout")
        assert (shop_now["release"], shop_now["undone"], shop_now["phase"]) == (1, 2, "done")
        cluster.wait(lambda: len(cluster.ps()) == 9 - 1 + 1, what="the one more has gone")
        assert {slot: row["pid"] for slot, row in cluster.healthy().items()} == pids
        canary(cluster)


def canary(cluster: Cluster) -> None:
    """Goes on with the same cluster: held at one, paused, promoted."""
    text = MANIFEST.replace('ready.http = "/"', 'ready.http = "/?v2"')
    (cluster.directory / "shop" / "formation.toml").write_text(text)
    held = cluster.formctl("apply", "shop", "--canary", "1")
    assert "go on with formctl rollout promote" in held.stdout
    current = [row for row in cluster.ps() if row["type"] == "web" and row["release"] == 3]
    assert len(current) == 1
    cluster.formctl("rollout", "pause")
    assert "paused" in cluster.formctl("rollout").stdout
    cluster.formctl("rollout", "resume")
    cluster.formctl("rollout", "promote")
    cluster.wait(lambda: cluster.json("rollout")["phase"] == "done", what="all run v3")
    releases = {row["release"] for row in cluster.ps() if row["type"] == "web"}
    assert releases == {3}
    nothing = cluster.formctl("rollout", "abort", check=False)
    assert (nothing.returncode, "no change is under way" in nothing.stderr) == (1, True)


def test_a_schedule_runs_by_itself_and_its_output_is_kept(tmp_path: Path) -> None:
    text = 'app = "jobs"\n[types.tick]\ncommand = "echo tick"\nschedule.cron = "* * * * *"\n'
    with Cluster() as cluster:
        cluster.start_coordinator()
        cluster.start_agent("a")
        cluster.wait_hosts(1)
        cluster.app({"formation.toml": text}, name="jobs")
        cluster.formctl("apply", "jobs")
        now = cluster.formctl("run", "--type", "tick")
        assert now.stdout == "tick\n"
        runs = cluster.wait(
            # A minute that begins while the one by hand runs is left out.
            lambda: [r for r in cluster.json("runs") if r["tick_at"] and r["state"] == "finished"],
            deadline_s=130,
            what="a run at the minute",
        )
        assert runs[0]["tick_at"].endswith(":00.000Z")
