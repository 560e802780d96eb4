"""A cable is pulled while a command runs beside an instance: both ends notice, each by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest
from cluster import BIN
from lab import Lab
from labtest import PROCFILE, cluster, pids
from leftovers import alive
from terminal import Terminal

from formation.execflow import GRACE_S, SILENCE_S

BOUND_S = SILENCE_S + GRACE_S + 5.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with cluster(PROCFILE, "web=2", coordinators=2, agents=2) as made:
        yield made


def beside(lab: Lab, host: str) -> tuple[str, dict[str, str]]:
    """An instance there, and what formctl is started with."""
    found = next(name for name, row in lab.healthy().items() if row["host"] == host)
    addresses = ",".join(lab.coordinators.values())
    return found, {**lab.environment(), "FORMATION_COORDINATOR": addresses}


def sleepers() -> set[int]:
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if process.info["cmdline"] == ["sleep", "79173"]:
            found.add(process.pid)
    return found


@pytest.mark.parametrize("is_back", [False, True], ids=["stays cut", "comes back"])
def test_the_hosts_cable(lab: Lab, is_back: bool) -> None:
    """Also when it comes back at once after the ends have noticed, nothing goes on."""
    host = min(pids(lab))
    running = pids(lab)[host]
    name, environ = beside(lab, host)
    line = "trap '' HUP; nohup sleep 79173 & echo began; sleep 79173"
    words = [str(BIN / "formctl"), "exec", name, "--", line]
    with Terminal(words, environ, lab.directory) as here:
        here.wait_for("began")
        lab.wait(lambda: len(sleepers()) == 2)
        left = sleepers()
        lab.network.isolate(host)
        began_s = time.monotonic()
        here.wait_for("what ran there ends")
        assert here.exit_code() in (1, 3)
        assert here.is_as_before
        assert all(map(alive, running)), "the instance does not notice"
        if is_back:
            lab.network.heal()
        lab.wait(lambda: not any(map(alive, left)), what="the processes there ended")
        assert time.monotonic() - began_s < BOUND_S
    lab.network.heal()
    lab.wait_hosts(2)
