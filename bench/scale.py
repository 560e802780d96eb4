"""Time from `scale` to all healthy, beside the floor and a peer in the same run.

    python bench/scale.py [--counts 100,300,1000] [--agents 4] [--rounds 3]

For each count, in turns within each round:

* floor      a plain `posix_spawn` loop of as many `sleep`s in one process;
* formation  `scale` of a `sleep` type from 0 over the agents: coordinator, etcd, gRPC, placement,
             pipes, health; ready at once (`ready.after = 0`), as the floor does not wait either;
* + ready    the same with the default: healthy when up for one second;
* honcho     `honcho start` of as many, where it is installed.

Prints medians and ratios to the floor. Everything is on this one machine and is ended by pid.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grpc

from formation.runtime import client_channel_options
from formation.v1 import control_pb2 as pb
from formation.v1 import control_pb2_grpc, types_pb2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "harness"))
from cluster import Cluster

SLEEP = "sleep 1000"
DEADLINE_S = 120.0


def floor(count: int) -> float:
    """Seconds to spawn `count` sleeps, nothing else."""
    program = shutil.which("sleep") or "/bin/sleep"
    environment = {"PATH": os.environ["PATH"]}
    started_s = time.perf_counter()
    pids = [
        os.posix_spawn(program, ["sleep", "1000"], environment, setsid=True) for _ in range(count)
    ]
    took_s = time.perf_counter() - started_s
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)
    return took_s


def honcho(count: int) -> float:
    """Seconds until honcho has said of every process that it started."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "Procfile").write_text(f"s: {SLEEP}\n")
        command = [sys.executable, "-m", "honcho", "start", "-c", f"s={count}", "--no-colour"]
        started_s = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += b" started (pid=" in line
            if seen == count:
                break
        took_s = time.perf_counter() - started_s
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        process.wait(timeout=DEADLINE_S)
        return took_s


class Formation:
    """A running cluster with two apps: `now` is ready at once, `later` after a second."""

    def __init__(self, cluster: Cluster, agents: int) -> None:
        self.address = cluster.start_and_wait(agents)
        for app, ready_after_s in (("now", 0.0), ("later", 1.0)):
            asyncio.run(self._apply(app, ready_after_s))

    async def _apply(self, app: str, ready_after_s: float) -> None:
        spec = types_pb2.ProcessType(
            name="s", command=SLEEP, ready_after_s=ready_after_s, stop_grace_s=5.0
        )
        async with grpc.aio.insecure_channel(self.address, client_channel_options()) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            await stub.Apply(pb.ApplyRequest(app=app, types=[spec], workdir="/"))

    def scale(self, app: str, count: int) -> float:
        """Seconds from sending Scale to seeing all healthy; back to 0 afterwards."""
        took_s = asyncio.run(self._scale_to(app, count))
        asyncio.run(self._scale_to(app, 0))
        return took_s

    async def _scale_to(self, app: str, count: int) -> float:
        change = pb.QuantityChange(type="s", kind=pb.QuantityChange.KIND_SET, quantity=count)
        async with grpc.aio.insecure_channel(self.address, client_channel_options()) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            await stub.GetCluster(pb.GetClusterRequest())
            started_s = time.perf_counter()
            response = await stub.Scale(pb.ScaleRequest(app=app, changes=[change]))
            request = pb.WatchInstancesRequest(app=app, min_revision=response.revision)
            await _until_healthy(stub.WatchInstances(request), count)
            return time.perf_counter() - started_s


async def _until_healthy(
    call: grpc.aio.UnaryStreamCall[pb.WatchInstancesRequest, pb.WatchUpdate], count: int
) -> None:
    healthy: dict[str, bool] = {}
    async with asyncio.timeout(DEADLINE_S):
        async for update in call:
            for view in update.changed:
                healthy[view.status.uid] = (
                    view.status.state == types_pb2.INSTANCE_STATE_HEALTHY and view.current
                )
            for uid in update.gone_uids:
                healthy.pop(uid, None)
            if len(healthy) == count and all(healthy.values()):
                break
    call.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description="scale to all healthy, beside floor and honcho")
    parser.add_argument("--counts", default="100,300,1000")
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with Cluster() as cluster:
        formation = Formation(cluster, options.agents)
        contestants: dict[str, Callable[[int], float]] = {
            "floor": floor,
            "formation": lambda count: formation.scale("now", count),
            "+ ready": lambda count: formation.scale("later", count),
            "honcho": honcho,
        }
        print(f"{options.agents} agents, medians of {options.rounds} rounds, seconds (× floor)")
        print(f"{'count':>6}" + "".join(f"{name:>20}" for name in contestants), flush=True)
        for count in map(int, options.counts.split(",")):
            print(row(count, contestants, options.rounds), flush=True)


def row(count: int, contestants: dict[str, Callable[[int], float]], rounds: int) -> str:
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            taken[name].append(run(count))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    cells = [f"{s:.2f} ({s / medians['floor']:.2f}×)" for s in medians.values()]
    return f"{count:>6}" + "".join(f"{cell:>20}" for cell in cells)


if __name__ == "__main__":
    main()
