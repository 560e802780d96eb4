"""python -m simulator SEEDS [--steps N] [--jobs N] [--mutation NAME] [--autoscale]

SEEDS: `7` or `7,0..99`.

A seed that broke is told with its last events; with a mutation it is the last that is tried. Exit
code 1: a promise was broken.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from simulator import mutations
from simulator.simulation import Result, Simulation
from simulator.virtual import Trace, run

STEPS = 150


def one(seed: int, *, steps: int = STEPS, autoscale: bool = False) -> Result:
    trace, result = Trace(), Result(seed)

    async def story() -> None:
        await Simulation(seed, trace, result, autoscale=autoscale).run(steps)

    run(seed, trace, story)
    if result.broken:
        result.trace = trace.lines()
    return result


def results(
    seeds: list[int], steps: int, jobs: int, mutation: str, *, autoscale: bool
) -> Iterator[Result]:
    prepare = partial(mutations.apply, mutation) if mutation else None
    work = partial(one, steps=steps, autoscale=autoscale)
    if jobs == 1:
        if prepare:
            prepare()
        yield from map(work, seeds)
        return
    with ProcessPoolExecutor(jobs, initializer=prepare) as pool:
        yield from pool.map(work, seeds, chunksize=2)


def seeds_of(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, dots, last = part.partition("..")
        found += range(int(first), int(last if dots else first) + 1)
    return found


def told(result: Result) -> str:
    lines = [*result.trace, f"seed {result.seed} broke: {result.broken[0]}"]
    return "\n".join([*lines, f"again: make sim SEEDS={result.seed}", ""])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="simulator", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("seeds", type=seeds_of)
    parser.add_argument("--steps", type=int, default=STEPS, help="things that the dice do")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--mutation", default="", choices=["", *mutations.MUTATIONS])
    parser.add_argument("--autoscale", action="store_true", help="a number decides, too")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        sys.exit("simulator: set PYTHONHASHSEED=0, so that a seed means the same everywhere")
    began_s, steps, virtual_s, broken = time.monotonic(), 0, 0.0, 0
    done: Counter[str] = Counter()
    found = results(
        options.seeds, options.steps, options.jobs, options.mutation, autoscale=options.autoscale
    )
    for result in found:
        steps, virtual_s = steps + result.steps, virtual_s + result.virtual_s
        done += result.done
        if result.broken:
            broken += 1
            sys.stdout.write(told(result))
            sys.stdout.flush()
            if options.mutation:
                break
    took_s = time.monotonic() - began_s
    each_s = 5000 * took_s / max(steps, 1)
    number = len(options.seeds)
    if number == 1:
        what = ", ".join(f"{name} {n}" for name, n in sorted(done.items()))
        sys.stdout.write(f"{what}\ndigest {result.digest}\n")
    sys.stdout.write(
        f"{number} seeds, {steps} steps, {virtual_s / 3600:.1f} hours in {took_s:.1f} s"
        f" ({each_s:.1f} s for 5,000 steps), {broken} broken\n"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
