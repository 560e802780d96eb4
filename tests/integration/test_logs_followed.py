"""Many instances, several followers: few messages, and a slow one holds up nobody."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from eventually import eventually
from hollow_agent import HollowAgent
from running import RunningCoordinator, coordinator

from formation.model import Slot
from formation.v1 import control_pb2 as pb
from formation_agent.logchoice import LogChoice
from formation_agent.logpush import LogPusher
from formation_agent.logs import Logs
from formation_coordinator.logrelay import clock_notice
from formation_coordinator.store.memory import MemoryStore

DEADLINE_S = 30.0


class Host:
    """The agent's log room and pusher, behind an agent without processes."""

    def __init__(self, directory: Path, instances: int) -> None:
        self.logs = Logs(directory, max_bytes=1 << 24, files=2, host="a")
        self._ends = []
        for ordinal in range(1, instances + 1):
            out, end = os.pipe()
            self.logs.attach(Slot("shop", "web", ordinal), out, -1)
            self._ends.append(end)

    async def say(self, *lines: bytes) -> None:
        """Each instance, all of them."""
        text = b"".join(line + b"\n" for line in lines)
        for end in self._ends:
            await asyncio.to_thread(os.write, end, text)

    def close(self) -> None:
        for end in self._ends:
            os.close(end)
        self.logs.close()


@asynccontextmanager
async def one_host(
    directory: Path, instances: int
) -> AsyncIterator[tuple[RunningCoordinator, Host]]:
    host = Host(directory / "logs", instances)
    async with (
        coordinator(MemoryStore(), directory) as running,
        HollowAgent(running.address, "a") as agent,
    ):

        async def serve() -> None:
            async with asyncio.TaskGroup() as group:
                pusher, given = LogPusher(host.logs, agent.stub, group), 0
                while True:
                    await eventually(lambda: len(agent.open_logs) > given, deadline_s=DEADLINE_S)  # noqa: B023
                    pusher.open(agent.open_logs[given])
                    given += 1

        serving = asyncio.create_task(serve())
        try:
            yield running, host
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            host.close()


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """As many as a keeper has, which asks for all that it may have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_line_of_each_of_many_instances_is_a_few_messages(tmp_path: Path) -> None:
    host = Host(tmp_path, 300)
    batches = host.logs.read(LogChoice(app="shop"), tail_lines=0, follow=True)
    assert (await anext(batches)).history_done
    seen, messages = 0, 0
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(5):
            await host.say(b"x")
        while seen < 1500:
            seen += len((await anext(batches)).lines)
            messages += 1
    assert seen == 1500
    assert messages < 150
    await batches.aclose()
    host.close()


async def test_who_does_not_read_holds_up_nobody_and_what_waits_for_it_is_bounded(
    tmp_path: Path,
) -> None:
    async with one_host(tmp_path, 4) as (running, host):
        request = pb.LogsRequest(app="shop", follow=True)
        stuck, quick = running.control.Logs(request), running.control.Logs(request)
        for call in (stuck, quick):
            async with asyncio.timeout(DEADLINE_S):
                while not (await anext(aiter(call))).history_done:
                    pass
        got = 0

        async def read() -> None:
            nonlocal got
            async for response in quick:
                got += len(response.lines)

        reading = asyncio.create_task(read())
        for _ in range(100):
            await host.say(*[b"y" * 200] * 250)
        await eventually(lambda: got == 100_000, deadline_s=DEADLINE_S, what="all lines arrive")
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        # The other one goes on where it was, from the files.
        late = 0
        async with asyncio.timeout(DEADLINE_S):
            async for response in stuck:
                late += len(response.lines)
                if late >= 100_000:
                    break
        assert late == 100_000
        stuck.cancel()
        quick.cancel()


def test_a_clock_that_differs_much_is_told_and_a_slow_way_here_is_not() -> None:
    now_us = 1_800_000_000_000_000
    assert clock_notice("b", 0, now_us) is None
    assert clock_notice("b", now_us - 5_000_000, now_us) is None
    ahead = clock_notice("b", now_us + 93_000_000, now_us)
    assert ahead is not None
    assert "host b: its clock is 93 s ahead of the coordinator's" in ahead.notice
    behind = clock_notice("b", now_us - 60_000_000, now_us)
    assert behind is not None
    assert "60 s behind" in behind.notice
