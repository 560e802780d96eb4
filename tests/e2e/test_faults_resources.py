"""Disks fill, descriptors run out, clocks jump and readers fall asleep: what runs runs on."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psutil
import pytest
from cluster import BIN
from lab import Lab, required
from labtest import PROCFILE, WORD, count, keeps, pids, scale, undone

FLOOD = "flood: sh -c 'yes some line that is long enough to fill what is between us'\n"
DISK_BYTES = 2 * 1024 * 1024
MIB = 1024 * 1024


class Skewed(Lab):
    """Coordinators and agents see a wall clock that a file can put forward and back."""

    library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)

    @property
    def clock(self) -> Path:
        return self.directory / "clock"

    def command(self, name: str, *argv: str) -> list[str]:
        if name in self.etcds or name not in self.network.hosts or self.library is None:
            return super().command(name, *argv)
        words = ("FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1",
                 f"FAKETIME_TIMESTAMP_FILE={self.clock}", f"LD_PRELOAD={self.library}")  # fmt: skip
        return super().command(name, "env", *words, *argv)


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    with Lab(coordinators=2, agents=2) as lab:
        lab.small_disk(lab.state("a1"), DISK_BYTES)
        lab.up("--log-max-bytes", "65536", "--log-files", "2")
        lab.formctl("apply", str(lab.app({"Procfile": PROCFILE + FLOOD})), "-m", "web=2,flood=0")
        yield lab


@pytest.fixture
def lab(running: Lab) -> Iterator[Lab]:
    with undone(running, "web=2,flood=0"):
        yield running


def complaint(lab: Lab, host: str) -> str:
    return next(str(row["complaint"]) for row in lab.json("hosts") if row["host"] == host)


def test_a_full_disk_stops_nothing_and_new_orders_wait_for_room(lab: Lab) -> None:
    before = pids(lab)
    lab.fill(lab.state("a1"))
    scale(lab, "web=6", "--no-wait")
    lab.wait(lambda: "new orders wait until it can be written" in complaint(lab, "a1"), what="it")
    keeps(lab, before, for_s=3.0)
    lab.empty(lab.state("a1"))
    lab.wait(lambda: count(lab) == 6 and len(lab.healthy()) == 6, what="what was asked for")
    assert complaint(lab, "a1") == ""
    keeps(lab, before, for_s=0.5)


def test_without_descriptors_what_runs_runs_on_and_is_started_again(lab: Lab) -> None:
    before = pids(lab)
    host = lab.network.hosts["a2"]
    host.allow_descriptors(30)
    keeps(lab, before, for_s=6.0)
    host.allow_descriptors(1024)
    lab.wait(lambda: len(lab.healthy()) == 2, what="calm")
    keeps(lab, before, for_s=1.0)
    scale(lab, "web=4")


def test_a_reader_that_falls_asleep_holds_up_nobody_and_fills_no_memory(lab: Lab) -> None:
    scale(lab, "flood=2")
    reader = subprocess.Popen(
        [str(BIN / "formctl"), "logs", "-f", "flood", "--app", "shop",
         "--coordinator", lab.address("c1")],
        env=lab.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert reader.stdout is not None
        assert reader.stdout.read(100_000)
        reader.send_signal(signal.SIGSTOP)
        began = {name: _memory(lab, name) for name in ("c1", "c2", "a1", "a2")}
        time.sleep(8.0)
        for name, before in began.items():
            assert _memory(lab, name) - before < 64 * MIB, name
        scale(lab, "web=3")  # meanwhile
        reader.send_signal(signal.SIGCONT)
        assert reader.stdout.read(1_000_000)
    finally:
        reader.kill()
        reader.wait()
        reader.stdout.close() if reader.stdout else None


def _memory(lab: Lab, name: str) -> int:
    """Of the program, and for an agent of its brain."""
    of = [lab.programs[name].pid, *([lab.brain_of(name)] if name[0] == "a" else [])]
    return sum(psutil.Process(pid).memory_info().rss for pid in of)


def _off_s(lab: Lab) -> float:
    """How far the clock of a coordinator is off, by what it writes into the history."""
    label = f"at={time.monotonic_ns()}"
    lab.formctl("hosts", "label", "a1", label)
    row = next(row for row in lab.json("history", "a1") if label in row["to"])
    return datetime.fromisoformat(row["at"]).timestamp() - time.time()


def test_a_clock_that_jumps_decides_nothing() -> None:
    required()
    if Skewed.library is None:
        pytest.skip("no libfaketime: apt install libfaketime")
    with Skewed(coordinators=2, agents=2) as lab:
        lab.clock.write_text("+0s")
        lab.up()
        lab.formctl("apply", str(lab.app({"Procfile": PROCFILE})), "-m", "web=3")
        before, leader = pids(lab), lab.leader()
        for offset in ("+3600s", "-3600s", "+0s"):
            fresh = lab.directory / "clock.new"
            fresh.write_text(offset)
            fresh.rename(lab.clock)
            keeps(lab, before, for_s=5.0)
            assert lab.leader() == leader
            assert count(lab) == 3
            assert abs(_off_s(lab) - float(offset[:-1])) < 60.0, "they do see another time"
        assert "lost" not in lab.formctl("hosts").stdout
        scale(lab, "web=4")
        assert len(lab.running(WORD)) == 2
