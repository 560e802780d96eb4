"""How long a person waits for formctl, beside what no program of this kind can be faster than.

    python bench/startup.py [--runs 20]

A cluster of `formctl dev` runs meanwhile, so that `ps` has a warm coordinator to ask. All in turns
within each round: a Python that does nothing, one that imports grpc and ends, and formctl. Prints
medians of wall and processor time, and how many times `import grpc` that is: seconds of a busy
machine tell little, ratios more.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "harness"))
from dev import Dev

ROOT = Path(__file__).resolve().parent.parent
GRPC = "python -c 'import grpc'"
COMPLETING = {"_FORMCTL_COMPLETE": "bash_complete", "COMP_WORDS": "formctl s", "COMP_CWORD": "1"}


def contestants(formctl: str) -> dict[str, tuple[Sequence[str], Mapping[str, str]]]:
    return {
        "python -c pass": ((sys.executable, "-c", "pass"), {}),
        GRPC: ((sys.executable, "-c", "import grpc"), {}),
        "formctl --version": ((formctl, "--version"), {}),
        "formctl --help": ((formctl, "--help"), {}),
        "formctl s<Tab>": ((formctl,), COMPLETING),
        "formctl ps": ((formctl, "ps"), {}),
        "formctl top | cat": ((formctl, "top"), {}),
    }


def timed(words: Sequence[str], environ: Mapping[str, str], directory: Path) -> tuple[float, float]:
    """Wall and processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began_s = time.perf_counter()
    subprocess.run(words, env=environ, cwd=directory, stdout=subprocess.DEVNULL, check=True)
    wall_s = time.perf_counter() - began_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(dev: Dev, runs: int) -> dict[str, list[tuple[float, float]]]:
    found = contestants(str(dev.formctl_path))
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for number in range(runs + 1):
        for name, (words, more) in found.items():
            result = timed(words, {**dev.environment(), **more}, dev.project)
            if number:  # the first one fills caches of the disk
                results[name].append(result)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    with Dev(ROOT / "examples" / "hello", "--agents", "3", "-m", "web=3,worker=2,clock=1") as dev:
        dev.wait_line("ready: ")
        results = measured(dev, runs)
    floor = statistics.median(wall for wall, _ in results[GRPC])
    print(f"{runs} runs each, load {os.getloadavg()[0]:.1f}; medians, and the least")
    print(f"{'':24}{'wall ms':>9}{'least':>7}{'cpu ms':>8}{'of grpc':>9}")
    for name, times in results.items():
        wall, cpu = (statistics.median(values) for values in zip(*times, strict=True))
        least = min(wall for wall, _ in times)
        row = f"{wall * 1000:9.0f}{least * 1000:7.0f}{cpu * 1000:8.0f}{wall / floor:8.2f}×"
        print(f"{name:24}{row}")


if __name__ == "__main__":
    main()
