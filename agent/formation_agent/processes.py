"""The brain's end of the link to the keeper: asks for processes, hears what became of them.

It decides nothing. At the end of file from the keeper it pulls the dead man's switch (`deadman`),
at once and whatever the brain is doing, and only then tells the brain.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from formation_agent import deadman, link
from formation_agent.children import MARK
from formation_agent.command import find_program
from formation_agent.leftovers import kill_leftovers

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
_SEND_AGAIN_S = 0.1
_GONE = "the keeper ended; every process that it had was killed"
# What a shell takes when nobody set one.
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """`stdout_fd` and `stderr_fd` now belong to the receiver; -1 when there is none.

    `pid` and `start_ticks` (0: not known) name the process for as long as the machine runs.
    """

    key: str
    pid: int
    stdout_fd: int
    stderr_fd: int
    start_ticks: int = 0


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


class Processes:
    """The children, through the keeper. One per brain; belongs to the running event loop."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[None] = self._loop.create_future()
        self._expected = -1
        self._found: list[Child] = []
        self._locks: deque[tuple[str, asyncio.Future[str | None]]] = deque()
        self._inbox: deque[Event] = deque()  # bounded by what was asked for
        self._outbox: deque[link.Message] = deque()
        self._news = asyncio.Event()
        self._trees: dict[str, deadman.Tree] = {}
        self._asked: dict[str, bytes] = {}  # marks of what the keeper did not answer for yet
        self._lock_path: str | None = None
        self._is_stuck = False
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
            processes._raise_if_gone()  # it was, right after its hello
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

        Raises OSError when `path` cannot be opened for writing, and KeeperGone.
        """
        self._raise_if_gone()
        answer: asyncio.Future[str | None] = self._loop.create_future()
        absolute = os.path.abspath(path)
        self._locks.append((absolute, answer))
        self._send({"op": "lock", "path": absolute})
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
        mark = deadman.encode_mark(env.get(MARK))
        if mark is not None:
            self._asked[key] = mark
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
                raise KeeperGone(_GONE)
            self._news.clear()
            await self._news.wait()

    def _raise_if_gone(self) -> None:
        if self._gone or self._closed:
            raise KeeperGone(_GONE if self._gone else "the link was closed")

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
        if self._closed or self._gone:
            return
        while self._outbox:
            try:
                link.send(self._end, self._outbox[0])
            except BlockingIOError:
                self._loop.add_writer(self._end, self._flush)
                return
            except (BrokenPipeError, ConnectionResetError):
                self._outbox.clear()  # the reader meets the end of file
            except OSError as error:
                self._on_stuck(error)
                return
            else:
                self._outbox.popleft()
        self._is_stuck = False
        self._loop.remove_writer(self._end)

    def _on_stuck(self, error: OSError) -> None:
        """Not for the keeper to end: no descriptor or memory is free here."""
        if not self._is_stuck:
            log.error("cannot ask the keeper now, trying again until it works: %s", error.strerror)
        self._is_stuck = True
        self._loop.remove_writer(self._end)
        self._loop.call_later(_SEND_AGAIN_S, self._flush)

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
            except ValueError as error:
                log.error("a message of the keeper is lost: %s", error)  # noqa: TRY400
                continue
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
                self._asked.pop(message["key"], None)
                self._trees[message["key"]] = deadman.watch(message)
                self._put(_started(message, fds))
            case "spawn_failed":
                self._asked.pop(message["key"], None)
                self._put(SpawnFailed(key=message["key"], reason=message["reason"]))
            case "terminate":
                self._put(Terminate(urgent=message["urgent"]))
            case "exited" | "empty":
                self._on_end(message)
            case "locked" | "busy" | "lock_failed":
                self._on_lock(message)
            case link.PING:
                self._send({"op": link.PONG})

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
            self._trees[child.key] = deadman.watch(message)
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
            tree.close()
        self._put(event)

    def _drop_tree(self, key: str) -> None:
        tree = self._trees.pop(key, None)
        if tree is not None:
            tree.close()

    def _on_lock(self, message: link.Message) -> None:
        if not self._locks:
            return  # a brain before us asked
        path, answer = self._locks.popleft()
        if message["op"] == "locked":
            self._lock_path = path
        if answer.done():
            return
        if message["op"] == "lock_failed":
            answer.set_exception(OSError(message["errno"], os.strerror(message["errno"])))
        else:
            answer.set_result(message.get("by"))

    def _on_keeper_gone(self) -> None:
        self._gone = True
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)
        deadman.kill_all(self._trees.values(), set(self._asked.values()), self._lock_path)
        self._settle_hello(KeeperGone("the keeper ended before it said hello"))
        self._fail_waiters("the keeper ended")
        self._news.set()

    def _fail_waiters(self, reason: str) -> None:
        while self._locks:
            _, answer = self._locks.popleft()
            if not answer.done():
                answer.set_exception(KeeperGone(reason))


def _two(fds: Sequence[int]) -> tuple[int, int]:
    """Fewer arrive when this process had no room for more."""
    return (fds[0], fds[1]) if len(fds) >= 2 else (fds[0] if fds else -1, -1)  # noqa: PLR2004


def _started(message: link.Message, fds: Sequence[int]) -> Started:
    stdout, stderr = _two(fds)
    return Started(
        key=message["key"],
        pid=message["pid"],
        stdout_fd=stdout,
        stderr_fd=stderr,
        start_ticks=message["start_ticks"],
    )


def _exited(message: link.Message) -> Exited:
    return Exited(
        key=message["key"],
        code=message["code"],
        signal=message["signal"],
        core_dumped=message["core_dumped"],
        empty=message["empty"],
    )


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
