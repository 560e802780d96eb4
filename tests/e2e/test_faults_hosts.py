"""Hosts are cut off, frozen, switched off and ill-connected: what must go on does, and nothing runs
twice for longer than it has to."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab
from labtest import PROCFILE, WORD, cluster, count, keeps, pids, scale, undone
from slow_proxy import SlowProxy

HOLDER = Path(__file__).parent.parent / "harness" / "workloads" / "holder.py"
MANIFEST = f"""
[types.web]
command = "sleep {WORD}"

[types.one]
command = "{sys.executable} -S {HOLDER} ."
exclusive = true
stop.grace = "2s"
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    with cluster(PROCFILE, "web=4", coordinators=2, agents=4) as lab:
        yield lab


@pytest.fixture
def lab(running: Lab) -> Iterator[Lab]:
    with undone(running, "web=4"):
        yield running


def busy(lab: Lab) -> str:
    """A host that has something to lose."""
    return min(pids(lab))


def healthy_on(lab: Lab) -> set[str]:
    return {row["host"] for row in lab.healthy().values()}


def test_a_host_that_is_cut_off_is_replaced_and_its_own_go_when_it_is_back(lab: Lab) -> None:
    before, cut = pids(lab), busy(lab)
    lab.network.isolate(cut)
    lab.wait(lambda: len(lab.healthy()) == 4 and cut not in healthy_on(lab), what="replacements")
    assert pids(lab)[cut] == before[cut], "there they run on"
    rest = {host: found for host, found in before.items() if host != cut}
    lab.network.heal()
    lab.wait(lambda: count(lab) == 4, what="one copy of each")
    keeps(lab, rest, for_s=1.0)


def test_a_short_cut_changes_nothing(lab: Lab) -> None:
    before, cut = pids(lab), busy(lab)
    for _ in range(4):
        lab.network.isolate(cut)
        time.sleep(2.0)
        lab.network.heal()
        time.sleep(2.0)
    lab.wait(lambda: len(lab.healthy()) == 4, what="calm")
    assert pids(lab) == before


def test_a_cut_cable_is_noticed_by_the_kernel_however_seldom_programs_ask() -> None:
    seldom = ("--ping-every", "60")
    with Lab(etcds=1, coordinators=1, agents=2, flags=seldom) as lab:
        lab.up(*seldom)
        began_s = time.monotonic()
        lab.network.isolate("a1")
        lab.wait(lambda: _state(lab, "a1") != "ready", what="the coordinator notices")
        assert time.monotonic() - began_s < 15.0
        # It dials again by itself, as soon as it has noticed, too.
        time.sleep(5.0)
        lab.network.heal()
        lab.wait(lambda: _state(lab, "a1") == "ready", deadline_s=10.0, what="the agent notices")


def _state(lab: Lab, host: str) -> str:
    found: str = next(row["state"] for row in lab.json("hosts") if row["host"] == host)
    return found


def test_when_most_hosts_fall_silent_nothing_is_replaced(lab: Lab) -> None:
    """It is probably we who are cut off."""
    scale(lab, "web=8")  # so that each of them has something to lose
    before = pids(lab)
    for name in ("a1", "a2", "a3"):
        lab.network.isolate(name)
    shown = ("ps", "--app", "shop")
    lab.wait(lambda: "the brake is on" in lab.formctl(*shown).stdout, what="the brake")
    assert "the brake is on" in lab.formctl("hosts").stderr
    time.sleep(8.0)
    assert pids(lab) == before
    lab.network.heal("a1")
    lab.wait_hosts(2)
    time.sleep(1.0)  # the others were silent for long, and still have a while to come back
    lab.network.heal()
    lab.wait(lambda: len(lab.healthy()) == 8, what="calm")
    assert pids(lab) == before
    assert "the brake is on" not in lab.formctl("hosts").stderr


def test_a_frozen_host_goes_on_where_it_was_when_it_thaws_in_time(lab: Lab) -> None:
    before, frozen = pids(lab), busy(lab)
    lab.network.hosts[frozen].freeze()
    time.sleep(3.0)
    lab.network.hosts[frozen].thaw()
    lab.wait(lambda: len(lab.healthy()) == 4, what="calm")
    keeps(lab, before, for_s=3.0)


def test_a_frozen_host_that_was_replaced_gives_way_when_it_thaws(lab: Lab) -> None:
    frozen = busy(lab)
    lab.network.hosts[frozen].freeze()
    lab.wait(lambda: len(lab.healthy()) == 4 and frozen not in healthy_on(lab), what="replacements")
    lab.network.hosts[frozen].thaw()
    lab.wait(lambda: count(lab) == 4, what="one copy of each")


def test_a_machine_that_loses_its_power_runs_what_it_ran_when_it_is_back_in_time(lab: Lab) -> None:
    off = busy(lab)
    rest = {host: found for host, found in pids(lab).items() if host != off}
    lab.power_off(off)
    lab.again(off)
    lab.wait(lambda: len(lab.healthy()) == 4 and count(lab) == 4, what="calm")
    keeps(lab, rest, for_s=1.0)


def test_a_bad_line_loses_no_instance(lab: Lab) -> None:
    """A fifth of the packets is lost, and what is left goes through 64 kbit/s."""
    before, far = pids(lab), busy(lab)
    lab.network.lose(far, 20)
    lab.network.narrow(far, 64)
    keeps(lab, before, for_s=15.0)
    lab.network.narrow(far, 0)
    lab.network.heal()
    lab.wait(lambda: len(lab.healthy()) == 4 and count(lab) == 4, what="calm")


def test_a_host_far_away_works_like_any_other(lab: Lab) -> None:
    """A third of a second each way, and jitter."""
    far = SlowProxy(lab.network.our_address, lab.address("c1"), delay_s=0.3, jitter_s=0.2)
    with far as address:
        lab.network.add("a5")
        lab.start_agent("a5", dials=address)
        try:
            lab.wait_hosts(5)
            scale(lab, "web=10")
            before = {row["uid"]: row["host"] for row in lab.ps()}
            assert "a5" in before.values()
            time.sleep(12.0)
            assert {row["uid"]: row["host"] for row in lab.ps()} == before
            assert len(lab.healthy()) == 10
            assert far.passed_bytes > 0
        finally:
            lab.kill("a5", signal.SIGTERM)
            lab.formctl("hosts", "forget", "a5")


def test_an_exclusive_one_is_never_twice(lab: Lab) -> None:
    """Its host is cut off: it is stopped there by its lease, then it runs elsewhere."""
    shared = lab.directory / "shared"
    app = lab.app({"formation.toml": MANIFEST}, "alone")
    shared.mkdir(exist_ok=True)
    lab.formctl("apply", str(app), "--workdir", str(shared), "-m", "one=1,web=0")
    (slot,) = lab.ps("alone")
    began_s = time.monotonic()
    lab.network.isolate(slot["host"])

    def elsewhere() -> bool:
        rows = [row for row in lab.ps("alone") if row["state"] == "healthy"]
        return any(row["host"] != slot["host"] and not row["host_silent"] for row in rows)

    lab.wait(elsewhere, deadline_s=60.0, what="its next stay")
    assert time.monotonic() - began_s > 15.0, "the lease was waited out"
    lab.network.heal()
    lab.wait_hosts(4)
    time.sleep(3.0)
    assert not (shared / "overlaps").exists(), (shared / "overlaps").read_text()
    lab.formctl("delete", "alone", "--yes")


def test_scaling_to_nothing_and_back_reaches_a_host_that_was_away(lab: Lab) -> None:
    away = busy(lab)
    lab.network.isolate(away)
    lab.wait(lambda: away not in healthy_on(lab) and len(lab.healthy()) == 4, what="elsewhere")
    scale(lab, "web=0", "--timeout", "20")
    assert set(pids(lab)) == {away}
    lab.network.heal()
    lab.wait(lambda: count(lab) == 0, what="the last ones to go")
