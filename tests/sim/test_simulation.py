"""Whole histories of a cluster in virtual time; see docs/design/simulator.md.

In processes of their own: a seed means the same only with a fixed PYTHONHASHSEED.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from simulator.mutations import MUTATIONS, SEEDS

ROOT = Path(__file__).resolve().parents[2]
SHARE = "0..15"
# Nothing but computing: how long it takes says how busy the machine is.
HANGS_AFTER_S = 300
pytestmark = pytest.mark.timeout(HANGS_AFTER_S + 20)


def simulated(*words: str) -> subprocess.CompletedProcess[str]:
    path = [ROOT / "tests" / "sim", ROOT / "tests" / "harness"]
    return subprocess.run(
        [sys.executable, "-m", "simulator", *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(map(str, path))},
    )


def test_no_history_breaks_a_promise() -> None:
    done = simulated(SHARE, "--jobs", "2")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "16 seeds" in done.stdout


def test_a_seed_means_the_same_again() -> None:
    digests = {re.findall(r"digest (\w+)", simulated("7").stdout)[0] for _ in range(2)}
    assert len(digests) == 1


def test_no_history_with_autoscaling_breaks_a_promise() -> None:
    done = simulated("0..3", "--autoscale", "--jobs", "2")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "4 seeds" in done.stdout
    # It did take place.
    assert re.search(r"autoscaled [1-9]", simulated("0", "--autoscale").stdout)


def test_every_mutation_has_a_seed_that_finds_it() -> None:
    assert SEEDS.keys() == MUTATIONS.keys()


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_safeguard_that_is_taken_out_is_missed(name: str) -> None:
    done = simulated(f"{SEEDS[name]},{SHARE}", "--mutation", name)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^seed \d+ broke: ", done.stdout, re.MULTILINE)
