"""The journal on a disk that loses what was not synced, under a process that dies at every step."""

from __future__ import annotations

import errno
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from formation.memory import AgentMemory, Tries
from formation.model import Assignment, ProcessType, Release, Slot
from formation_agent import journal
from formation_agent.journal import JournalError

NAME = journal.FILE_NAME
SLOT = Slot("shop", "web", 1)
MEMORY = AgentMemory(
    agent_id="a1",
    assigned=(Assignment(uid="u1", slot=SLOT, release=7),),
    releases=(Release(app="shop", number=7, types=(ProcessType(name="web", command="x"),)),),
    ports={SLOT: 20001},
    tries={"u1": Tries(attempt=3, failures=2, pid=77, start_ticks=123)},
)
OLD, NEW = replace(MEMORY, generation=1), replace(MEMORY, generation=2)


class Died(BaseException):
    """The process, or with it the machine."""


class Disk:
    """Directory entries and contents, as programs see them and as they would survive.

    A write takes at most some bytes. A sync of a file keeps its contents, a sync of the directory
    its names; what was not synced survives whole, in part, or not at all, as the dice say.
    """

    def __init__(self, dice: random.Random, *, dies: float = 0.0, room: int = 1 << 20) -> None:
        self.dice, self.dies, self.room = dice, dies, room
        self.steps = 0
        self.die_at: int | None = None
        self.files: list[bytearray] = []
        self.durable: list[bytes] = []
        self.names: dict[str, int] = {}
        self.durable_names: dict[str, int] = {}
        self.fds: dict[int, int | None] = {}

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self.die_at or self.dice.random() < self.dies:
            raise Died

    def open(self, path: str, flags: int, mode: int = 0o777, /) -> int:
        self._step()
        fd = len(self.fds) + 3
        if flags & os.O_DIRECTORY:
            self.fds[fd] = None
            return fd
        assert mode == 0o600, "others could read the secrets in it"
        assert flags & os.O_CLOEXEC
        assert flags & os.O_CREAT
        name = os.path.basename(path)
        if name not in self.names:
            self.names[name] = len(self.files)
            self.files.append(bytearray())
            self.durable.append(b"")
        assert flags & os.O_TRUNC, "what an earlier attempt left would stay behind the new end"
        self.files[self.names[name]].clear()
        self.fds[fd] = self.names[name]
        return fd

    def write(self, fd: int, data: memoryview, /) -> int:
        file = self.fds[fd]
        assert file is not None
        taken = min(len(data), self.dice.randint(1, 200), self.room - sum(map(len, self.files)))
        if taken <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.files[file] += data[:taken]
        self._step()  # after a part was written
        return taken

    def fsync(self, fd: int, /) -> None:
        self._step()
        file = self.fds[fd]
        if file is None:
            self.durable_names = dict(self.names)
        else:
            self.durable[file] = bytes(self.files[file])

    def close(self, fd: int, /) -> None:
        del self.fds[fd]

    def replace(self, source: str, target: str, /) -> None:
        self._step()
        self.names[os.path.basename(target)] = self.names.pop(os.path.basename(source))

    def crash(self, *, machine: bool) -> None:
        """Who comes next finds what survived."""
        self.fds.clear()
        if not machine:
            return
        for number, durable in enumerate(self.durable):
            if bytes(self.files[number]) != durable:
                self.files[number] = bytearray(self._torn(number))
        if self.dice.random() < 0.5:
            self.names = dict(self.durable_names)
        self.durable = [bytes(file) for file in self.files]
        self.durable_names = dict(self.names)

    def _torn(self, number: int) -> bytes:
        written = bytes(self.files[number])
        kept = self.dice.randint(0, len(written))
        return self.dice.choice([self.durable[number], written[:kept] + bytes(len(written) - kept)])

    def read(self) -> AgentMemory | None:
        """The journal's file, as the next start would read it; None: there is none."""
        if NAME not in self.names:
            return None
        return journal.decode(bytes(self.files[self.names[NAME]]))


def save(disk: Disk, memory: AgentMemory) -> None:
    journal.save(Path("/state"), journal.encode(memory), disk)


def with_old(dice: random.Random) -> Disk:
    disk = Disk(dice)
    save(disk, OLD)
    return disk


def steps_of_a_save() -> int:
    disk = with_old(random.Random(0))
    disk.dice.seed(0)
    before = disk.steps
    save(disk, NEW)
    return disk.steps - before


@pytest.mark.parametrize("machine", [False, True], ids=["process", "machine"])
@pytest.mark.parametrize("step", range(1, steps_of_a_save() + 1))
def test_wherever_a_save_dies_the_old_or_the_whole_new_memory_is_there(
    step: int, *, machine: bool
) -> None:
    for seed in range(20):
        disk = with_old(random.Random(seed))
        disk.dice.seed(0)  # the same parts are written as when the steps were counted
        disk.die_at = disk.steps + step
        try:
            save(disk, NEW)
        except Died:
            disk.dice.seed(seed)
            disk.crash(machine=machine)
        assert disk.read() in (OLD, NEW), f"seed {seed}"
        disk.die_at = None
        save(disk, NEW)  # over whatever the dead one left
        assert disk.read() == NEW, f"seed {seed}"


@pytest.mark.parametrize("machine", [False, True], ids=["process", "machine"])
def test_a_journal_that_dies_all_the_time_is_always_whole_and_gets_there(*, machine: bool) -> None:
    for seed in range(100):
        disk = Disk(random.Random(seed), dies=0.1)
        known: AgentMemory | None = None
        for generation in range(1, 6):
            wanted = replace(MEMORY, generation=generation)
            while True:
                try:
                    save(disk, wanted)
                except Died:
                    disk.crash(machine=machine)
                    assert disk.read() in (known, wanted), f"seed {seed}"
                    known = disk.read()  # what the next start goes on from
                else:
                    break
            # What was acknowledged survives whatever comes next.
            disk.crash(machine=machine)
            assert disk.read() == wanted, f"seed {seed}"
            known = wanted


def test_a_full_disk_leaves_the_old_memory_and_takes_the_new_one_when_there_is_room() -> None:
    size = len(journal.encode(OLD))
    for room in range(size, 2 * size, 7):
        disk = with_old(random.Random(room))
        disk.room = room
        with pytest.raises(JournalError, match="No space left on device"):
            save(disk, NEW)
        assert disk.fds == {}
        assert disk.read() == OLD
        disk.crash(machine=True)
        assert disk.read() == OLD
        disk.room = 3 * size
        save(disk, NEW)
        assert disk.read() == NEW


def test_that_disk_would_find_out_a_save_without_syncs() -> None:
    """A test that cannot fail proves nothing: without its syncs a save is caught."""

    class Careless(Disk):
        def fsync(self, fd: int, /) -> None:
            self._step()

    caught = 0
    for seed in range(50):
        disk = Careless(random.Random(seed))
        save(disk, OLD)
        disk.crash(machine=True)
        try:
            caught += disk.read() != OLD
        except journal.DamagedError:
            caught += 1
    assert caught > 10
