"""What idle hosts cost a coordinator, beside a server that only holds their streams, in one run.

    python bench/idle.py [--hosts 1,1000] [--seconds 20] [--rounds 3] [--pings 2,10] [--awake]

For each number of hosts and each `--ping-every` of them, in turns within each round:

* floor        a gRPC server with the same options, mutual TLS and pings, that welcomes hollow hosts
               and drops what they say;
* coordinator  a real one, with its etcd.

Prints cpu in percent of a core, medians and the ratio to the floor. A machine that sleeps between
two wake-ups pays for each of them: with `--awake` two programs of the lowest priority keep it from
sleeping, as other work would.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc import aio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "harness"))
from hollow.rig import Hollow, Program, Rig, free_ports

from formation import credentials
from formation.policy import AGENT_LEASE_S, HEARTBEAT_PERIOD_S, relaxed_heartbeat_s
from formation.runtime import server_channel_options
from formation.v1 import agent_pb2, agent_pb2_grpc

SETTLE_S = 5.0
DIALS_PER_S = 300


class Deaf(agent_pb2_grpc.AgentServicer):
    def __init__(self, hosts: int) -> None:
        self._welcome = agent_pb2.CoordinatorMessage(
            welcome=agent_pb2.Welcome(
                session_id="1",
                coordinator_id="floor",
                heartbeat_period_s=HEARTBEAT_PERIOD_S,
                relaxed_period_s=relaxed_heartbeat_s(hosts),
                lease_s=AGENT_LEASE_S,
            )
        )

    async def Session(  # type: ignore[override]  # noqa: N802
        self,
        requests: AsyncIterator[agent_pb2.AgentMessage],
        context: aio.ServicerContext[agent_pb2.AgentMessage, agent_pb2.CoordinatorMessage],
    ) -> None:
        await context.write(self._welcome)
        async for _ in requests:
            pass


async def serve_floor(address: str, directory: str, hosts: int, ping_s: float) -> None:
    seen = credentials.load(directory)
    server = aio.server(options=server_channel_options(ping_s))
    agent_pb2_grpc.add_AgentServicer_to_server(Deaf(hosts), server)  # type: ignore[abstract]
    pair = (seen.key_pem, seen.certificate_pem)
    tls = grpc.ssl_server_credentials([pair], seen.authorities_pem, require_client_auth=True)
    server.add_secure_port(address, tls)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


@contextmanager
def floor(rig: Rig, hosts: int, ping_s: float) -> Iterator[tuple[Program, str]]:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    flags = ["--serve", address, "--identity", str(rig.directory / "identity-c1")]
    argv = [sys.executable, __file__, *flags, "--hosts", str(hosts), "--pings", str(ping_s)]
    program = Program(rig.directory, "floor", argv, stdout=subprocess.PIPE, text=True)
    try:
        assert program.process.stdout is not None
        assert program.process.stdout.readline() == "ready\n", program.log.read_text()[-2000:]
        yield program, address
    finally:
        program.end()


def measured(
    rig: Rig, server: Program, address: str, hosts: int, ping_s: float, for_s: float
) -> float:
    """Percent of a core."""
    flags = ["--hosts", str(hosts), "--coordinators", address, "--ping-every", str(ping_s)]
    flags += ["--authority", str(rig.directory / "identity-c1")]
    flags += ["--spread-s", str(hosts / DIALS_PER_S)]
    hollow = Hollow(rig.directory, "hollow", *flags)
    try:
        hollow.until_ready()
        hollow.go()
        while hollow.told()["connected"] < hosts:
            time.sleep(0.2)
        time.sleep(SETTLE_S)
        before_s = server.cpu_s()
        time.sleep(for_s)
        return 100 * (server.cpu_s() - before_s) / for_s
    finally:
        hollow.end()


def one(hosts: int, ping_s: float, for_s: float) -> tuple[float, float]:
    """Floor, coordinator."""
    with Rig(ping_every_s=ping_s) as rig:
        with floor(rig, hosts, ping_s) as (program, address):
            least = measured(rig, program, address, hosts, ping_s, for_s)
        whole = measured(rig, rig.coordinators["c1"], rig.addresses["c1"], hosts, ping_s, for_s)
    return least, whole


@contextmanager
def kept_awake(yes: bool) -> Iterator[None]:
    busy = "import os\nos.nice(19)\nwhile os.getppid() > 1: pass"
    programs = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(2 if yes else 0)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="idle hosts, beside a server of nothing")
    parser.add_argument("--hosts", default="1,1000")
    parser.add_argument("--pings", default="2,10", help="seconds between two of each host")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--awake", action="store_true")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    parser.add_argument("--identity", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.serve:
        asyncio.run(
            serve_floor(options.serve, options.identity, int(options.hosts), float(options.pings))
        )
        return
    print("hosts  ping every    floor  coordinator  ratio   (percent of a core)")
    with kept_awake(options.awake):
        for hosts in map(int, options.hosts.split(",")):
            for ping_s in map(float, options.pings.split(",")):
                rounds = [one(hosts, ping_s, options.seconds) for _ in range(options.rounds)]
                least, whole = (statistics.median(column) for column in zip(*rounds, strict=True))
                ratio = whole / least if least else 0.0
                print(
                    f"{hosts:5}  {ping_s:9g} s  {least:6.2f}  {whole:11.2f}  {ratio:5.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
