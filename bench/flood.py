"""What others notice when somebody is only in the way: p99 of their calls, with and without.

    python bench/flood.py [--rounds 5]

One coordinator on TCP with certificates, in a process of its own, on an in-memory store. A client
lists hosts, one call after the other; meanwhile, in another process, nothing, or 1,000 connections
that say nothing (opened again when they are shown out), or messages of 4 MB from a host, or calls
as fast as somebody can. Rounds take turns; the ratio is that of medians over all rounds.

All of them share this machine's cores. How much of it is only that is told by the last column: the
same is done to another coordinator beside this one, which has the same to do on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "harness"))

from formation import grpcenv

grpcenv.prepare()

from certified import Authority  # noqa: E402  gRPC is told first
from running import coordinator  # noqa: E402

from formation import credentials  # noqa: E402
from formation.dialling import Dialler  # noqa: E402
from formation.identity import Role  # noqa: E402
from formation.v1 import agent_pb2, control_pb2, control_pb2_grpc, types_pb2  # noqa: E402
from formation.v1.agent_pb2_grpc import AgentStub  # noqa: E402
from formation_coordinator.store.memory import MemoryStore  # noqa: E402

HALF_OPEN = 1_000
CALLS = 300
MESSAGE_BYTES = 4 << 20
PAUSE_S = 0.005


def serve(directory: str, said: multiprocessing.Queue[str]) -> None:
    async def run() -> None:
        authority, place = Authority(), Path(directory)
        for who in ("vic", "eve"):
            authority.issue(place / who, Role.VIEWER, who)
        authority.issue(place / "loud", Role.AGENT, "loud")
        async with coordinator(MemoryStore(), place, authority=authority) as running:
            said.put(running.address)
            await asyncio.Event().wait()

    asyncio.run(run())


def dialler(directory: str, name: str) -> Dialler:
    return Dialler(lambda: credentials.load(str(Path(directory) / name)))


def half_open(address: str, _directory: str) -> None:
    host, _, port = address.rpartition(":")
    opened: list[socket.socket] = []
    while True:
        for one in opened:
            with contextlib.suppress(BlockingIOError, OSError):
                if one.recv(1024) == b"":
                    one.close()
        opened = [one for one in opened if one.fileno() >= 0]
        for _ in range(HALF_OPEN - len(opened)):
            with contextlib.suppress(OSError):
                one = socket.create_connection((host, int(port)), 1.0)
                one.setblocking(False)
                opened.append(one)
        time.sleep(0.2)


def long_messages(address: str, directory: str) -> None:
    async def run() -> None:
        said = types_pb2.HostStatus(host="loud", agent_id="x", boot_id="b")
        batch = agent_pb2.StatusBatch(complaint="x" * MESSAGE_BYTES)
        async with dialler(directory, "loud").channel(address) as channel:
            call = AgentStub(channel).Session()
            await call.write(agent_pb2.AgentMessage(hello=agent_pb2.Hello(host=said)))
            await call.read()
            while True:
                await call.write(agent_pb2.AgentMessage(status=batch))

    asyncio.run(run())


def many_calls(address: str, directory: str) -> None:
    async def run() -> None:
        async with dialler(directory, "eve").channel(address) as channel:
            stub: control_pb2_grpc.ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
            while True:
                with contextlib.suppress(Exception):
                    await stub.ListHosts(control_pb2.ListHostsRequest(), timeout=5)

    asyncio.run(run())


Nuisance = Callable[[str, str], None]
NUISANCES: dict[str, Nuisance | None] = {
    "nothing": None,
    f"{HALF_OPEN} connections that say nothing": half_open,
    f"messages of {MESSAGE_BYTES >> 20} MB": long_messages,
    "calls without a pause": many_calls,
}


async def calls_s(address: str, directory: str) -> list[float]:
    """How long each takes, of a client that makes one after the other."""
    taken = []
    async with dialler(directory, "vic").channel(address) as channel:
        stub: control_pb2_grpc.ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
        await stub.ListHosts(control_pb2.ListHostsRequest(), timeout=10)
        for _ in range(CALLS):
            await asyncio.sleep(PAUSE_S + 1 / 60)  # below what one caller may
            began_s = time.perf_counter()
            await stub.ListHosts(control_pb2.ListHostsRequest(), timeout=10)
            taken.append(time.perf_counter() - began_s)
    return taken


@contextlib.contextmanager
def in_the_way(nuisance: Nuisance | None, address: str, directory: str) -> Iterator[None]:
    if nuisance is None:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(
        target=nuisance, args=(address, directory), daemon=True
    )
    process.start()
    time.sleep(2.0)
    try:
        yield
    finally:
        process.kill()
        process.join()


def p99_ms(taken: list[float]) -> float:
    return sorted(taken)[int(len(taken) * 0.99)] * 1000


class Server:
    """A coordinator in a process of its own, in a directory of its own."""

    def __init__(self, directory: str) -> None:
        Path(directory).mkdir()
        context = multiprocessing.get_context("spawn")
        said: multiprocessing.Queue[str] = context.Queue()
        self.directory = directory
        self._process = context.Process(target=serve, args=(directory, said), daemon=True)
        self._process.start()
        self.address = said.get(timeout=30)

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def measured(ours: Server, victim: Server, nuisance: Nuisance | None) -> float:
    with in_the_way(nuisance, victim.address, victim.directory):
        return p99_ms(asyncio.run(calls_s(ours.address, ours.directory)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    found: dict[str, list[float]] = {name: [] for name in NUISANCES}
    beside: dict[str, list[float]] = {name: [] for name in NUISANCES}
    with tempfile.TemporaryDirectory(prefix="fmn-") as directory:
        ours, other = Server(f"{directory}/ours"), Server(f"{directory}/other")
        for number in range(rounds):
            for name, nuisance in NUISANCES.items():
                found[name].append(measured(ours, ours, nuisance))
                beside[name].append(measured(ours, other, nuisance))
                print(f"round {number + 1}: {name}", file=sys.stderr)
        ours.end()
        other.end()
    floor = statistics.median([*found["nothing"], *beside["nothing"]])
    print(f"{'meanwhile':42} {'p99 ms':>8} {'ratio':>6} {'beside':>8} {'ratio to that':>14}")
    for name, values in found.items():
        median, control = statistics.median(values), statistics.median(beside[name])
        print(
            f"{name:42} {median:8.2f} {median / floor:6.2f} {control:8.2f} {median / control:14.2f}"
        )


if __name__ == "__main__":
    main()
