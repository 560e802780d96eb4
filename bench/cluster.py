"""A whole cluster on this machine: etcd, coordinators, thousands of hollow hosts, and what each
phase of its life costs.

    python bench/cluster.py --hosts 2000 --instances 200000 [--more 500] [--kill-leader]

Hosts are hollow (`tests/harness/hollow`): the agent's real session, supervisor and state machine
over a keeper that only says that it has started something. Everything else is real. Phases:
connect, idle, scale 0 → N, some more while N run, a release of those, 1 % of the hosts lost, idle,
and the leader killed, with a second coordinator to go to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "harness"))
from hollow.phases import Life, Size
from hollow.rig import Rig, told_to_end


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="a whole cluster of hollow hosts")
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--instances", type=int, default=20_000)
    parser.add_argument("--more", type=int, default=500, help="so many are added while all run")
    parser.add_argument("--coordinators", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="of hollow hosts")
    parser.add_argument("--dials-per-s", type=float, default=400.0, help="of all hosts, at first")
    parser.add_argument("--plain", action="store_true", help="without certificates")
    parser.add_argument("--start-s", type=float, default=0.0)
    parser.add_argument("--failing", type=float, default=0.0, help="so large a share of starts")
    parser.add_argument("--ready-after-s", type=float, default=0.0)
    parser.add_argument("--idle-s", type=float, default=60.0)
    parser.add_argument("--idle-empty-s", type=float, default=5.0, help="0: not at all")
    parser.add_argument("--kill-leader", action="store_true")
    parser.add_argument("--json", default="", metavar="FILE")
    return parser.parse_args()


async def lived(rig: Rig, options: argparse.Namespace) -> list[dict[str, Any]]:
    size = Size(
        hosts=options.hosts,
        instances=options.instances,
        more=options.more,
        processes=options.processes,
        ready_after_s=options.ready_after_s,
        idle_s=options.idle_s,
        idle_empty_s=options.idle_empty_s,
        kills_leader=options.kill_leader,
    )
    return await Life(rig, size).all()


def main() -> None:
    options = parsed()
    with Rig(
        coordinators=options.coordinators,
        tls=not options.plain,
        start_s=options.start_s,
        failing=options.failing,
        dials_per_s=options.dials_per_s,
    ) as rig:
        try:
            phases = asyncio.run(lived(rig, options))
        except BaseException:  # also when it is told to end, since it takes too long
            for program in (*rig.coordinators.values(), *rig.hollow):
                print(f"-- {program.name}\n{program.log.read_text()[-3000:]}", file=sys.stderr)
            raise
    text = json.dumps({"options": vars(options), "phases": phases}, indent=1)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    else:
        print(text)


def end(*_: object) -> None:
    told_to_end.set()  # for what waits on another thread
    sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    main()
