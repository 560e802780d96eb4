"""The agent's memory on disk: whole or refused, never half."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from eventually import eventually
from hypothesis import given
from hypothesis import strategies as st

from formation.memory import AgentMemory, Tries
from formation.model import Assignment, ProcessType, Release, Slot
from formation_agent import journal
from formation_agent.journal import Journal, JournalError

SLOT = Slot("shop", "web", 1)
MEMORY = AgentMemory(
    agent_id="a1",
    cluster_id="c1",
    epoch=12,
    generation=34,
    assigned=(Assignment(uid="u1", slot=SLOT, release=7, restart_mark=2),),
    ending=(Assignment(uid="u0", slot=SLOT, release=6),),
    releases=(Release(app="shop", number=7, types=(ProcessType(name="web", command="x"),)),),
    ports={SLOT: 20001},
    tries={"u1": Tries(attempt=3, failures=2, pid=77, start_ticks=123)},
    boot_id="b1",
)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    journal.save(tmp_path, journal.encode(MEMORY))
    assert journal.load(tmp_path, "new").memory == MEMORY
    assert (tmp_path / "agent.pb").stat().st_mode & 0o777 == 0o600


def test_a_first_start_has_an_empty_memory_under_a_new_id(tmp_path: Path) -> None:
    opened = journal.load(tmp_path, "new")
    assert opened == journal.Opened(memory=AgentMemory(agent_id="new"))


@given(st.data())
def test_no_damage_goes_unnoticed(data: st.DataObject) -> None:
    whole = journal.encode(MEMORY)
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = whole[:at]
    flipped = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    for damaged in (cut, flipped):
        with pytest.raises(journal.DamagedError):
            journal.decode(damaged)


def test_a_damaged_file_is_kept_aside_and_the_agent_says_that_it_is_new(tmp_path: Path) -> None:
    (tmp_path / "agent.pb").write_bytes(b"formation-agent-journal 1 sha256=00\nx")
    opened = journal.load(tmp_path, "new")
    assert opened.memory == AgentMemory(agent_id="new")
    assert "its checksum does not match" in opened.problem
    assert "\n" not in opened.problem
    assert (tmp_path / "agent.pb.damaged").exists()
    assert not (tmp_path / "agent.pb").exists()


async def test_orders_are_on_disk_when_the_commit_returns(tmp_path: Path) -> None:
    kept = Journal(tmp_path, MEMORY)
    await kept.commit(generation=35, assigned=())
    on_disk = journal.load(tmp_path, "new").memory
    assert on_disk == kept.memory == replace(MEMORY, generation=35, assigned=())


async def test_what_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "missing", MEMORY)
    with pytest.raises(JournalError, match=r"cannot write .*No such file"):
        await kept.commit(generation=35)
    assert kept.memory == MEMORY


async def test_small_changes_reach_the_disk_together(tmp_path: Path) -> None:
    kept = Journal(tmp_path, MEMORY)
    written = asyncio.Event()
    tries: dict[str, Tries] = {}

    def collect(memory: AgentMemory) -> AgentMemory:
        written.set()
        return replace(memory, tries=dict(tries))

    kept.collect_with(collect)
    task = asyncio.create_task(kept.run())
    for number in range(100):
        tries[f"u{number}"] = Tries(attempt=1)
        kept.touch()
    await asyncio.wait_for(written.wait(), 5)
    await kept.flush()  # waits for the write that has begun
    task.cancel()
    assert len(journal.load(tmp_path, "new").memory.tries) == 100


async def test_who_waits_for_a_write_hears_of_the_one_that_has_it(tmp_path: Path) -> None:
    directory = tmp_path / "later"
    kept = Journal(directory, MEMORY, period_s=3600.0)
    heard: list[str] = []
    kept.once_written(lambda: heard.append("first"))
    with pytest.raises(JournalError):
        await kept.flush()
    assert heard == []
    directory.mkdir()
    kept.once_written(lambda: heard.append("second"))
    task = asyncio.create_task(kept.run())
    await eventually(lambda: heard == ["first", "second"])
    task.cancel()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


async def test_orders_are_written_when_all_descriptors_are_in_use(tmp_path: Path) -> None:
    kept = Journal(tmp_path, MEMORY)
    await asyncio.to_thread(lambda: None)  # the thread is there
    with no_descriptor_left():
        await kept.commit(generation=35)
        await kept.commit(generation=36)
    assert journal.load(tmp_path, "new").memory.generation == 36
    kept.close()


class GatedJournal(Journal):
    """Its thread stands still in a write until the test lets it go on."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, MEMORY)
        self.begun: list[bytes] = []
        self.at_once = 0
        self.first, self.gate = threading.Event(), threading.Event()

    def _save(self, data: bytes) -> None:
        self.begun.append(data)
        self.at_once += 1
        assert self.at_once == 1, "two writes at once"
        self.first.set()
        assert self.gate.wait(10)
        super()._save(data)
        self.at_once -= 1


async def test_a_write_that_nobody_waits_for_any_more_is_not_overtaken(tmp_path: Path) -> None:
    kept = GatedJournal(tmp_path)
    first = asyncio.create_task(kept.commit(generation=35))
    assert await asyncio.to_thread(kept.first.wait, 10)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(kept.commit(generation=36))
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(kept.begun) == 1
    kept.gate.set()
    await asyncio.wait_for(second, 10)
    assert len(kept.begun) == 2
    assert journal.load(tmp_path, "new").memory.generation == kept.memory.generation == 36
    kept.close()
