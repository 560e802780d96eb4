"""Starts one process, safely and fast. Used by the keeper alone; standard library only.

Mostly `posix_spawn`: no Python runs between fork and exec. What it cannot set (working directory,
umask, cgroup, the limit of open files) the single-threaded caller takes on for a moment and puts
back; what nobody could take on safely is left to `forkspawn`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import socket

from formation_agent import cgroups, forkspawn, link
from formation_agent.spawnerror import (
    NoEntry,
    SpawnError,
    encode,
    encode_all,
    encode_env,
    enter_directory,
    reason,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from formation_agent.containment import Containment
    from formation_agent.link import Message

_EVERY_SIGNAL = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_ABOVE_STANDARD_FDS = 10
_SHELL = b"/bin/sh"
_ENTER = '{ echo $$ >"$0"; } 2>/dev/null; exec "$@"'


class Spawned:
    """A running process and the read ends of its pipes.

    `notify`: the socket that it may send to, or -1. `cgroup`: its own, or "".
    """

    __slots__ = ("cgroup", "notify", "pid", "stderr", "stdout")

    def __init__(self, pid: int, fds: Sequence[int], cgroup: str) -> None:
        self.pid = pid
        self.stdout, self.stderr, self.notify = fds
        self.cgroup = cgroup

    def close(self) -> None:
        _close([self.stdout, self.stderr, self.notify])


class Spawner:
    """Raises this process's limit of open files; children get the one it came with.

    `state` is that of the program before this one in the same process.
    """

    def __init__(self, state: Message | None = None) -> None:
        soft, hard = state["limit"] if state else resource.getrlimit(resource.RLIMIT_NOFILE)
        self._limit = (soft, hard)
        self._raised = (hard, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._raised)
        _close_on_exec()
        self._null = state["null"] if state else _open_null()
        # glibc refuses to duplicate descriptors at or above the limit that children get, so a
        # child's pipes pass through two low ones that were taken before there were many.
        first, second = state["low"] if state else (os.dup(self._null), os.dup(self._null))
        self._low = (first, second)
        self._home = state["home"] if state else _open_directory()

    def state(self) -> Message:
        return {"limit": self._limit, "null": self._null, "low": self._low, "home": self._home}

    def descriptors(self) -> tuple[int, ...]:
        return (self._null, *self._low, self._home)

    def program(self, argv: Sequence[str], env: dict[bytes, bytes], fd: int, as_fd: int) -> int:
        """Starts a program of ours: our output, our working directory, one descriptor more."""
        # glibc leaves close-on-exec set when a descriptor is duplicated onto itself.
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_STANDARD_FDS)
        try:
            actions = [(os.POSIX_SPAWN_DUP2, high, as_fd)]
            words = [os.fsencode(word) for word in argv]
            return _posix_spawn(words[0], words, env, actions)
        finally:
            os.close(high)

    def child(self, order: Message, cgroup: str, containment: Containment) -> Spawned:
        """Starts what a `spawn` of the brain asks for, in its new cgroup; "" is none.

        Raises SpawnError, or NoEntry when the cgroup is of no use, and leaves nothing behind.
        """
        if order.get("takes"):
            return self._with_streams(order, cgroup)
        kept: list[int] = []  # in this order: stdout, stderr, notify
        ends: list[int] = []
        try:
            for _ in range(2):
                reader, writer = os.pipe()
                kept.append(reader)
                ends.append(writer)
                os.set_blocking(reader, False)
            order = _with_notify(order, kept)
            return Spawned(*self._start(order, kept, ends, cgroup, containment))
        except (OSError, ValueError) as error:
            _close(kept)
            raise SpawnError(_why(error, order)) from error
        except (SpawnError, NoEntry):
            _close(kept)
            raise
        finally:
            _close(ends)

    def _with_streams(self, order: Message, cgroup: str) -> Spawned:
        """With the standard descriptors that came with the order; nothing of it is kept here, so
        that they end with the brain."""
        streams = order.get(link.STREAMS, [])
        if len(streams) != order["takes"]:
            raise SpawnError(_why(OSError(errno.EMFILE, ""), order))
        stdio = streams * 3 if order.get("terminal") else streams
        try:
            pid = forkspawn.start(order, stdio, self._limit, cgroup)
        except (OSError, ValueError) as error:
            raise SpawnError(_why(error, order)) from error
        return Spawned(pid, (-1, -1, -1), cgroup)

    def joining(self, order: Message, cgroup: str, containment: Containment) -> Spawned:
        """The same in a cgroup in which others live, which it enters itself, before it begins.

        The keeper never does: such a one may be limited, full or frozen.
        """
        if cgroup and cgroups.is_frozen(cgroup):
            raise SpawnError("what it would run beside is frozen")
        if not cgroup or not forkspawn.is_needed(order):
            return self.child(_entering(order, cgroup), "", containment)
        try:
            spawned = self.child(order, cgroup, containment)
        except NoEntry as error:
            raise SpawnError(f"cannot run beside it: {error}") from error
        spawned.cgroup = ""  # not its own
        return spawned

    def _start(
        self,
        order: Message,
        kept: Sequence[int],
        ends: Sequence[int],
        cgroup: str,
        containment: Containment,
    ) -> tuple[int, Sequence[int], str]:
        if forkspawn.is_needed(order):
            pid = forkspawn.start(order, (self._null, *ends), self._limit, cgroup)
            return pid, kept, cgroup
        if not cgroup:
            return self._in_its_place(order, ends), kept, ""
        try:
            containment.enter(cgroup)
        except OSError as error:
            raise NoEntry(error.strerror) from error
        stays = True
        try:
            pid = self._in_its_place(order, ends)
        finally:
            stays = not containment.leave()
        return pid, kept, "" if stays else cgroup

    def _in_its_place(self, order: Message, ends: Sequence[int]) -> int:
        actions = [
            (os.POSIX_SPAWN_DUP2, self._null, 0),
            (os.POSIX_SPAWN_DUP2, self._low[0], 1),
            (os.POSIX_SPAWN_DUP2, self._low[1], 2),
        ]
        file, env = encode(order["file"]), encode_env(order["env"])
        enter_directory(order["cwd"], order.get("within", ()))
        umask = os.umask(order["umask"]) if "umask" in order else None
        try:
            for end, low in zip(ends, self._low, strict=True):
                os.dup2(end, low, inheritable=False)
            resource.setrlimit(resource.RLIMIT_NOFILE, self._limit)
            return _spawn_or_interpret(file, encode_all(order["argv"]), env, actions)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._raised)
            if umask is not None:
                os.umask(umask)
            os.fchdir(self._home)
            for low in self._low:
                os.dup2(self._null, low, inheritable=False)


def _with_notify(order: Message, kept: list[int]) -> Message:
    """The socket is ours, so that what is sent while no brain is there waits in it."""
    if not order.get("notify"):
        kept.append(-1)
        return order
    # A name that nobody can guess: an abstract one has no owner who keeps others out.
    name = f"formation/{os.urandom(16).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # who sent it
        end.bind(f"\0{name}")
        kept.append(end.detach())
    return {**order, "env": {**order["env"], "NOTIFY_SOCKET": f"@{name}"}}


def _entering(order: Message, cgroup: str) -> Message:
    """By way of a shell; where the cgroup is gone by then, it runs without."""
    if not cgroup:
        return order
    words = [f"{cgroup}/cgroup.procs", order["file"], *order["argv"][1:]]
    return {**order, "file": _SHELL.decode(), "argv": ["sh", "-c", _ENTER, *words]}


def _why(error: OSError | ValueError, order: Message) -> str:
    name = order["argv"][0]
    if isinstance(error, OSError):
        return reason(error, order["file"], name)
    return f"cannot run {name}: {error}"


def _spawn_or_interpret(
    file: bytes, argv: list[bytes], env: dict[bytes, bytes], actions: list[tuple[int, int, int]]
) -> int:
    try:
        return _posix_spawn(file, argv, env, actions)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    # A script without `#!`: every shell runs it as its own.
    return _posix_spawn(_SHELL, [_SHELL, file, *argv[1:]], env, actions)


def _posix_spawn(
    file: bytes, argv: list[bytes], env: dict[bytes, bytes], actions: list[tuple[int, int, int]]
) -> int:
    return os.posix_spawn(
        file,
        argv,
        env,
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=_EVERY_SIGNAL,
    )


def _close_on_exec() -> None:
    """Whatever our own parent left open must not leak into children."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:  # noqa: PLR2004  standard input and outputs stay
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the one that the listing itself used


def _open_null() -> int:
    """Also fills standard descriptors that were closed, before a pipe of a child lands there."""
    while (fd := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) <= 2:  # noqa: PLR2004
        os.set_inheritable(fd, True)
    return fd


def _open_directory() -> int:
    try:
        return os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # ours was removed: any other will do
        return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)
