"""What the agent keeps on disk: who it is, which cluster it follows, what it was told to run.

One file, replaced atomically and durably, with a checksum. Small changes (ports, attempts) are
gathered and written together; orders are written before anybody acts on them. A few descriptors
are kept back for it: an agent that has used up all others can still take orders to run less.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from formation import wire, wire_memory
from formation.memory import AgentMemory
from formation.v1 import journal_pb2
from formation_agent.statedir import JOURNAL_NAME

FILE_NAME = JOURNAL_NAME
_MAGIC = b"formation-agent-journal 1 sha256="
# Attempts and ports may be this old after a crash; nothing wrong follows from it.
WRITE_PERIOD_S = 0.5
# Where somebody waits for it, only what follows at once is gathered.
_WRITE_SOON_S = 0.05
# The file and its directory, and somebody else may be quicker.
_RESERVED_FDS = 4

log = logging.getLogger(__name__)


class JournalError(Exception):
    """The file cannot be read or written; the message is for people."""


class NoDescriptorError(JournalError):
    """All of this process's descriptors are in use, or all of the machine's."""


class DamagedError(ValueError):
    """The bytes are not a whole journal."""


def encode(memory: AgentMemory) -> bytes:
    body = wire_memory.agent_memory_to_pb(memory).SerializeToString()
    return _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode(data: bytes) -> AgentMemory:
    """Raises `DamagedError` for anything but a whole file of ours."""
    head, newline, body = data.partition(b"\n")
    if not newline or not head.startswith(_MAGIC):
        raise DamagedError("it has no header of ours")
    if hashlib.sha256(body).hexdigest().encode() != head.removeprefix(_MAGIC):
        raise DamagedError("its checksum does not match")
    try:
        return wire_memory.agent_memory_from_pb(journal_pb2.AgentJournal.FromString(body))
    except (DecodeError, wire.WireError) as error:
        raise DamagedError(str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """`problem`: what was wrong with the file that was there, for people; "" when nothing."""

    memory: AgentMemory
    problem: str = ""


def load(state_dir: Path, new_agent_id: str) -> Opened:
    """What is on disk, or an empty memory under `new_agent_id`. Raises `JournalError`."""
    path = state_dir / FILE_NAME
    fresh = AgentMemory(agent_id=new_agent_id)
    try:
        return Opened(memory=decode(path.read_bytes()))
    except FileNotFoundError:
        return Opened(memory=fresh)
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error.strerror}") from error
    except DamagedError as error:
        aside = path.with_suffix(".pb.damaged")
        _rename(path, aside)
        problem = (
            f"{path} is damaged ({error}); kept as {aside.name}. This agent starts empty and as a"
            f" new one ({new_agent_id}): it asks its coordinator what to run, and the coordinator"
            " may take it for a second agent of this name until the old session is over"
        )
        return Opened(memory=fresh, problem=problem)


class Disk(Protocol):
    """The system calls that a save is made of: `os`, or what a test puts in its place."""

    def open(self, path: str, flags: int, mode: int = ..., /) -> int: ...
    def write(self, fd: int, data: memoryview, /) -> int: ...
    def fsync(self, fd: int, /) -> None: ...
    def close(self, fd: int, /) -> None: ...
    def replace(self, source: str, target: str, /) -> None: ...


def save(state_dir: Path, data: bytes, disk: Disk = os) -> None:
    """Either the old file or the whole new one is there afterwards, wherever this process or the
    machine stops. Raises `JournalError`."""
    path = state_dir / FILE_NAME
    scratch = str(path.with_suffix(".pb.new"))
    try:
        # Releases hold secrets.
        with _opened(disk, scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
            left = memoryview(data)
            while left:
                left = left[disk.write(fd, left) :]
            disk.fsync(fd)
        disk.replace(scratch, str(path))
        with _opened(disk, str(state_dir), os.O_RDONLY | os.O_DIRECTORY) as fd:
            disk.fsync(fd)
    except OSError as error:
        text = f"cannot write {path}: {error.strerror}"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise NoDescriptorError(text) from error
        raise JournalError(text) from error


class Reserve:
    """Descriptors that nobody uses, to be let go when one is needed and none is free."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._fds: list[int] = []
        self.fill()

    def fill(self) -> None:
        try:
            while len(self._fds) < self._count:
                self._fds.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            log.debug("only %d descriptors are in reserve: %s", len(self._fds), error.strerror)

    def let_go(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


def _rename(path: Path, aside: Path) -> None:
    try:
        path.replace(aside)
    except OSError as error:
        raise JournalError(f"cannot rename {path}: {error.strerror}") from error


@contextlib.contextmanager
def _opened(disk: Disk, path: str, flags: int) -> Iterator[int]:
    fd = disk.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        disk.close(fd)


Collect = Callable[[AgentMemory], AgentMemory]


class Journal:
    """The memory in use and its way to the disk. Raises `JournalError` where it writes.

    What changes all the time is not copied into the memory at each change: `collect_with` names
    who fills it in when it is written.
    """

    def __init__(
        self, state_dir: Path, memory: AgentMemory, period_s: float = WRITE_PERIOD_S
    ) -> None:
        self.memory = memory
        self._period_s = period_s
        self._state_dir = state_dir
        self._collect: Collect = lambda memory: memory
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._waiting: list[Callable[[], None]] = []
        self._reserve = Reserve(_RESERVED_FDS)

    def collect_with(self, collect: Collect) -> None:
        self._collect = collect

    def touch(self) -> None:
        """What `collect` gives has changed: write it soon."""
        self._changed.set()

    def once_written(self, call: Callable[[], None]) -> None:
        """`call` when what `collect` gives now is on disk; written very soon."""
        self._waiting.append(call)
        self._changed.set()
        self._hurry.set()

    async def commit(self, **changes: Any) -> None:
        """On disk when it returns; on failure the memory is as before.

        Who does not wait for it any more does not undo it.
        """
        # A write that has begun cannot be called back: the next one must not begin beside it.
        await asyncio.shield(self._commit(changes))

    async def _commit(self, changes: dict[str, Any]) -> None:
        async with self._lock:
            memory = self._collect(replace(self.memory, **changes))
            waiting, self._waiting = self._waiting, []
            try:
                await self._write(memory)
            except BaseException:
                self._waiting = waiting + self._waiting
                raise
            self.memory = memory
            for call in waiting:
                call()

    async def flush(self) -> None:
        await self.commit()

    async def run(self) -> None:
        """Write what was touched, together, for ever; a full disk is reported and tried again."""
        failing = False
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._gather()
            try:
                await self.flush()
                failing = False
            except JournalError as error:
                if not failing:
                    log.warning("%s; trying again", error)
                failing = True
                self._changed.set()

    async def _gather(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._period_s):
                await self._hurry.wait()
                await asyncio.sleep(_WRITE_SOON_S)
        self._hurry.clear()

    async def _write(self, memory: AgentMemory) -> None:
        # The disk may be slow; events of children must not wait for it.
        await asyncio.to_thread(lambda: self._save(encode(memory)))

    def _save(self, data: bytes) -> None:
        self._reserve.fill()
        try:
            save(self._state_dir, data)
        except NoDescriptorError:
            self._reserve.let_go()
            save(self._state_dir, data)
        finally:
            self._reserve.fill()

    def close(self) -> None:
        self._reserve.let_go()
