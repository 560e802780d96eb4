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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from formation_agent import deadman, happenings, link, living
from formation_agent.children import MARK
from formation_agent.happenings import (
    Child,
    Contained,
    Event,
    Exited,
    Reload,
    SpawnFailed,
    SpawnOptions,
    Started,
    Terminate,
    TreeEmpty,
    User,
    describe_exit,
)
from formation_agent.leftovers import kill_leftovers
from formation_agent.living import Living
from formation_agent.programs import Programs, not_found

__all__ = [
    "PROBE",
    "Child",
    "Contained",
    "Event",
    "Exited",
    "KeeperGone",
    "KeeperTooNew",
    "Living",
    "Processes",
    "Reload",
    "SpawnFailed",
    "SpawnOptions",
    "Started",
    "Terminate",
    "TreeEmpty",
    "User",
    "describe_exit",
    "kill_leftovers",
]

# A process whose key begins so belongs to this brain alone and is told of to who asked for it.
PROBE = "probe:"
_HELLO_TIMEOUT_S = 10.0
_MESSAGES_PER_ROUND = 64
_SEND_AGAIN_S = 0.1
_GONE = "the keeper ended; every process that it had was killed"
_TOO_OLD = "the keeper is older than its brain: formation-agent reexec"
_NEEDS_VERSION = 2  # of the keeper, for all but the oldest messages
_LEASE_VERSION = 3
_DEFAULTS = SpawnOptions()

log = logging.getLogger(__name__)


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
        self._version = self._keeper_pid = 0
        self.lease_until_s = 0.0  # as an earlier brain left it
        self._found: list[Child] = []
        self._locks: deque[tuple[str, asyncio.Future[str | None]]] = deque()
        self._contains: deque[asyncio.Future[Contained]] = deque()
        self._contained = ""  # below it are all cgroups of this agent, and no others
        self._probes: dict[str, Callable[[Event], None]] = {}
        self._programs = Programs()
        self._inbox: deque[Event] = deque()  # bounded by what was asked for
        self._outbox: deque[tuple[link.Message, tuple[int, ...]]] = deque()
        self.knows: frozenset[str] = frozenset()  # what the keeper can beyond its version
        self._news = asyncio.Event()
        self._agent = ""
        self._trees: dict[str, deadman.Tree] = {}
        self._asked: dict[str, bytes] = {}  # marks of what the keeper did not answer for yet
        self._lock_path: str | None = None
        self._is_stuck = False
        self._waits_for_room = False
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
            async with asyncio.timeout(_HELLO_TIMEOUT_S):
                await processes._hello
            processes._raise_if_gone()  # it was, right after its hello
        except BaseException:
            processes.close()
            raise
        return processes

    @property
    def children(self) -> tuple[Child, ...]:
        """As of the connection, without an earlier brain's probes, which are ended."""
        return tuple(child for child in self._found if not child.key.startswith(PROBE))

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

    async def contain(self, name: str, *, new_privileges: bool = True) -> Contained:
        """From here on every tree gets a cgroup, where this is possible; what an earlier agent of
        this name left in cgroups is killed. Without `new_privileges` nothing that is started gains
        any, for as long as the keeper lives. Raises KeeperGone.
        """
        self._raise_if_gone()
        self._agent = name
        if self._version < _NEEDS_VERSION:
            return Contained(path="", controllers=(), problem=_TOO_OLD)
        answer: asyncio.Future[Contained] = self._loop.create_future()
        self._contains.append(answer)
        self._send({"op": "contain", "name": name, "new_privileges": new_privileges})
        return await answer

    def spawn(
        self,
        key: str,
        *,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        options: SpawnOptions = _DEFAULTS,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """Answered by `Started` or `SpawnFailed`. `argv[0]` is looked up in the child's PATH.

        What happens to a key that begins with `PROBE` is told to `on_event`, never before this
        returns, and not in `events`; it is forgotten by itself.
        """
        assert key.startswith(PROBE) == (on_event is not None)
        if on_event is not None:
            self._probes[key] = on_event
        file = self._programs.find(argv[0], env, cwd)
        if file is None:
            link.held(options.streams).close()
            failed = SpawnFailed(key=key, reason=not_found(argv[0], cwd))
            if on_event is None:
                self._put(failed)
            else:
                self._loop.call_soon(self._put, failed)
            return
        mark = deadman.encode_mark(env.get(MARK))
        if mark is not None:
            self._asked[key] = mark
        start = {"op": "spawn", "key": key, "file": file, "argv": list(argv), "env": dict(env)}
        self._send({**start, "cwd": cwd, **options.fields()}, options.streams)

    def signal(self, key: str, signum: int, *, whole_group: bool = True) -> None:
        """To everything of the tree that is still there, or to the main process alone."""
        self._send({"op": "signal", "key": key, "signum": signum, "whole_group": whole_group})

    def forget(self, key: str) -> None:
        """The exit was taken over: no later brain needs to hear of it.

        A tree that is not empty yet stays watched, and `TreeEmpty` still comes.
        """
        self._send({"op": "forget", "key": key})

    def living(self, key: str) -> tuple[Living, ...]:
        """What of a tree still lives, as far as it can be seen. Reads a few files per process."""
        tree = self._trees.get(key)
        if tree is None:
            return ()
        mains = {other.pid for other in self._trees.values() if other.is_led}
        return living.of_tree(tree, self._keeper_pid, mains - {tree.pid})

    def ready(self, status: str) -> None:
        """This brain is up; `status` is one line for who looks at the agent's service."""
        self._send_if_known({"op": "ready", "status": status})

    def status(self, text: str) -> None:
        """One line for who looks at the agent's service."""
        self._send_if_known({"op": "status", "text": text})

    def again(self) -> None:
        """This brain ends because of `Reload`: the agent goes on, with the next brain."""
        self._send_if_known({"op": "again"})

    def lease(self, until_s: float) -> None:
        """Exclusive trees may live until then, and their grace, in CLOCK_BOOTTIME."""
        if self._version >= _LEASE_VERSION:
            self._send({"op": "lease", "until_s": until_s})

    def _send_if_known(self, message: link.Message) -> None:
        if self._version >= _NEEDS_VERSION:
            self._send(message)

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
        self._drop_outbox()
        for key in list(self._trees):
            self._drop_tree(key)
        self._fail_waiters("the link was closed")
        self._news.set()

    # --- sending --------------------------------------------------------------------------------

    def _send(self, message: link.Message, fds: tuple[int, ...] = ()) -> None:
        """`fds` are ours until they are sent, and then nobody's here."""
        if self._closed or self._gone:
            link.held(fds).close()
            return
        self._outbox.append((message, fds))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        if self._closed or self._gone:
            return
        while self._outbox:
            try:
                link.send(self._end, *self._outbox[0])
            except BlockingIOError:
                self._loop.add_writer(self._end, self._flush)
                self._waits_for_room = True
                return
            except (BrokenPipeError, ConnectionResetError):
                self._drop_outbox()  # the reader meets the end of file
            except OSError as error:
                self._on_stuck(error)
                return
            else:
                link.held(self._outbox.popleft()[1]).close()
        self._is_stuck = False
        if self._waits_for_room:  # asking the loop costs more than sending
            self._waits_for_room = False
            self._loop.remove_writer(self._end)

    def _drop_outbox(self) -> None:
        while self._outbox:
            link.held(self._outbox.popleft()[1]).close()

    def _on_stuck(self, error: OSError) -> None:
        """Not for the keeper to end: no descriptor or memory is free here."""
        if not self._is_stuck:
            log.error("cannot ask the keeper now, trying again until it works: %s", error.strerror)
        self._is_stuck = True
        self._loop.remove_writer(self._end)
        self._loop.call_later(_SEND_AGAIN_S, self._flush)

    # --- receiving ------------------------------------------------------------------------------

    def _put(self, event: Event) -> None:
        on_event = None if isinstance(event, Terminate | Reload) else self._probes.get(event.key)
        if on_event is None:
            self._inbox.append(event)
            self._news.set()
            return
        if isinstance(event, Exited):
            self.forget(event.key)
        if isinstance(event, SpawnFailed | TreeEmpty) or (
            isinstance(event, Exited) and event.empty
        ):
            del self._probes[event.key]
        try:
            on_event(event)
        except Exception:
            log.exception("an error while a probe was told of %s", type(event).__name__)

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
                self._trees[message["key"]] = deadman.watch(message, fds)
                self._put(happenings.started(message, fds))
            case "spawn_failed":
                self._asked.pop(message["key"], None)
                self._put(SpawnFailed(key=message["key"], reason=message["reason"]))
            case "terminate":
                self._put(Terminate(urgent=message["urgent"], drain=message.get("drain", False)))
            case "reload":
                self._put(Reload())
            case "exited" | "empty":
                self._on_end(message)
            case "locked" | "busy" | "lock_failed" | "contained":
                self._on_answer(message)
            case link.PING:
                self._send({"op": link.PONG})

    def _on_hello(self, message: link.Message) -> None:
        if message["version"] > link.VERSION:
            reason = (
                f"the running keeper (process {message['pid']}) speaks protocol "
                f"{message['version']}, this agent only {link.VERSION}: restart formation-agent"
            )
            self._settle_hello(KeeperTooNew(reason))
        self._version, self._keeper_pid = message["version"], message["pid"]
        self.knows = frozenset(message.get("knows", ()))
        self.lease_until_s = message.get("lease_until_s", 0.0)
        self._expected = message["children"]
        self._settle_hello_if_complete()

    def _on_child(self, message: link.Message, fds: list[int]) -> None:
        tree = deadman.watch(message, fds)
        child = happenings.child(message, fds)
        if not child.empty:
            self._trees[child.key] = tree
        self._found.append(child)
        if child.key.startswith(PROBE):
            self._end_old_probe(child)
        self._settle_hello_if_complete()

    def _end_old_probe(self, child: Child) -> None:
        """Who asked for it is gone."""
        for fd in (child.stdout_fd, child.stderr_fd, child.notify_fd):
            if fd >= 0:
                os.close(fd)
        if not child.empty:
            self._probes[child.key] = lambda _event: None
            self.signal(child.key, signal.SIGKILL)
        self.forget(child.key)

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
        event = happenings.exited(message)
        if event.empty:
            self._drop_tree(key)
        elif (tree := self._trees.get(key)) is not None:
            tree.close()
        self._put(event)

    def _drop_tree(self, key: str) -> None:
        tree = self._trees.pop(key, None)
        if tree is not None:
            tree.close()

    def _on_answer(self, message: link.Message) -> None:
        if message["op"] == "contained":
            self._on_contained(message)
        else:
            self._on_lock(message)

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

    def _on_contained(self, message: link.Message) -> None:
        self._contained = message["path"]
        controllers = tuple(message["controllers"])
        if not self._contains:
            return  # a brain before us asked
        answer = self._contains.popleft()
        if not answer.done():
            problem = message["problem"]
            answer.set_result(
                Contained(path=self._contained, controllers=controllers, problem=problem)
            )

    def _on_keeper_gone(self) -> None:
        self._gone = True
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)
        asked = set(self._asked.values())
        deadman.kill_all(
            self._trees.values(),
            asked,
            self._lock_path,
            contained=self._contained,
            agent=self._agent,
        )
        self._settle_hello(KeeperGone("the keeper ended before it said hello"))
        self._fail_waiters("the keeper ended")
        self._news.set()

    def _fail_waiters(self, reason: str) -> None:
        while self._locks:
            _fail(self._locks.popleft()[1], reason)
        while self._contains:
            _fail(self._contains.popleft(), reason)


def _fail(answer: asyncio.Future[Any], reason: str) -> None:
    if not answer.done():
        answer.set_exception(KeeperGone(reason))
