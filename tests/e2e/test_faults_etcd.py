"""etcd loses members, its quorum, its memory or everything: what runs runs on, and what comes back
changes nothing without need or an operator's word."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from lab import Lab
from labtest import cluster, count, keeps, pids, scale, undone


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    with cluster(coordinators=2, agents=2) as lab:
        yield lab


@pytest.fixture
def lab(running: Lab) -> Iterator[Lab]:
    with undone(running):
        yield running


def crash_one(lab: Lab) -> dict[str, list[int]]:
    """Kills an instance's process; gives those that were left alone."""
    rest = pids(lab)
    host = next(iter(rest))
    os.kill(rest[host].pop(), signal.SIGKILL)
    return rest


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_member_of_etcd_dies_and_changes_go_on(lab: Lab, role: str) -> None:
    before, leading = pids(lab), lab.wait(lab.etcd_leader, what="etcd's leader")
    member = leading if role == "leader" else next(m for m in lab.etcds if m != leading)
    lab.kill(member)
    for quantity in (3, 4):
        scale(lab, f"web={quantity}")
    assert count(lab) == 4
    keeps(lab, before, for_s=0.5)


def test_without_a_quorum_everything_runs_on_and_changes_are_refused_in_words(lab: Lab) -> None:
    for member in lab.etcds[:2]:
        lab.network.hosts[member].freeze()
    time.sleep(4.0)  # longer than the leases of sessions and of the leader
    rest = crash_one(lab)
    lab.wait(lambda: count(lab) == 2, what="the crashed one to run again")
    done = scale(lab, "web=3", check=False)
    assert done.returncode == 3
    assert "is not ready for changes: it cannot reach etcd" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    shown = lab.formctl("ps", "--app", "shop").stdout
    assert "cannot reach etcd" in shown
    assert "and shows what it knew last" in shown
    keeps(lab, rest, for_s=6.0)
    for member in lab.etcds[:2]:
        lab.network.hosts[member].thaw()
    lab.wait(lambda: len(lab.healthy()) == 2, what="calm")
    keeps(lab, rest, for_s=7.0)
    assert count(lab) == 2


def all_new(before: list[int], now: list[int]) -> bool:
    """As many processes, and none of those of before."""
    return len(now) == len(before) and not set(now) & set(before)


def test_with_all_coordinators_and_etcd_gone_everything_runs_on(lab: Lab) -> None:
    for name in (*lab.coordinator_names, *lab.etcds):
        lab.power_off(name)
    keeps(lab, pids(lab), for_s=8.0)
    rest = crash_one(lab)
    lab.wait(lambda: count(lab) == 2, what="the crashed one to run again")
    # An agent that starts anew knows what to run, too; its keeper took its processes with it.
    name, before = min(pids(lab).items())
    lab.kill(name)
    lab.again(name)
    lab.wait(
        lambda: all_new(before, pids(lab).get(name, [])),
        what=f"{name}'s instances, with nobody there to ask",
    )
    after = pids(lab)
    for name in (*lab.etcds, *lab.coordinator_names):
        lab.again(name)
    lab.wait_hosts(2)
    keeps(lab, after, for_s=8.0)
    assert count(lab) == 2
    assert set(rest) <= set(after)


def test_an_etcd_put_back_in_time_stops_nothing_until_the_word(lab: Lab) -> None:
    lab.save_etcd()
    scale(lab, "web=5")
    before = pids(lab)
    lab.restore_etcd()
    lab.wait(
        lambda: "newer orders than etcd knows of" in lab.formctl("ps", "--app", "shop").stdout,
        what="it to be said",
    )
    scale(lab, "web=1", "--no-wait")
    scale(lab, "web=3", "--no-wait")
    keeps(lab, before, for_s=6.0)
    plan = lab.formctl("reconcile", check=False)
    assert plan.returncode == 1
    assert "2 stop" in plan.stdout
    revision = plan.stdout.split("--if-revision ")[1].split()[0]
    lab.formctl("reconcile", "--confirm", "--if-revision", revision)
    lab.wait(lambda: count(lab) == 3, what="what is wanted")
    kept = {host: set(found) <= set(before[host]) for host, found in pids(lab).items()}
    assert all(kept.values()), "those that stay are the same processes"


def test_a_wiped_etcd_stops_nothing_and_a_backup_brings_it_back(lab: Lab) -> None:
    file = str(lab.directory / "cluster.backup")
    lab.formctl("backup", file, "--force")
    assert os.stat(file).st_mode & 0o777 == 0o600
    before = pids(lab)
    lab.wipe_etcd()
    keeps(lab, before, for_s=6.0)
    done = lab.wait(lambda: lab.formctl("restore", file), what="the restore")
    assert "shop v1 web=2" in done.stdout
    keeps(lab, before, for_s=4.0)
    lab.formctl("reconcile", "--confirm", "--why", "etcd's disks were lost")
    lab.wait(lambda: len(lab.healthy()) == 2, what="calm")
    keeps(lab, before, for_s=3.0)
    assert count(lab) == 2
    scale(lab, "web=3")


def test_a_damaged_backup_changes_nothing(lab: Lab) -> None:
    file = lab.directory / "bad.backup"
    lab.formctl("backup", str(file), "--force")
    file.write_bytes(file.read_bytes()[:-40])
    done = lab.formctl("restore", str(file), "--replace", check=False)
    assert done.returncode == 2
    assert done.stderr == ("formctl: the file is damaged or not whole: its checksum is another\n")
    assert "nothing is started" not in lab.formctl("ps", "--app", "shop").stdout
