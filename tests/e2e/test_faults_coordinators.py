"""Coordinators are killed, frozen, cut off and restarted: nothing that runs is touched, nothing
that was acknowledged is lost."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from cluster import BIN
from lab import Lab
from labtest import PROCFILE, cluster, count, keeps, pids, scale, undone

TICKER = "ticker: sh -c 'while true; do echo from $FORMATION_HOST; sleep 0.1; done'\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    with cluster(PROCFILE + TICKER, "web=2,ticker=2", coordinators=3, agents=2) as lab:
        yield lab


@pytest.fixture
def lab(running: Lab) -> Iterator[Lab]:
    with undone(running, "web=2,ticker=2"):
        yield running


def others(lab: Lab, name: str) -> list[str]:
    return [other for other in lab.coordinator_names if other != name]


def through(lab: Lab, *names: str) -> list[str]:
    return ["--coordinator", ",".join(lab.address(name) for name in names)]


def led_since_s(lab: Lab, name: str) -> float:
    """When it last began to lead; they log in UTC."""
    said = [line for line in lab.log(name).splitlines() if "leads, epoch" in line][-1]
    return datetime.fromisoformat(said.split()[0]).timestamp()


def test_each_coordinator_takes_changes_and_all_tell_the_same(lab: Lab) -> None:
    for number, name in enumerate(lab.coordinator_names, start=3):
        scale(lab, f"web={number}", *through(lab, name))
        for other in lab.coordinator_names:
            shown = lab.formctl("scale", "--app", "shop", *through(lab, other)).stdout
            assert f"web={number}" in shown
    assert count(lab) == 5


def test_a_killed_leader_is_followed_by_another(lab: Lab) -> None:
    before, leader = pids(lab), lab.leader()
    lab.kill(leader)
    scale(lab, "web=3")
    assert count(lab) == 3
    assert lab.leader() in others(lab, leader)
    keeps(lab, before, for_s=1.0)


def test_a_leader_that_stops_hands_over_at_once(lab: Lab) -> None:
    before, leader = pids(lab), lab.leader()
    epoch = lab.log(leader).count("leads, epoch")
    stopped_s = time.time()
    lab.kill(leader, signal.SIGTERM)
    lab.wait(lambda: lab.leader() in others(lab, leader), what="another leader")
    # By its own log: to ask who leads takes longer than it does to lead.
    assert led_since_s(lab, lab.leader()) - stopped_s < 2.5, "its lease did not have to run out"
    assert lab.log(leader).count("leads, epoch") == epoch
    keeps(lab, before, for_s=0.5)


def test_a_frozen_leader_has_no_effect_when_it_goes_on(lab: Lab) -> None:
    before, old = pids(lab), lab.leader()
    lab.signal(old, signal.SIGSTOP)
    scale(lab, "web=4", *through(lab, *others(lab, old)))
    new = lab.wait(lab.leader, what="a leader")
    assert new != old
    lab.signal(old, signal.SIGCONT)
    lab.wait(lambda: "leads no more" in lab.log(old), what="it to know")
    keeps(lab, before, for_s=3.0)
    assert count(lab) == 4
    assert lab.leader() == new


def test_a_leader_cut_off_from_etcd_alone_leads_no_more_and_sends_its_agents_on(lab: Lab) -> None:
    """Agents and formctl reach it, so it is they who have to be told."""
    before, old = pids(lab), lab.leader()
    for member in lab.etcds:
        lab.network.cut(old, member)
    lab.wait(lambda: lab.leader() in others(lab, old), what="another leader")
    told = lab.formctl("ps", "--app", "shop", *through(lab, old)).stdout
    assert f"coordinator {old} cannot reach etcd" in told
    assert "and shows what it knew last" in told
    hosts = ("hosts", "-o", "json", *through(lab, *others(lab, old)))
    lab.wait(lambda: f'"{old}"' not in lab.formctl(*hosts).stdout, what="its agents to move on")
    # It is asked first, and cannot; formctl goes on with the next one.
    scale(lab, "web=3", *through(lab, old, *others(lab, old)))
    assert count(lab) == 3
    keeps(lab, before, for_s=1.0)


def test_an_agent_that_is_not_heard_by_its_coordinator_finds_another(lab: Lab) -> None:
    """One way: the coordinator's packets arrive, and nothing comes back."""
    before = pids(lab)
    held = {row["host"]: row["coordinator"] for row in lab.json("hosts")}
    lab.network.cut("a1", held["a1"], one_way=True)
    lab.wait(
        lambda: (
            {row["host"]: row["coordinator"] for row in lab.json("hosts")}["a1"]
            not in (None, "", held["a1"])
        ),
        what="another coordinator to hold a1",
    )
    keeps(lab, before, for_s=6.0)
    assert count(lab) == 2, "it was back before anything was replaced"


def test_a_rolling_restart_of_all_coordinators_loses_nothing(lab: Lab) -> None:
    before = pids(lab)
    stop = threading.Event()
    acknowledged: list[tuple[int, str]] = []
    refused: list[tuple[int, str]] = []

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            done = lab.formctl("hosts", "label", "a1", f"turn={number}", check=False)
            (refused if done.returncode else acknowledged).append((number, done.stderr))

    worker = threading.Thread(target=change)
    worker.start()
    try:
        for name in lab.coordinator_names:
            lab.kill(name, signal.SIGTERM)
            lab.again(name)
            probe = ("version", *through(lab, name))
            lab.wait(lambda p=probe: lab.formctl(*p, check=False).returncode == 0, what=name)  # type: ignore[misc]
            # Changes arrive with each of them gone and back.
            so_far = len(acknowledged)
            lab.wait(lambda n=so_far: len(acknowledged) + len(refused) > n + 1, what="changes")  # type: ignore[misc]
    finally:
        stop.set()
        worker.join()
    assert not refused, refused
    history = lab.json("history", "a1", "--limit", "1000")
    made = [row["to"] for row in history if row["action"] == "label"]
    for number, _ in acknowledged:
        assert any(f"turn={number}" in words.split() for words in made), number
    keeps(lab, before, for_s=1.0)


def test_logs_come_from_all_hosts_and_go_on_when_a_coordinator_restarts(lab: Lab) -> None:
    held = {row["host"]: row["coordinator"] for row in lab.json("hosts")}
    asked = others(lab, held["a1"])[0]
    words = ["logs", "-f", "ticker", "--app", "shop", "--tail", "0", *through(lab, asked)]
    out = lab.directory / "logs.out"
    with out.open("wb") as file:
        reader = subprocess.Popen(
            [str(BIN / "formctl"), *words], stdout=file, stderr=file, env=lab.environment()
        )
    try:
        lab.wait(lambda: _heard(out, "a1") > 5 and _heard(out, "a2") > 5, what="both hosts")
        lab.kill(held["a1"])
        lab.wait(lambda: "logs of its hosts are missing" in out.read_text(), what="a notice")
        seen = _heard(out, "a1")
        lab.wait(lambda: _heard(out, "a1") > seen + 20, what="a1's lines through another one")
    finally:
        reader.terminate()
        reader.wait()


def _heard(out: Path, host: str) -> int:
    return sum(line.endswith(f"from {host}") for line in out.read_text().splitlines())
