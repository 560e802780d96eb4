"""`python -m chaos --seed S --minutes M`: random faults against a live cluster; exit 1: a promise
was broken."""

from __future__ import annotations

import argparse
import random
import sys

import netns

from chaos.run import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--minutes", type=float, default=2.0)
    options = parser.parse_args()
    why = netns.missing()
    if why:
        sys.exit(f"chaos: {why}")
    print(f"chaos: seed {options.seed}, {options.minutes:g} minutes", flush=True)
    result = run(options.seed, options.minutes * 60.0, lambda text: print(text, flush=True))
    print("\n".join(result.lines()))
    if result.violations:
        print(f"again: make chaos SEED={options.seed} MINUTES={options.minutes:g}")
        sys.exit(1)


main()
