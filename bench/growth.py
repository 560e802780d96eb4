"""What a cluster costs as it grows: `bench/cluster.py` at several sizes, unattended.

    python bench/growth.py [--hosts 50,100,200,400,800] [--each 100]
                           [--instances 5000,10000,40000,80000] [--fixed-hosts 200]
                           [--budget-s 720] [--run-s 180] [--into dist/growth]

First more hosts with as many instances on each, then more instances on as many hosts; smallest
first. Every run writes one JSON file, and its words beside it. One that fails is told and the next
one begins; when the time is over the rest is left out, and that is told too. `bench/plots.py`
draws what there is; `make growth` is both.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CLUSTER = Path(__file__).resolve().parent / "cluster.py"
# So long a run may take to end its programs.
ENDING_S = 30.0
WORTH_BEGINNING_S = 20.0


@dataclass(frozen=True, slots=True, order=True)
class Size:
    hosts: int
    instances: int

    @property
    def name(self) -> str:
        return f"{self.hosts}-{self.instances}"


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="bench/cluster.py at several sizes")
    parser.add_argument("--hosts", type=numbers, default=[50, 100, 200, 400, 800])
    parser.add_argument("--each", type=int, default=100, help="instances on each of these")
    parser.add_argument("--instances", type=numbers, default=[5_000, 10_000, 40_000, 80_000])
    parser.add_argument("--fixed-hosts", type=int, default=200, help="for these instances")
    parser.add_argument("--idle-s", type=float, default=20.0)
    parser.add_argument("--budget-s", type=float, default=720.0, help="for all runs together")
    parser.add_argument("--run-s", type=float, default=180.0, help="for each of them")
    parser.add_argument("--into", type=Path, default=Path("dist/growth"), metavar="DIR")
    return parser.parse_args()


def sizes(options: argparse.Namespace) -> Iterator[Size]:
    """Smallest first, so that too little time costs the largest."""
    found = {Size(hosts, hosts * options.each) for hosts in options.hosts}
    found |= {Size(options.fixed_hosts, instances) for instances in options.instances}
    yield from sorted(found, key=lambda size: (size.instances, size.hosts))


def run(size: Size, options: argparse.Namespace, within_s: float) -> str:
    """What went wrong, or ""."""
    path = options.into / f"{size.name}.json"
    more = max(1, size.instances // 100)
    flags = {"hosts": size.hosts, "instances": size.instances, "more": more, "processes": 1,
             "idle-s": options.idle_s, "idle-empty-s": 0, "json": path}  # fmt: skip
    words = [f"--{name}={value}" for name, value in flags.items()]
    with path.with_suffix(".log").open("w", encoding="utf-8") as log:
        program = subprocess.Popen(
            [sys.executable, str(CLUSTER), "--kill-leader", *words], stderr=log, stdout=log
        )
        try:
            code = program.wait(within_s)
        except subprocess.TimeoutExpired:
            end(program)
            return f"not done within {within_s:.0f} s"
        except KeyboardInterrupt:
            end(program)
            raise
    return "" if code == 0 else f"exit {code}, see {path.with_suffix('.log')}"


def end(program: subprocess.Popen[bytes]) -> None:
    """It ends what it has started when it is told to end."""
    program.send_signal(signal.SIGTERM)
    try:
        program.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()


def main() -> None:
    options = parsed()
    options.into.mkdir(parents=True, exist_ok=True)
    for old in options.into.glob("*.json"):
        old.unlink()  # of another day, and perhaps of another machine
    ends_s, problems = time.monotonic() + options.budget_s, 0
    for size in sizes(options):
        began_s = time.monotonic()
        left_s = min(options.run_s, ends_s - ENDING_S - began_s)
        wrong = run(size, options, left_s) if left_s > WORTH_BEGINNING_S else "no time left for it"
        problems += bool(wrong)
        took_s = time.monotonic() - began_s
        what = f"FAILED: {wrong}" if wrong else f"done in {took_s:.0f} s"
        print(f"{size.hosts:,} hosts, {size.instances:,} instances: {what}", flush=True)
    if problems:
        sys.exit(f"growth: {problems} of the runs are missing")


if __name__ == "__main__":
    main()
