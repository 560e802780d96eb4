"""The brain's end of the link to the keeper: asks for processes, hears what became of them.

It decides nothing. It is the dead man's switch: at the end of file from the keeper it kills every
tree that the keeper had, at once and whatever the brain is doing, and only then tells the brain.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from formation_agent import link, procfs
from formation_agent.children import MARK
from formation_agent.command import find_program
from formation_agent.leftovers import kill_leftovers, kill_marked

__all__ = [
    "Child",
    "Event",
    "Exited",
    "KeeperGone",
    "KeeperTooNew",
    "Processes",
    "SpawnFailed",
    "Started",
    "Terminate",
    "TreeEmpty",
    "describe_exit",
    "kill_leftovers",
]

_HELLO_TIMEOUT_S = 10.0
_MESSAGES_PER_ROUND = 64
# What a shell takes when nobody set one.
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """`stdout_fd` and `stderr_fd` now belong to the receiver; -1 when there is none."""

    key: str
    pid: int
    stdout_fd: int
    stderr_fd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnFailed:
    """`reason` is for people: "command not found: X"."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The main process ended; `empty` when nothing else of its tree is left."""

    key: str
    code: int | None
    signal: int | None
    core_dumped: bool
    empty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEmpty:
    """The last process of the tree is gone, some time after `Exited(empty=False)`."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminate:
    """Somebody wants the agent to end; `urgent` from the second time on."""

    urgent: bool


Event = Started | SpawnFailed | Exited | TreeEmpty | Terminate


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One child that the keeper had when this brain connected; its descriptors are the brain's."""

    key: str
    pid: int
    start_ticks: int
    exited: Exited | None
    empty: bool
    stdout_fd: int
    stderr_fd: int
    spawned_at_ms: int = 0


class KeeperGone(Exception):
    """The keeper died; every process that it had was killed before this was raised."""


class KeeperTooNew(Exception):
    """The keeper speaks a protocol that this brain does not know."""


@dataclass(slots=True, kw_only=True)
class _Tree:
    """A child whose tree is not known to be empty."""

    pid: int
    pidfd: int
    mark: str | None


class Processes:
    """The children, through the keeper. One per brain; belongs to the running event loop."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[None] = self._loop.create_future()
        self._expected = -1
        self._found: list[Child] = []
        self._locks: deque[asyncio.Future[str | None]] = deque()
        self._inbox: deque[Event] = deque()  # bounded by what was asked for
        self._outbox: deque[link.Message] = deque()
        self._news = asyncio.Event()
        self._trees: dict[str, _Tree] = {}
        self._gone = False
        self._closed = False
        self._loop.add_reader(end, self._on_readable)

    @classmethod
    async def connect(cls, fd: int) -> Processes:
        """Takes `fd` over and waits for the keeper's list of children.

        Raises KeeperTooNew, KeeperGone, or TimeoutError when it says nothing within 10 s.
        """
        os.set_inheritable(fd, False)
        end = socket.socket(fileno=fd)
        link.prepare(end)
        processes = cls(end)
        try:
            await asyncio.wait_for(processes._hello, _HELLO_TIMEOUT_S)
        except BaseException:
            processes.close()
            raise
        return processes

    @property
    def children(self) -> tuple[Child, ...]:
        """As of the connection."""
        return tuple(self._found)

    async def lock(self, path: str) -> str | None:
        """None when the lock is the keeper's now (for its life), else who holds it.

        Raises OSError when `path` cannot be opened for writing.
        """
        answer: asyncio.Future[str | None] = self._loop.create_future()
        self._locks.append(answer)
        self._send({"op": "lock", "path": os.path.abspath(path)})
        try:
            return await answer
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), path) from None

    def spawn(self, key: str, *, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> None:
        """Answered by `Started` or `SpawnFailed`. `argv[0]` is looked up in the child's PATH."""
        file = _resolve(argv[0], env, cwd)
        if file is None:
            self._put(SpawnFailed(key=key, reason=_not_found(argv[0], cwd)))
            return
        self._send(
            {
                "op": "spawn",
                "key": key,
                "file": file,
                "argv": list(argv),
                "env": dict(env),
                "cwd": cwd,
            }
        )

    def signal(self, key: str, signum: int, *, whole_group: bool = True) -> None:
        """To everything of the tree that is still there, or to the main process alone."""
        self._send({"op": "signal", "key": key, "signum": signum, "whole_group": whole_group})

    def forget(self, key: str) -> None:
        """The exit was taken over: no later brain needs to hear of it.

        A tree that is not empty yet stays watched, and `TreeEmpty` still comes.
        """
        self._send({"op": "forget", "key": key})

    def bye(self) -> None:
        """This brain is finished: however its process exits now, the keeper ends too."""
        self._send({"op": "bye"})

    async def events(self) -> AsyncIterator[Event]:
        """Everything that happens, in order; raises KeeperGone at the end of file."""
        while not self._closed:
            while self._inbox:
                yield self._inbox.popleft()
            if self._gone:
                raise KeeperGone("the keeper ended; every process that it had was killed")
            self._news.clear()
            await self._news.wait()

    def close(self) -> None:
        """Lets go of the link. Children and their pipes stay with the keeper."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)
        self._end.close()
        for key in list(self._trees):
            self._drop_tree(key)
        self._fail_waiters("the link was closed")
        self._news.set()

    # --- sending --------------------------------------------------------------------------------

    def _send(self, message: link.Message) -> None:
        if self._closed or self._gone:
            return
        self._outbox.append(message)
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._outbox:
            try:
                link.send(self._end, self._outbox[0])
            except BlockingIOError:
                self._loop.add_writer(self._end, self._flush)
                return
            except (BrokenPipeError, ConnectionResetError):
                self._outbox.clear()  # the reader meets the end of file
            else:
                self._outbox.popleft()
        self._loop.remove_writer(self._end)

    # --- receiving ------------------------------------------------------------------------------

    def _put(self, event: Event) -> None:
        self._inbox.append(event)
        self._news.set()

    def _on_readable(self) -> None:
        for _ in range(_MESSAGES_PER_ROUND):
            try:
                received = link.receive(self._end)
            except BlockingIOError:
                return
            if received is None:
                self._on_keeper_gone()
                return
            self._on_message(*received)

    def _on_message(self, message: link.Message, fds: list[int]) -> None:
        match message["op"]:
            case "hello":
                self._on_hello(message)
            case "child":
                self._on_child(message, fds)
            case "started":
                self._trees[message["key"]] = _watch(message)
                self._put(_started(message, fds))
            case "spawn_failed":
                self._put(SpawnFailed(key=message["key"], reason=message["reason"]))
            case "terminate":
                self._put(Terminate(urgent=message["urgent"]))
            case "exited" | "empty":
                self._on_end(message)
            case "locked" | "busy" | "lock_failed":
                self._on_lock(message)

    def _on_hello(self, message: link.Message) -> None:
        if message["version"] > link.VERSION:
            reason = (
                f"the running keeper (process {message['pid']}) speaks protocol "
                f"{message['version']}, this agent only {link.VERSION}: restart formation-agent"
            )
            self._settle_hello(KeeperTooNew(reason))
        self._expected = message["children"]
        self._settle_hello_if_complete()

    def _on_child(self, message: link.Message, fds: list[int]) -> None:
        stdout, stderr = _two(fds)
        exited = message["exited"]
        child = Child(
            key=message["key"],
            pid=message["pid"],
            start_ticks=message["start_ticks"],
            exited=None if exited is None else _exited({**message, **exited}),
            empty=message["empty"],
            stdout_fd=stdout,
            stderr_fd=stderr,
            spawned_at_ms=message["spawned_at_ms"],
        )
        if not child.empty:
            self._trees[child.key] = _watch(message)
        self._found.append(child)
        self._settle_hello_if_complete()

    def _settle_hello_if_complete(self) -> None:
        if len(self._found) == self._expected:
            self._settle_hello(None)

    def _settle_hello(self, error: Exception | None) -> None:
        if self._hello.done():
            return
        if error is None:
            self._hello.set_result(None)
        else:
            self._hello.set_exception(error)

    def _on_end(self, message: link.Message) -> None:
        key = message["key"]
        if message["op"] == "empty":
            self._drop_tree(key)
            self._put(TreeEmpty(key=key))
            return
        event = _exited(message)
        if event.empty:
            self._drop_tree(key)
        elif (tree := self._trees.get(key)) is not None:
            _close_pidfd(tree)
        self._put(event)

    def _drop_tree(self, key: str) -> None:
        tree = self._trees.pop(key, None)
        if tree is not None:
            _close_pidfd(tree)

    def _on_lock(self, message: link.Message) -> None:
        answer = self._locks.popleft()
        if answer.done():
            return
        if message["op"] == "lock_failed":
            answer.set_exception(OSError(message["errno"], os.strerror(message["errno"])))
        else:
            answer.set_result(message.get("by"))

    # --- the dead man's switch ------------------------------------------------------------------

    def _on_keeper_gone(self) -> None:
        self._gone = True
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)
        for tree in self._trees.values():
            # The keeper vouched for this group with its last message, a moment ago.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(tree.pid, signal.SIGKILL)
            if tree.pidfd >= 0:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(tree.pidfd, signal.SIGKILL)
        marks = {tree.mark.encode() for tree in self._trees.values() if tree.mark}
        if marks:
            kill_marked(MARK.encode(), marks)
        self._settle_hello(KeeperGone("the keeper ended before it said hello"))
        self._fail_waiters("the keeper ended")
        self._news.set()

    def _fail_waiters(self, reason: str) -> None:
        while self._locks:
            answer = self._locks.popleft()
            if not answer.done():
                answer.set_exception(KeeperGone(reason))


def _two(fds: Sequence[int]) -> tuple[int, int]:
    """Fewer arrive when this process had no room for more."""
    return (fds[0], fds[1]) if len(fds) >= 2 else (fds[0] if fds else -1, -1)  # noqa: PLR2004


def _started(message: link.Message, fds: Sequence[int]) -> Started:
    stdout, stderr = _two(fds)
    return Started(key=message["key"], pid=message["pid"], stdout_fd=stdout, stderr_fd=stderr)


def _exited(message: link.Message) -> Exited:
    return Exited(
        key=message["key"],
        code=message["code"],
        signal=message["signal"],
        core_dumped=message["core_dumped"],
        empty=message["empty"],
    )


def _watch(message: link.Message) -> _Tree:
    """Holds on to the process itself; to nothing when the number means another one by now."""
    pid = message["pid"]
    pidfd = -1
    if message["exited"] is None:
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
    tree = _Tree(pid=pid, pidfd=pidfd, mark=message["mark"])
    if pidfd >= 0 and procfs.start_ticks(pid) != message["start_ticks"]:
        _close_pidfd(tree)
    return tree


def _close_pidfd(tree: _Tree) -> None:
    if tree.pidfd >= 0:
        os.close(tree.pidfd)
        tree.pidfd = -1


def _resolve(program: str, env: Mapping[str, str], cwd: str) -> str | None:
    if "/" in program:
        return os.path.join(cwd, program)
    return find_program(program, env.get("PATH", _DEFAULT_PATH), cwd, _is_executable)


def _is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _not_found(program: str, cwd: str) -> str:
    if not os.path.lexists(cwd):
        return f"working directory does not exist: {cwd}"
    return f"command not found: {program}"


def describe_exit(event: Exited) -> str:
    """`exit 1`, `signal KILL`, `signal SEGV (core dumped)`."""
    if event.signal is None:
        return f"exit {event.code}"
    try:
        name = signal.Signals(event.signal).name.removeprefix("SIG")
    except ValueError:  # real-time signals have numbers only
        name = str(event.signal)
    return f"signal {name}{' (core dumped)' if event.core_dumped else ''}"
