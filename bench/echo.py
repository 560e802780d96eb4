"""The least that a change over many hosts can cost with gRPC in Python: a message to each of some
idle streams with mutual TLS, and one back.

    python bench/echo.py [--hosts 2000] [--touched 500] [--processes 2] [--rounds 5]

A server holds a stream of each host, and knows nothing. It writes a small message to some of them;
their hosts, in processes of their own, answer at once. Prints how long after the first write half
of the answers were there, and 99 of 100, and the cpu of either side: beside `+500` of
`bench/cluster.py`, which does the same and has placed, written, started and told meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc import aio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "harness"))
from certified import Authority, channel_credentials, channel_options
from hollow.rig import free_ports

from formation import credentials
from formation.identity import Role
from formation.runtime import client_channel_options, server_channel_options

METHOD = "/floor.Echo/Session"
DIALS_PER_S = 300.0
PAUSE_S = 1.0
Stream = aio.ServicerContext[bytes, bytes]


class Echo(grpc.GenericRpcHandler):
    """Of the server: all streams, and when each answer came."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.came_s: list[float] = []
        self._awaited = 0
        self._enough = asyncio.Event()

    async def until(self, count: int) -> None:
        self._awaited = count
        self._enough.clear()
        await self._enough.wait()

    def _came(self, count: int) -> None:
        if count >= self._awaited:
            self._enough.set()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._hold)

    async def _hold(self, requests: AsyncIterator[bytes], context: Stream) -> None:
        self.streams.append(context)
        self._came(len(self.streams))
        with suppress(asyncio.CancelledError):  # when its host is killed
            async for _ in requests:
                self.came_s.append(time.perf_counter())
                self._came(len(self.came_s))


async def answer(address: str, credential: credentials.Credential, after_s: float) -> None:
    await asyncio.sleep(after_s)
    # Else those of one process would share a connection.
    options = [*client_channel_options(), *channel_options(), ("grpc.use_local_subchannel_pool", 1)]
    async with aio.secure_channel(address, channel_credentials(credential), options) as channel:
        call: aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(METHOD)()
        await call.wait_for_connection()
        while isinstance(said := await call.read(), bytes):
            await call.write(said)


async def answer_all(address: str, directory: str, hosts: int) -> None:
    credential = credentials.load(directory)
    spread_s = hosts / DIALS_PER_S
    await asyncio.gather(*(answer(address, credential, spread_s * n / hosts) for n in range(hosts)))


async def measured(options: argparse.Namespace, directory: Path) -> None:
    authority, echo = Authority(), Echo()
    seen = authority.issue(directory / "server", Role.COORDINATOR, "c1")
    authority.issue(directory / "client", Role.AGENT, "a")
    server = aio.server(options=server_channel_options())
    server.add_generic_rpc_handlers((echo,))
    address, pair = f"127.0.0.1:{free_ports(1)[0]}", (seen.key_pem, seen.certificate_pem)
    tls = grpc.ssl_server_credentials([pair], seen.authorities_pem, require_client_auth=True)
    server.add_secure_port(address, tls)
    await server.start()
    share = str(options.hosts // options.processes)
    argv = [sys.executable, __file__, "--answer", address, "--identity", str(directory / "client")]
    all_there = asyncio.create_task(echo.until(int(share) * options.processes))
    clients = [
        await asyncio.create_subprocess_exec(*argv, "--hosts", share)
        for _ in range(options.processes)
    ]
    try:
        await all_there
        for _ in range(options.rounds):
            await asyncio.sleep(PAUSE_S)
            await one(echo, options.touched, [psutil.Process(item.pid) for item in clients])
    finally:
        for client in clients:
            client.kill()
            await client.wait()
        await server.stop(None)


async def one(echo: Echo, touched: int, clients: list[psutil.Process]) -> None:
    echo.came_s.clear()
    ours = psutil.Process()
    before_s, theirs_s = cpu_s([ours]), cpu_s(clients)
    began_s = time.perf_counter()
    step = max(1, len(echo.streams) // touched)
    chosen = echo.streams[::step][:touched]
    all_there = asyncio.create_task(echo.until(len(chosen)))
    await asyncio.gather(*(stream.write(b"x" * 200) for stream in chosen))
    await all_there
    took_s = sorted(at_s - began_s for at_s in echo.came_s)
    print(
        f"p50 {statistics.median(took_s):.3f} s, p99 {took_s[int(len(took_s) * 0.99) - 1]:.3f} s,"
        f" cpu: server {cpu_s([ours]) - before_s:.2f} s, hosts {cpu_s(clients) - theirs_s:.2f} s",
        flush=True,
    )


def cpu_s(programs: list[psutil.Process]) -> float:
    times = [program.cpu_times() for program in programs]
    return float(sum(item.user + item.system for item in times))


def main() -> None:
    parser = argparse.ArgumentParser(description="a message to each of many streams, and one back")
    parser.add_argument("--hosts", type=int, default=2000)
    parser.add_argument("--touched", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answer", default="", help=argparse.SUPPRESS)
    parser.add_argument("--identity", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        asyncio.run(answer_all(options.answer, options.identity, options.hosts))
        return
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(measured(options, Path(directory)))


if __name__ == "__main__":
    main()
