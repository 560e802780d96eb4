"""`formctl logs -f` over 1,000 instances that all write: how fast, how late, at what cost.

    python bench/logs.py [--instances 1000] [--agents 4] [--rates 10,100] [--followers 1,10]
                         [--seconds 10] [--slow]

Each agent is a process with the agent's real log room and log pusher; another process writes into
its pipes, as children do, so many lines of 100 bytes a second each (10 at least). One real
coordinator (on a Unix socket, in-memory store). A follower is formctl's own code, into /dev/null,
on all instances. Every line has the moment in it when it was written. Where the machine does not
keep up, followers lag behind the files, and what is rotated away before they come to it is counted;
lines that arrived and lines that were said to be missing must add up to what was written.

Floors in the same run: `tail -F` of the same files, and a bare gRPC stream of the same messages.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "harness"))

from formation import grpcenv

grpcenv.prepare()

import grpc  # noqa: E402  gRPC is told first
import psutil  # noqa: E402
from hollow_agent import HollowAgent  # noqa: E402
from running import coordinator  # noqa: E402

from formation.model import Slot  # noqa: E402
from formation.runtime import client_channel_options  # noqa: E402
from formation.v1 import agent_pb2, control_pb2, control_pb2_grpc  # noqa: E402
from formation_agent.logpush import LogPusher  # noqa: E402
from formation_agent.logs import Logs  # noqa: E402
from formation_coordinator.store.memory import MemoryStore  # noqa: E402
from formctl.following import LogFeed  # noqa: E402
from formctl.loglines import Line, Painter  # noqa: E402

SPAWN = multiprocessing.get_context("spawn")
LINE_BYTES = 100
# Each instance writes so often, whatever its rate.
TICK_S = 0.1
SAMPLE_EVERY = 20
QUIET_S = 2.0
HEARTBEAT_S = 2.0


# -- the processes -----------------------------------------------------------------------------


def serve(directory: str, here: Connection) -> None:
    async def run() -> None:
        async with coordinator(MemoryStore(), Path(directory)) as running:
            here.send(running.address)
            await asyncio.Event().wait()

    asyncio.run(run())


def write(fds: list[int], here: Connection) -> None:
    """Rounds of (lines a second, seconds); says how many it has written."""
    while (order := here.recv()) is not None:
        rate, seconds = order
        each = max(1, round(rate * TICK_S))
        pad = b"x" * (LINE_BYTES - 1 - 21)
        began_s, ticks = time.monotonic(), round(seconds / TICK_S)
        for tick in range(ticks):
            for number, fd in enumerate(fds):
                # Spread over the tick, as a thousand processes would be.
                if number % 25 == 0:
                    due_s = began_s + (tick + number / len(fds)) * TICK_S
                    time.sleep(max(0.0, due_s - time.monotonic()))
                    now = b"%020d " % time.monotonic_ns()
                os.write(fd, (now + pad + b"\n") * each)
        here.send(ticks * each * len(fds))


def run_agent(
    directory: str, address: str, host: str, ordinals: list[int], here: Connection
) -> None:
    async def run() -> None:
        logs = Logs(Path(directory), max_bytes=10 << 20, files=5, host=host)
        ends = []
        for ordinal in ordinals:
            out, end = os.pipe()
            logs.attach(Slot("shop", "web", ordinal), out, -1)
            ends.append(end)
        # Forked: it inherits the pipes' ends, and does nothing but write.
        if (pid := os.fork()) == 0:
            write(ends, here)
            os._exit(0)
        here.send(pid)
        for end in ends:
            os.close(end)
        agent = HollowAgent(address, host)
        async with agent, asyncio.TaskGroup() as group:
            pusher, given = LogPusher(logs, agent.stub, group), 0
            for beat in itertools.count(1):
                agent.beat(beat)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await agent.wait_for(partial(_has_more, agent, given))
                for request in agent.open_logs[given:]:
                    pusher.open(request)
                given = len(agent.open_logs)

    asyncio.run(run())


def _has_more(agent: HollowAgent, given: int) -> bool:
    return len(agent.open_logs) > given


@dataclass(slots=True)
class Seen:
    """What one follower has got."""

    lines: int = 0
    missing: int = 0
    gaps: int = 0
    last_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)


def follow(address: str, here: Connection, pause_s: float) -> None:  # noqa: C901  one process
    """`pause_s`: after each response, as somebody would who reads on a slow line."""
    seen = Seen()
    painter = Painter(colour=False, terminal=True)

    def wrote(lines: list[Line]) -> None:
        seen.last_s, now_ns = time.monotonic(), time.monotonic_ns()
        for number, line in enumerate(lines):
            if line.missing or line.gap.value:
                seen.gaps += 1
                seen.missing += line.missing
                continue
            if number % SAMPLE_EVERY == 0:
                seen.latencies_ms.append((now_ns - int(line.text[:20])) / 1e6)
            seen.lines += 1
            sink.write(painter.line(line))

    async def run() -> None:
        async with grpc.aio.insecure_channel(address, client_channel_options()) as channel:
            stub: control_pb2_grpc.ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
            feed = LogFeed(wrote, lambda _: None, tail_lines=0, started_us=0)
            feed.open()
            request = control_pb2.LogsRequest(app="shop", tail_lines=0, follow=True)
            told = asyncio.create_task(asyncio.to_thread(here.recv))
            call = stub.Logs(request)
            reading = asyncio.create_task(read(call, feed))
            while (await told) is not None:
                here.send(seen)
                told = asyncio.create_task(asyncio.to_thread(here.recv))
            reading.cancel()

    async def read(call: AsyncIterable[control_pb2.LogsResponse], feed: LogFeed) -> None:
        async for response in call:
            feed.take(response)
            if response.history_done:
                here.send("ready")
            if pause_s:
                await asyncio.sleep(pause_s)

    with Path(os.devnull).open("wb") as sink:
        asyncio.run(run())


# -- putting them together ---------------------------------------------------------------------


@dataclass(slots=True)
class Part:
    process: BaseProcess
    connection: Connection
    writer_pid: int = 0

    def end(self) -> None:
        if self.writer_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.writer_pid, 9)
        self.process.kill()
        self.process.join()


def start(target: Any, *arguments: object) -> Part:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    return Part(process, ours)


def start_follower(address: str, pause_s: float = 0.0) -> Part:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=follow, args=(address, theirs, pause_s), daemon=True)
    process.start()
    theirs.close()
    part = Part(process, ours)
    assert answer(part, 60) == "ready"
    return part


def answer(part: Part, timeout_s: float) -> Any:
    if not part.connection.poll(timeout_s):
        sys.exit("a part of the measurement does not answer")
    return part.connection.recv()


def state(part: Part) -> Seen:
    part.connection.send("tell")
    return cast("Seen", answer(part, 120))


@dataclass(slots=True)
class Cost:
    """Processor time and memory of one kind of process over a round."""

    processes: list[psutil.Process]
    before_s: float = 0.0

    def begin(self) -> None:
        self.before_s = self._cpu_s()

    def _cpu_s(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)

    def cpu_s(self) -> float:
        return self._cpu_s() - self.before_s

    def memory_mib(self) -> float:
        return max(process.memory_info().rss for process in self.processes) / (1 << 20)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else 0.0


class Stage:
    def __init__(self, directory: str, instances: int, agents: int) -> None:
        self.directory = directory
        self.coordinator = start(serve, directory)
        self.address: str = answer(self.coordinator, 30)
        self.agents = [
            start(
                run_agent, f"{directory}/state-{n}", self.address, f"host{n}",
                list(range(n + 1, instances + 1, agents)),
            )
            for n in range(agents)
        ]  # fmt: skip
        for agent in self.agents:
            agent.writer_pid = answer(agent, 30)
        self.costs = {
            "coordinator": Cost([psutil.Process(self.coordinator.process.pid)]),
            "agents": Cost([psutil.Process(agent.process.pid) for agent in self.agents]),
        }

    def end(self) -> None:
        for part in (*self.agents, self.coordinator):
            part.end()

    def round(self, rate: int, seconds: float, followers: list[Part]) -> dict[str, float]:
        before = [state(part) for part in followers]
        for cost in self.costs.values():
            cost.begin()
        began_s = time.monotonic()
        for agent in self.agents:
            agent.connection.send((rate, seconds))
        written = sum(answer(agent, 600) for agent in self.agents)
        wrote_s = time.monotonic() - began_s
        after = self._settled(followers, before)
        lines = [now.lines - was.lines for now, was in zip(after, before, strict=True)]
        missing = [now.missing - was.missing for now, was in zip(after, before, strict=True)]
        late = [
            ms for now, was in zip(after, before, strict=True)
            for ms in now.latencies_ms[len(was.latencies_ms) :]
        ]  # fmt: skip
        took_s = max((now.last_s for now in after), default=began_s) - began_s
        return {
            "written": written, "wrote_s": wrote_s,
            "lines_per_s": sum(lines) / len(lines) / took_s if lines and took_s > 0 else 0.0,
            "p50": percentile(late, 0.5), "p99": percentile(late, 0.99),
            "missing": max(missing, default=0),
            "unsaid": written - min(map(sum, zip(lines, missing, strict=True)), default=written),
            "coordinator_cpu_s": self.costs["coordinator"].cpu_s(),
            "agents_cpu_s": self.costs["agents"].cpu_s(),
            "coordinator_mib": self.costs["coordinator"].memory_mib(),
            "agent_mib": self.costs["agents"].memory_mib(),
        }  # fmt: skip

    def _settled(self, followers: list[Part], before: list[Seen]) -> list[Seen]:
        """When nothing has come for a while."""
        last, since_s = before, time.monotonic()
        while True:
            time.sleep(0.25)
            now = [state(part) for part in followers]
            if [part.lines for part in now] != [part.lines for part in last]:
                last, since_s = now, time.monotonic()
            elif time.monotonic() - since_s > QUIET_S:
                return now


@contextlib.contextmanager
def following(stage: Stage, count: int) -> Iterator[list[Part]]:
    parts = [start_follower(stage.address) for _ in range(count)]
    try:
        yield parts
    finally:
        for part in parts:
            part.end()
        time.sleep(0.5)


# -- floors ------------------------------------------------------------------------------------


def tail_floor(stage: Stage, rate: int, seconds: float) -> dict[str, float]:
    """`tail -F` of all the files, while the same is written."""
    files = [str(path) for path in Path(stage.directory).glob("state-*/shop/*.log")]
    with subprocess.Popen(
        ["tail", "-q", "-n0", "-F", *files], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as tail:
        assert tail.stdout is not None
        os.set_blocking(tail.stdout.fileno(), False)
        time.sleep(2.0)
        cost = Cost([psutil.Process(tail.pid)])
        cost.begin()
        began_s = time.monotonic()
        for agent in stage.agents:
            agent.connection.send((rate, seconds))
        lines, late, last_s, rest = 0, [], began_s, b""
        while time.monotonic() - max(last_s, began_s + seconds) < QUIET_S:
            chunk = tail.stdout.read(1 << 20)
            if not chunk:
                time.sleep(0.002)
                continue
            last_s, now_ns = time.monotonic(), time.monotonic_ns()
            whole, _, rest = (rest + chunk).rpartition(b"\n")
            found = whole.split(b"\n")
            lines += len(found)
            late += [(now_ns - int(text[30:50])) / 1e6 for text in found[::SAMPLE_EVERY]]
        written = sum(answer(agent, 600) for agent in stage.agents)
        figures = {
            "written": written, "wrote_s": seconds, "lines_per_s": lines / (last_s - began_s),
            "p50": percentile(late, 0.5), "p99": percentile(late, 0.99), "missing": 0,
            "unsaid": written - lines, "coordinator_cpu_s": cost.cpu_s(), "agents_cpu_s": 0.0,
            "coordinator_mib": cost.memory_mib(), "agent_mib": 0.0,
        }  # fmt: skip
        tail.kill()
    return figures


def stream(here: Connection) -> None:
    """A bare server: the same messages, as many as somebody asks for."""

    async def run() -> None:
        lines = [
            agent_pb2.LogLine(app="shop", type="web", ordinal=n, host="host1", text=b"x" * 99,
                              at_us=1_795_314_825_123_456) for n in range(500)
        ]  # fmt: skip
        response = control_pb2.LogsResponse(lines=lines)

        async def logs(request: control_pb2.LogsRequest, _: Any) -> AsyncIterator[Any]:
            for _ in range(request.tail_lines // 500):
                yield response

        server = grpc.aio.server()
        handler = grpc.unary_stream_rpc_method_handler(
            logs, request_deserializer=control_pb2.LogsRequest.FromString,
            response_serializer=control_pb2.LogsResponse.SerializeToString,
        )  # fmt: skip
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("formation.v1.Control", {"Logs": handler}),)
        )
        path = tempfile.mkdtemp(prefix="fmn-")
        server.add_insecure_port(f"unix:{path}/floor.sock")
        await server.start()
        here.send(f"unix:{path}/floor.sock")
        await asyncio.Event().wait()

    asyncio.run(run())


def grpc_floor() -> float:
    """Lines a second."""
    part = start(stream)

    async def run() -> float:
        async with grpc.aio.insecure_channel(answer(part, 30), client_channel_options()) as channel:
            stub: control_pb2_grpc.ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
            began_s, lines = time.perf_counter(), 0
            async for response in stub.Logs(control_pb2.LogsRequest(tail_lines=1_000_000)):
                lines += len(response.lines)
            return lines / (time.perf_counter() - began_s)

    try:
        return asyncio.run(run())
    finally:
        part.end()


# -- what is printed ---------------------------------------------------------------------------

HEAD = (
    f"{'':34} {'written/s':>10} {'got/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'missing':>9} "
    f"{'unsaid':>7} {'coord cpu':>9} {'agents cpu':>10} {'coord MiB':>9} {'agent MiB':>9}"
)


def show(name: str, f: dict[str, float]) -> None:
    print(
        f"{name:34} {f['written'] / f['wrote_s']:10,.0f} {f['lines_per_s']:9,.0f} {f['p50']:8.1f} "
        f"{f['p99']:8.1f} {f['missing']:9,.0f} {f['unsaid']:7,.0f} "
        f"{f['coordinator_cpu_s']:8.1f}s {f['agents_cpu_s']:9.1f}s {f['coordinator_mib']:9.0f} "
        f"{f['agent_mib']:9.0f}",
        flush=True,
    )


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--rates", type=numbers, default=[10, 50])
    parser.add_argument("--followers", type=numbers, default=[1, 10])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--slow", action="store_true", help="one of them reads very slowly")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fmn-") as directory:
        stage = Stage(directory, options.instances, options.agents)
        print(HEAD)
        try:
            stage.round(1, 1.0, [])  # every file is there
            for rate in options.rates:
                show(f"{rate}/s each, nobody follows", stage.round(rate, options.seconds, []))
                show(f"{rate}/s each, tail -F", tail_floor(stage, rate, options.seconds))
                for count in options.followers:
                    with following(stage, count) as parts:
                        figures = stage.round(rate, options.seconds, parts)
                    show(f"{rate}/s each, followers: {count}", figures)
                if options.slow:
                    slow = start_follower(stage.address, 1.0)
                    with following(stage, 1) as parts:
                        figures = stage.round(rate, options.seconds, parts)
                    slow.end()
                    show(f"{rate}/s each, 1 and a slow one", figures)
        finally:
            stage.end()
    print(f"bare gRPC stream of the same messages: {grpc_floor():,.0f} lines/s")


if __name__ == "__main__":
    main()
