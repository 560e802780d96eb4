"""What trees of real processes use, with cgroups of their own and without."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from eventually import eventually

from formation.model import Slot, Usage
from formation_agent import cgroups
from formation_agent.entries import Running
from formation_agent.usage import PERIOD_S, UsageSampler

WEB_1, WEB_2 = Slot("shop", "web", 1), Slot("shop", "web", 2)


class Rig:
    """Trees as the supervisor names them. This process plays the keeper; a test turns the clock."""

    def __init__(self) -> None:
        self.trees: list[Running] = []
        self.logs: dict[Slot, int] = {}
        self.ahead_s = 0.0
        self.looks = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self.sampler = self.new_sampler()

    def new_sampler(self) -> UsageSampler:
        return UsageSampler(
            running=self._running,
            log_bytes=lambda slot: self.logs.get(slot, 0),
            keeper_pid=os.getpid(),
            now_s=self.now_s,
        )

    def now_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) + self.ahead_s

    def _running(self) -> tuple[Running, ...]:
        self.looks += 1
        return tuple(self.trees)

    def start(
        self, *argv: str, uid: str = "u1", slot: Slot = WEB_1, cgroup: str = ""
    ) -> subprocess.Popen[bytes]:
        env = {**os.environ, "FORMATION_INSTANCE": uid}
        process = subprocess.Popen(argv, start_new_session=True, env=env)
        self._processes.append(process)
        if cgroup:
            cgroups.enter(cgroup, process.pid)
        self.trees.append(
            Running(uid=uid, slot=slot, key=f"{uid}:1", pid=process.pid, cgroup=cgroup)
        )
        return process

    async def sample(self, app: str = "") -> dict[str, Usage]:
        """A new one each time."""
        self.ahead_s += PERIOD_S
        return {usage.uid: usage for usage in await self.sampler.sample(app)}

    async def counts(self, uid: str, processes: int) -> Usage:
        """As soon as it has so many processes."""

        async def found() -> Usage | None:
            usage = (await self.sample()).get(uid)
            return usage if usage and usage.processes == processes else None

        usage = await eventually(found)
        assert usage is not None
        return usage

    def close(self) -> None:
        for process in self._processes:
            below = [] if process.poll() is not None else psutil.Process(process.pid).children(True)
            for pid in {child.pid for child in below} | set(sessions_of(process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.kill()
            process.wait()


def sessions_of(leader: int) -> list[int]:
    """The living members of a session."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.getsid(int(name)) == leader:
                found.append(int(name))
        except ProcessLookupError:
            continue
    return found


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    made.close()


def python(code: str) -> tuple[str, str, str]:
    return sys.executable, "-c", code


# -- whose is it -----------------------------------------------------------------------------------


async def test_every_process_of_the_session_counts_and_no_other(rig: Rig) -> None:
    rig.start("sh", "-c", "sleep 1000 & sleep 1000 & wait")
    rig.start("sleep", "1000", uid="u2", slot=WEB_2)
    assert (await rig.counts("u1", 3)).uid == "u1"
    assert (await rig.counts("u2", 1)).uid == "u2"


async def test_a_descendant_in_a_session_of_its_own_counts(rig: Rig) -> None:
    rig.start("sh", "-c", "setsid -w sh -c 'sleep 1000; :' & wait")
    usage = await rig.counts("u1", 3)
    assert usage.memory_bytes > 0


async def test_an_orphan_of_the_keeper_counts_by_its_mark(rig: Rig) -> None:
    rig.start("sleep", "1000", uid="u1")
    orphan = rig.start("sh", "-c", "sleep 1000; :", uid="u1")
    rig.trees.pop()  # of whom nobody knows but by the mark
    stranger = rig.start("sleep", "1000", uid="somebody else")
    rig.trees.pop()
    usage = await rig.counts("u1", 3)
    assert {orphan.pid, stranger.pid} <= set(rig_children())
    assert usage.processes == 3


def rig_children() -> list[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(word) for word in path.read_text().split()]


async def test_what_the_main_process_left_behind_counts_when_it_is_gone(rig: Rig) -> None:
    rig.start("sleep", "1000")
    rig.trees[0] = Running(uid="u1", slot=WEB_1, key="u1:1", pid=0, cgroup="")
    assert (await rig.counts("u1", 1)).cpu_share == 0.0


async def test_a_tree_that_is_gone_by_now_uses_nothing(rig: Rig) -> None:
    process = rig.start("true")
    process.wait()
    assert (await rig.sample())["u1"] == Usage(uid="u1", files=0)


async def test_a_zombie_uses_nothing(rig: Rig) -> None:
    process = rig.start("true")
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert (await rig.sample())["u1"].processes == 0


# -- how much --------------------------------------------------------------------------------------


async def test_cpu_is_counted_with_that_of_children_that_have_ended(rig: Rig) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    script = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}])"
    rig.start(*python(f"{script}; time.sleep(1000)"))

    async def enough() -> bool:
        usage = (await rig.sample())["u1"]
        return usage.cpu_s >= 0.3 and usage.processes == 1

    await eventually(enough)


async def test_memory_is_what_is_resident_and_files_are_what_is_open(rig: Rig) -> None:
    code = "x = b'x' * 30_000_000; f = [open('/dev/null') for _ in range(40)]; "
    rig.start(*python(code + "import time; time.sleep(1000)"))

    async def usage() -> Usage | None:
        found = (await rig.sample())["u1"]
        return found if found.files >= 43 and found.memory_bytes > 30e6 else None

    found = await eventually(usage)
    assert found is not None
    assert found.memory_bytes < 100e6
    assert found.files < 60


async def test_rates_are_over_the_time_since_the_sample_before(rig: Rig) -> None:
    rig.start(*python("while True: pass"))
    first = (await rig.sample())["u1"]
    assert first.log_bytes_per_s == 0.0
    await asyncio.sleep(0.3)
    rig.logs[WEB_1] = 5_000
    rig.ahead_s += 9.0  # nothing was used then
    second = (await rig.sample())["u1"]
    used_s = second.cpu_s - first.cpu_s
    assert used_s > 0.0
    assert second.cpu_share == pytest.approx(used_s / 10.3, rel=0.1)
    assert second.log_bytes == 5_000
    assert second.log_bytes_per_s == pytest.approx(5_000 / 10.3, rel=0.1)


async def test_without_a_sample_before_rates_are_since_the_process_began(rig: Rig) -> None:
    rig.start(*python("import time\nwhile time.process_time() < 0.2: pass\ntime.sleep(1000)"))
    await eventually(lambda: _cpu_s(rig) > 0.15)
    rig.ahead_s += 100.0
    rig.logs[WEB_1] = 1_000
    usage = (await rig.sample())["u1"]
    assert 0.15 / 110 < usage.cpu_share < 0.6 / 100
    assert usage.log_bytes_per_s == pytest.approx(1_000 / 101, rel=0.1)


def _cpu_s(rig: Rig) -> float:
    fields = Path(f"/proc/{rig.trees[0].pid}/stat").read_text().split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


async def test_the_next_attempt_begins_anew(rig: Rig) -> None:
    first = rig.start(*python("while True: pass"))
    await eventually(lambda: _cpu_s(rig) > 0.15)
    await rig.sample()
    first.kill()
    await asyncio.to_thread(first.wait)
    rig.trees.clear()
    second = rig.start("sleep", "1000")
    rig.trees = [Running(uid="u1", slot=WEB_1, key="u1:2", pid=second.pid, cgroup="")]
    usage = (await rig.sample())["u1"]
    assert usage.cpu_s < 0.1
    assert 0.0 <= usage.cpu_share < 0.1


# -- cgroups ---------------------------------------------------------------------------------------


@pytest.fixture
def cgroup() -> Iterator[str]:
    own, _ = cgroups.own()
    if not own or not os.access(own, os.W_OK):
        pytest.skip("no cgroup v2 that we may write to")
    path = f"{own}/test-{os.urandom(6).hex()}"
    os.mkdir(path)
    yield path
    assert cgroups.kill_and_remove(path, 10.0)


async def test_a_tree_with_a_cgroup_is_counted_there_wherever_its_processes_went(
    rig: Rig, cgroup: str
) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    # Its child has ended, and is nobody's child that is counted here: the cgroup remembers it.
    inside = f"until grep -q {os.path.basename(cgroup)} /proc/self/cgroup; do sleep 0.01; done"
    script = f"{inside}; ({sys.executable} -c '{burn}' &) ; exec env -i setsid -f sleep 1000"
    rig.start("sh", "-c", script, cgroup=cgroup)

    async def left() -> Usage | None:
        usage = (await rig.sample())["u1"]
        return usage if usage.processes == 1 and usage.cpu_s > 0.25 else None

    usage = await eventually(left)
    assert usage is not None
    assert usage.memory_bytes > 0
    assert usage.files == 3


# -- seldom, and never long ------------------------------------------------------------------------


async def test_who_asks_twice_within_a_second_gets_the_same_and_costs_nothing(rig: Rig) -> None:
    rig.start("sleep", "1000")
    rig.start("sleep", "1000", uid="u2", slot=Slot("blog", "web", 1))
    rig.ahead_s += PERIOD_S
    first, second, shop = await asyncio.gather(
        rig.sampler.sample(), rig.sampler.sample(), rig.sampler.sample("shop")
    )
    assert (first, rig.looks) == (second, 1)
    assert [usage.uid for usage in shop] == ["u1"]
    rig.ahead_s += PERIOD_S
    await rig.sampler.sample()
    assert rig.looks == 2


async def test_a_sample_that_is_no_longer_wanted_spoils_no_other(rig: Rig) -> None:
    rig.start("sleep", "1000")
    rig.ahead_s += PERIOD_S
    one = asyncio.create_task(rig.sampler.sample())
    other = asyncio.create_task(rig.sampler.sample())
    await asyncio.sleep(0)
    one.cancel()
    assert [usage.uid for usage in await other] == ["u1"]
