"""Hears what processes say by sd_notify(3), each through a socket of its own.

Believes only processes of the instance, closes every descriptor that is sent along, and is never
held up: a flood waits in its sender. What follows from a word is not decided here.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from formation_agent import cgroups, procfs
from formation_agent.children import MARK

TEXT_MAX = 200
# As much as systemd takes; more is dropped whole.
_MESSAGE_BYTES_MAX = 4096
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_FDS_MAX = 253  # of the kernel, in one message
_ANCILLARY_BYTES = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * _FDS_MAX)
# So many messages of one process in so much time, then the others have their turn. By the clock:
# a queue of the kernel's default length, 10, is empty again after each few.
_ROUND_MESSAGES = 32
_ROUND_S = 0.05
_ANCESTORS_MAX = 16
_USEC_DIGITS_MAX = 15  # some thirty years


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """The words of one datagram that mean something here. None: not said."""

    ready: bool = False
    reloading: bool = False
    stopping: bool = False
    status: str | None = None
    alive: bool = False
    given_up: bool = False  # WATCHDOG=trigger
    watchdog_s: float | None = None
    extend_s: float | None = None
    main_pid: bool = False


def parse(datagram: bytes) -> Message:
    """Never raises; what is not understood is left out, as the protocol wants it."""
    said: dict[bytes, bytes] = {}
    for line in datagram.split(b"\n"):
        name, found, value = line.partition(b"=")
        if found:
            said[name] = value
    status = said.get(b"STATUS")
    return Message(
        ready=said.get(b"READY") == b"1",
        reloading=said.get(b"RELOADING") == b"1",
        stopping=said.get(b"STOPPING") == b"1",
        status=None if status is None else readable(status, TEXT_MAX),
        alive=said.get(b"WATCHDOG") == b"1",
        given_up=said.get(b"WATCHDOG") == b"trigger",
        watchdog_s=_seconds(said.get(b"WATCHDOG_USEC")),
        extend_s=_seconds(said.get(b"EXTEND_TIMEOUT_USEC")),
        main_pid=b"MAINPID" in said,
    )


def _seconds(value: bytes | None) -> float | None:
    if value is None or not value.isdigit() or len(value) > _USEC_DIGITS_MAX:
        return None
    return int(value) / 1e6 or None


def readable(text: bytes, length_max: int) -> str:
    """One line for people and terminals: what is not printable becomes a blank."""
    decoded = text[: 4 * length_max].decode("utf-8", "replace")
    cleaned = "".join(letter if letter.isprintable() else " " for letter in decoded).strip()
    return cleaned if len(cleaned) <= length_max else f"{cleaned[: length_max - 1]}…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Belonging:
    """Which processes may speak for an instance: its main process, and who has its session, its
    cgroup, its mark or an ancestor in it."""

    uid: str
    pid: int

    def holds(self, pid: int) -> bool:
        """Looks at a few files of /proc. False for a process that is gone by now."""
        if pid == self.pid:
            return True
        if pid <= 0:
            return False  # of another PID namespace: the kernel does not tell which
        with contextlib.suppress(OSError):
            return (
                procfs.session(pid) == self.pid
                or procfs.variable_in(procfs.environment(pid), MARK.encode()) == self._mark
                or self._is_ancestor_of(pid)
                or self._shares_cgroup_with(pid)
            )
        return False

    @property
    def _mark(self) -> bytes:
        return self.uid.encode("utf-8", "surrogateescape")

    def _is_ancestor_of(self, pid: int) -> bool:
        for _ in range(_ANCESTORS_MAX):
            pid = procfs.parent(pid)
            if pid <= 1 or pid == self.pid:
                return pid == self.pid
        return False

    def _shares_cgroup_with(self, pid: int) -> bool:
        theirs = _cgroup(self.pid)
        return bool(theirs) and theirs == _cgroup(pid) != _cgroup(os.getpid())


def _cgroup(pid: int) -> str | None:
    """Its own of version 2; None without one. Raises OSError when the process is gone."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return cgroups.own_path(file.read())


class NotifySocket:
    """One process's. `heard` gets each message in order; `refused` why one was dropped, each
    reason once. Takes `fd` over."""

    def __init__(
        self,
        fd: int,
        belonging: Belonging,
        heard: Callable[[Message], None],
        refused: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = socket.socket(fileno=fd)
        self._end.setblocking(False)
        self._belonging = belonging
        self._heard = heard
        self._refused = refused
        self._reasons: set[str] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._round_ends_s = 0.0
        self._left_in_round = 0
        self.dropped = 0
        self._loop.add_reader(self._end, self.read)

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._end)
        self._end.close()

    def read(self) -> None:
        """What is there, up to a limit in each round; more is read in the next one."""
        now_s = self._loop.time()
        if now_s >= self._round_ends_s:
            self._round_ends_s = now_s + _ROUND_S
            self._left_in_round = _ROUND_MESSAGES
        while self._left_in_round:
            try:
                if not self._take():
                    return
            except OSError as error:
                self._drop(f"a message could not be read: {error.strerror}")
                break
            self._left_in_round -= 1
        self._loop.remove_reader(self._end)
        if self._pause is None:
            self._pause = self._loop.call_at(self._round_ends_s, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._end, self.read)

    def _take(self) -> bool:
        """One message; False when there is none, or nobody hears any more. Raises OSError."""
        try:
            data, ancillary, flags, _ = self._end.recvmsg(
                _MESSAGE_BYTES_MAX, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        pid, fds = _unpacked(ancillary)
        try:
            if flags & socket.MSG_TRUNC:
                self._drop(f"a message was larger than {_MESSAGE_BYTES_MAX} bytes")
            elif not self._belonging.holds(pid):
                self._drop("a message was not sent by a process of this instance, or it has ended")
            else:
                self._heard(parse(data))
        finally:
            # There is no store for them, and who sent one with BARRIER=1 waits for just that. Not
            # before we have looked at the sender, which may end now.
            for fd in fds:
                os.close(fd)
        return self._end.fileno() >= 0

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        if reason not in self._reasons:
            self._reasons.add(reason)
            self._refused(reason)


def _unpacked(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, list[int]]:
    """The process that sent it, 0 when not known, and the descriptors that came along."""
    pid, fds = 0, array.array("i")
    for level, kind, data in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
        elif kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return pid, list(fds)
