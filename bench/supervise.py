"""The agent beside other process supervisors and beside bare loops, all in one run.

    python bench/supervise.py [--only start,respawn,stop,log,memory,idle,orphans] [--count 500]
                              [--rounds 3] [--peers supervisord,s6] [--peers-venv DIR] [--json FILE]

Who takes part is what is installed: supervisord, circus and honcho from PyPI (in `--peers-venv` or
on PATH), foreman, runit and s6. `--peers none` measures Formation and the floors alone. What is
measured, and how, stands in docs/bench.md. Everything that was started is ended, by pid.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.supervision import changes, holding, orphans, output, processes
from bench.supervision.contestants import Contestant, Places, Tools
from bench.supervision.course import Course, Settings
from bench.supervision.formation import Formation
from bench.supervision.peers import PEERS

SECTIONS = ("start", "respawn", "stop", "log", "memory", "idle", "orphans")


def main() -> None:
    options = parse()
    places = Places(options.peers_venv)
    wanted = chosen(options.peers)
    present = [peer for peer in wanted if not peer.missing(places)]
    print(machine())
    for peer in wanted:
        if peer not in present:
            print(f"skipped: {peer.name} is not installed; get it with: {peer.get_it}")
    processes.adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="formation-bench-tools-") as directory:
        tools = Tools.build(Path(directory))
        if tools.note:
            print(tools.note)
        course = Course(
            settings(options),
            contestants=(Formation, *present),
            places=places,
            tools=tools,
            say=lambda text: print(f"… {text}", file=sys.stderr, flush=True),
        )
        run(course, options.only)
    print("\n" + course.figures.table())
    if options.json:
        report = {"machine": machine(), "measures": course.figures.as_json()}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def settings(options: argparse.Namespace) -> Settings:
    return Settings(
        count=options.count,
        rounds=options.rounds,
        kills=options.kills,
        lines=options.lines,
        writers=options.writers,
        flat_lines=options.flat_lines,
        idle_s=options.idle_s,
        settle_s=options.settle_s,
    )


def run(course: Course, only: set[str]) -> None:
    if {"start", "stop"} & only:
        changes.start_and_stop(course)
    if "respawn" in only:
        changes.respawn(course)
    if "log" in only:
        output.one_writer(course)
        output.many_writers(course)
    if {"memory", "idle"} & only:
        holding.hold(course, memory="memory" in only, idle="idle" in only)
    if "memory" in only:
        output.after_many_lines(course)
    if "orphans" in only:
        orphans.orphans(course)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="the agent beside other process supervisors")
    parser.add_argument("--only", type=sections, default=set(SECTIONS), metavar=",".join(SECTIONS))
    parser.add_argument("--count", type=int, default=500, help="processes (500)")
    parser.add_argument("--rounds", type=int, default=3, help="of start, stop and log (3)")
    parser.add_argument("--kills", type=int, default=60, help="of one child each (60)")
    parser.add_argument("--lines", type=int, default=1_000_000, help="in all (1000000)")
    parser.add_argument("--writers", type=int, default=50, help="that write at once (50)")
    parser.add_argument("--flat-lines", type=int, default=10_000_000,
                        help="after which memory is looked at again (10000000)")  # fmt: skip
    parser.add_argument("--idle-s", type=float, default=30.0, help="seconds of watching (30)")
    parser.add_argument("--settle-s", type=float, default=1.5,
                        help="before anything is done to what just started (1.5)")  # fmt: skip
    parser.add_argument("--peers", default="all", help="names, all, or none (all)")
    parser.add_argument("--peers-venv", type=Path, help="a virtual environment with peers in it")
    parser.add_argument("--json", type=Path, help="where every single value goes")
    return parser.parse_args()


def sections(text: str) -> set[str]:
    names = set(text.split(","))
    if unknown := names - set(SECTIONS):
        raise argparse.ArgumentTypeError(
            f"no such measure: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}"
        )
    return names


def chosen(text: str) -> list[type[Contestant]]:
    by_name = {peer.name: peer for peer in PEERS}
    if text == "all":
        return list(PEERS)
    if text == "none":
        return []
    if unknown := [name for name in text.split(",") if name not in by_name]:
        sys.exit(f"no such peer: {', '.join(unknown)}; there are {', '.join(by_name)}")
    return [by_name[name] for name in text.split(",")]


def machine() -> str:
    load = os.getloadavg()[0]
    cpus = os.cpu_count()
    return (
        f"{cpus} cores, {platform.machine()}, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load {load:.1f}"
    )


if __name__ == "__main__":
    main()
