"""The keeper: parent of every child, and of the brain that says which children there shall be.

It starts, signals, reaps and remembers; it decides nothing about instances. It stays small and
single-threaded (standard library, no asyncio, no threads), because spawning from it must be safe
and because it must outlive the brain. The brain may die at any time: children run on, their pipes
stay open here and their exits are kept until a brain says `forget`.

This module is the loop, the brain's life and the end; the children are in `children`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import sys
import time
from collections import deque

from formation_agent import link
from formation_agent.children import Child, Children
from formation_agent.spawn import Spawner

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

_PR_SET_CHILD_SUBREAPER = 36
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.1, 5.0
_BRAIN_PROVED_S = 3.0
_REFUSALS = (2, 78)  # exit codes that say: bad configuration
_CLOSED_LINK_S = 5.0  # a brain without a link is of no use
_BRAIN_DEATHS_WHILE_ENDING_MAX = 3
_GRACE_S = 30.0
_AFTER_KILL_S = 10.0
_TERMINATIONS_MAX = 3
_MESSAGES_PER_ROUND = 32


class Brain:
    """The brain's process and our end of its link; messages wait here while it is behind.

    What can wait is bounded by what it asked for: a few messages per child.
    """

    def __init__(self, command: Sequence[str], spawner: Spawner, poll: select.epoll) -> None:
        self._command = command
        self._spawner = spawner
        self._poll = poll
        self._waiting: deque[tuple[link.Message, Child | None]] = deque()
        self._deaths = 0
        self._started_at_s = 0.0
        self.end: socket.socket | None = None
        self.pid = 0
        self.finished = False

    def start(self) -> None:
        ours, theirs = link.pair()
        env = {**os.environb, link.KEEPER_FD_VARIABLE.encode(): b"%d" % link.KEEPER_FD}
        try:
            fd = theirs.fileno()
            self.pid = self._spawner.program(self._command, env, fd, link.KEEPER_FD)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._started_at_s = time.monotonic()
        self.end = ours
        self._poll.register(ours, select.EPOLLIN)

    def died(self) -> float:
        """Forgets the dead one; returns after how many seconds the next may start."""
        self.pid = 0
        self.close_link()
        if time.monotonic() - self._started_at_s >= _BRAIN_PROVED_S:
            self._deaths = 0
        self._deaths += 1
        if self._deaths == 1:
            return 0.0
        return float(min(_BACKOFF_FIRST_S * 2 ** min(self._deaths - 2, 16), _BACKOFF_MAX_S))

    def close_link(self) -> None:
        self._waiting.clear()
        if self.end is not None:
            self._poll.unregister(self.end)
            self.end.close()
            self.end = None

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)  # ours and not yet reaped

    def send(self, message: link.Message, child: Child | None = None) -> None:
        """With `child`, the read ends of its pipes go along."""
        if self.end is None:
            return  # the next brain hears of it in its hello
        self._waiting.append((message, child))
        if len(self._waiting) == 1:
            self.flush()

    def flush(self) -> None:
        while self._waiting and self.end is not None:
            message, child = self._waiting[0]
            try:
                link.send(self.end, message, child.pipes() if child is not None else ())
            except BlockingIOError:
                self._poll.modify(self.end, select.EPOLLIN | select.EPOLLOUT)
                return
            except (BrokenPipeError, ConnectionResetError):
                self._waiting.clear()
                return
            self._waiting.popleft()
        if self.end is not None:
            self._poll.modify(self.end, select.EPOLLIN)


class Keeper:
    def __init__(self, brain_command: Sequence[str]) -> None:
        self._spawner = Spawner()
        self._poll = select.epoll()
        self._brain = Brain(brain_command, self._spawner, self._poll)
        self._children = Children(self._spawner)
        self._locks: dict[str, int] = {}
        self._signals = _Signals()
        self._poll.register(self._signals.fd, select.EPOLLIN)
        self._terminations = 0
        self._deaths_while_ending = 0
        # What shall happen when, on the monotonic clock.
        self._timers: dict[Callable[[], None], float] = {}
        self._exit_code: int | None = None  # set: no brain any more, ends when every tree is empty
        self._over = False

    def run(self) -> int:
        self._start_brain()
        while not self._over:
            a_child_ended = False
            for fd, events in self._poll.poll(self._timeout_s()):
                if self._brain.end is not None and fd == self._brain.end.fileno():
                    self._on_link(events)
                elif fd != self._signals.fd:
                    a_child_ended = True  # its pidfd says so
            if self._signals.drain() or a_child_ended:
                self._reap()
            self._on_terminations()
            self._on_timers()
            if self._exit_code is not None and not self._children.living:
                self._over = True
        assert self._exit_code is not None
        return self._exit_code

    # --- timers ---------------------------------------------------------------------------------

    def _after(self, delay_s: float, call: Callable[[], None]) -> None:
        self._timers[call] = time.monotonic() + delay_s

    def _timeout_s(self) -> float:
        if not self._timers:
            return -1
        return max(0.0, min(self._timers.values()) - time.monotonic())

    def _on_timers(self) -> None:
        now_s = time.monotonic()
        for call in [call for call, at_s in self._timers.items() if at_s <= now_s]:
            self._timers.pop(call, None)
            call()

    # --- the brain ------------------------------------------------------------------------------

    def _start_brain(self) -> None:
        try:
            self._brain.start()
        except OSError as error:
            _say(f"cannot start the brain: {error.strerror}")
            self._on_brain_death(None)
            return
        self._brain.send(
            {
                "op": "hello",
                "version": link.VERSION,
                "pid": os.getpid(),
                "children": len(self._children),
            }
        )
        for child in self._children:
            self._brain.send(child.described("child"), child)
        if self._terminations:
            self._brain.send({"op": "terminate", "urgent": self._terminations > 1})

    def _on_brain_death(self, info: os.waitid_result | None) -> None:
        self._timers.pop(self._brain.kill, None)
        delay_s = self._brain.died()
        if self._exit_code is not None:
            return
        code = info.si_status if info is not None and info.si_code == os.CLD_EXITED else None
        if self._brain.finished or code == 0:
            self._end(0, signal.SIGKILL)
        elif code in _REFUSALS and not self._children.living:
            self._end(code, signal.SIGKILL)
        elif self._terminations and not self._children.living:
            self._end(1, signal.SIGKILL)
        else:
            self._on_brain_crash(info, delay_s)

    def _on_brain_crash(self, info: os.waitid_result | None, delay_s: float) -> None:
        if self._terminations:
            self._deaths_while_ending += 1
        if self._deaths_while_ending >= _BRAIN_DEATHS_WHILE_ENDING_MAX:
            _say(f"no brain stays alive to stop the children: stopping all within {_GRACE_S:g} s")
            self._end(1, signal.SIGTERM)
            return
        if info is not None:
            _say(f"the brain ended ({_how(info)}); starting it again in {delay_s:g} s")
        self._after(delay_s, self._start_brain)

    def _on_link(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._brain.flush()
        for _ in range(_MESSAGES_PER_ROUND):  # so that a flood of them delays no exit for long
            if not self._hear():
                return

    def _hear(self) -> bool:
        """Obeys one message; False when there is none."""
        if self._brain.end is None:
            return False
        try:
            received = link.receive(self._brain.end)
        except BlockingIOError:
            return False
        except ValueError as error:
            _say(f"dropped a message of the brain that cannot be read: {error}")
            return True
        if received is None:
            self._brain.close_link()
            self._after(_CLOSED_LINK_S, self._brain.kill)
            return False
        self._on_message(received[0])
        return True

    def _hear_last_words(self) -> None:
        """What it sent before it died may still be in the socket."""
        while self._hear():
            pass

    def _on_message(self, message: link.Message) -> None:
        try:
            match message["op"]:
                case "spawn":
                    self._spawn(message)
                case "signal":
                    self._signal(
                        message["key"], message["signum"], whole_group=message["whole_group"]
                    )
                case "forget":
                    self._children.forget(message["key"])
                case "lock":
                    self._lock(message["path"])
                case "bye":
                    self._brain.finished = True
                case unknown:
                    _say(f"a newer brain asks for {unknown!r}, which this keeper does not know")
        except (KeyError, TypeError, ValueError, OSError) as error:
            _say(f"dropped a message of the brain: {error!r}")

    # --- what the brain asks for ----------------------------------------------------------------

    def _spawn(self, message: link.Message) -> None:
        key, env = message["key"], message["env"]
        new = self._children.spawn(key, message["file"], message["argv"], env, message["cwd"])
        if isinstance(new, Child):
            self._poll.register(new.pidfd, select.EPOLLIN)
            self._brain.send(new.described("started"), new)
        else:
            self._brain.send({"op": "spawn_failed", "key": key, "reason": new})

    def _signal(self, key: str, signum: int, *, whole_group: bool) -> None:
        try:
            self._children.signal(key, signum, whole_group=whole_group)
        except OSError as error:
            _say(f"cannot send signal {signum} to {key}: {error.strerror}")

    def _lock(self, path: str) -> None:
        """Held by the keeper until it ends, whatever happens to brains."""
        if path in self._locks:
            self._brain.send({"op": "locked"})
            return
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._brain.send({"op": "lock_failed", "errno": error.errno})
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            by = os.pread(fd, 200, 0).decode("utf-8", "replace").strip()
            os.close(fd)
            if isinstance(error, BlockingIOError):
                self._brain.send({"op": "busy", "by": by or "another process"})
            else:
                self._brain.send({"op": "lock_failed", "errno": error.errno})
            return
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()}\n".encode(), 0)
        self._locks[path] = fd
        self._brain.send({"op": "locked"})

    def _reap(self) -> None:
        infos = list(_exits())
        for message in self._children.reaped(infos):
            self._brain.send(message)
        for info in infos:
            if info.si_pid == self._brain.pid:
                self._hear_last_words()
                self._on_brain_death(info)

    # --- the end --------------------------------------------------------------------------------

    def _on_terminations(self) -> None:
        while self._terminations < self._signals.terminations:
            self._terminations += 1
            if self._terminations >= _TERMINATIONS_MAX:
                _say("asked for the third time: killing everything")
                self._end(128 + self._signals.last, signal.SIGKILL)
            else:
                self._brain.send({"op": "terminate", "urgent": self._terminations > 1})

    def _end(self, code: int, signum: signal.Signals) -> None:
        """From here on no brain is started; over when every tree is empty."""
        self._exit_code = code
        self._timers.clear()
        self._brain.kill()
        for key in [child.key for child in self._children]:
            self._signal(key, signum, whole_group=True)
        if signum == signal.SIGKILL:
            self._after(_AFTER_KILL_S, self._give_up)
        else:
            self._after(_GRACE_S, self._kill_all)

    def _kill_all(self) -> None:
        assert self._exit_code is not None
        self._end(self._exit_code, signal.SIGKILL)

    def _give_up(self) -> None:
        left = [str(child.pid) for child in self._children if not child.empty]
        _say(f"cannot be killed: {', '.join(left)}")
        self._over = True


class _Signals:
    """Wakes the loop; counts the requests to end, so that none is lost however they pile up."""

    def __init__(self) -> None:
        self.terminations = 0
        self.last = 0
        self.fd, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._terminate)

    def _terminate(self, number: int, _frame: object) -> None:
        self.terminations += 1
        self.last = number

    def drain(self) -> bool:
        """Whether any signal came."""
        try:
            return bool(os.read(self.fd, 1 << 16))
        except BlockingIOError:
            return False


def _exits() -> Iterator[os.waitid_result]:
    """Reaps whatever has ended: the brain, children, and orphans that were handed to us."""
    while True:
        try:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return
        if info is None:
            return
        yield info


def _how(info: os.waitid_result) -> str:
    if info.si_code == os.CLD_EXITED:
        return f"exit {info.si_status}"
    return f"signal {signal.Signals(info.si_status).name.removeprefix('SIG')}"


def _say(text: str) -> None:
    try:
        os.write(2, f"formation-agent[{os.getpid()}] {text}\n".encode("utf-8", "replace"))
    except OSError:
        return  # nobody listens


def _become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        _say("cannot become sub-reaper: processes that leave their group will not be found")


def run(brain_command: Sequence[str]) -> int:
    """Keeps children for the brain that this command starts; returns the exit code."""
    _become_subreaper()
    return Keeper(brain_command).run()


def main(brain_argv: list[str]) -> int:
    # -P: a module of the user's in the working directory must not be taken for one of the brain's.
    return run([sys.executable, "-P", "-m", "formation_agent.brain", *brain_argv])
