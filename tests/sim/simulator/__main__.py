"""python -m simulator SEEDS [--steps N] [--jobs N]: SEEDS is `7` or `0..99`.

One seed is told in full when something broke. Exit code 1: a promise was broken.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from simulator.simulation import Result, Simulation
from simulator.virtual import Trace, run

STEPS = 150


def one(seed: int, steps: int = STEPS) -> Result:
    trace, result = Trace(), Result(seed)

    async def story() -> None:
        await Simulation(seed, trace, result).run(steps)

    run(seed, trace, story)
    if result.broken:
        result.trace = trace.lines()
    return result


def seeds_of(text: str) -> range:
    first, dots, last = text.partition("..")
    return range(int(first), int(last) + 1 if dots else int(first) + 1)


def told(result: Result) -> Iterator[str]:
    yield from result.trace
    yield f"seed {result.seed} broke: {result.broken[0]}"
    yield f"again: make sim SEEDS={result.seed}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulator", description=__doc__)
    parser.add_argument("seeds", type=seeds_of)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        sys.exit("simulator: set PYTHONHASHSEED=0: a seed shall mean the same everywhere")
    began_s, steps, virtual_s, broken = time.monotonic(), 0, 0.0, 0
    done: Counter[str] = Counter()
    with ProcessPoolExecutor(options.jobs) as pool:
        work = pool.map(one, options.seeds, [options.steps] * len(options.seeds), chunksize=4)
        for result in (
            work
            if options.jobs > 1
            else map(one, options.seeds, [options.steps] * len(options.seeds))
        ):
            steps, virtual_s = steps + result.steps, virtual_s + result.virtual_s
            done += result.done
            if result.broken:
                broken += 1
                sys.stdout.write("\n".join(told(result)) + "\n")
                sys.stdout.flush()
    took_s = time.monotonic() - began_s
    sys.stdout.write(
        f"{len(options.seeds)} seeds, {steps} steps, {virtual_s / 3600:.1f} hours in {took_s:.1f} s"
        f" ({5000 * took_s / max(steps, 1):.2f} s for 5,000 steps), {broken} broken\n"
    )
    if len(options.seeds) == 1:
        sys.stdout.write(", ".join(f"{name} {n}" for name, n in sorted(done.items())) + "\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
