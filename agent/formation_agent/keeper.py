"""The keeper: parent of every child, and of the brain that says which children there shall be.

It starts, signals, reaps and remembers; it decides nothing about instances. It stays small and
single-threaded (standard library, no asyncio, no threads), because spawning from it must be safe
and because it must outlive the brain. The brain may die at any time: children run on, their pipes
stay open here and their exits are kept until a brain says `forget`.

This module is the loop and the end; the brain's process is in `brainprocess`, the children are
in `children`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import select
import signal
import sys
import time

from formation_agent import link
from formation_agent.brainprocess import Brain, how_it_ended, say
from formation_agent.children import Child, Children
from formation_agent.spawn import Spawner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_PR_SET_CHILD_SUBREAPER = 36
_REFUSALS = (2, 78)  # exit codes that say: bad configuration
_CLOSED_LINK_S = 5.0  # a brain without a link is of no use
_BRAIN_DEATHS_WHILE_ENDING_MAX = 3
_GRACE_S = 30.0
_AFTER_KILL_S = 10.0
_TERMINATIONS_MAX = 3
_MESSAGES_PER_ROUND = 32
_SILENCE_S = 10.0  # of a brain that shall end and does not answer: it hangs
_PINGS_PER_SILENCE = 4
_AFTER_ERROR_S = 0.1
_LOOK_AGAIN_S = 0.5
_LOCK_AGAIN_S, _LOCK_TRIES = 0.1, 50  # while who is named in it is gone already


class Keeper:
    def __init__(self, brain_command: Sequence[str], *, silence_s: float = _SILENCE_S) -> None:
        self._silence_s = silence_s
        spawner = Spawner()  # first, so that nothing else takes a standard descriptor's place
        self._poll = select.epoll()
        self._brain = Brain(brain_command, spawner, self._poll, self._after)
        self._children = Children(spawner)
        self._reap_is_due = False
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
            try:
                self._round()
            except Exception as error:  # noqa: BLE001  the children must not die over our mistake
                say(f"an error of the keeper, which goes on: {error!r}")
                self._reap_is_due = True
                time.sleep(_AFTER_ERROR_S)
        assert self._exit_code is not None
        return self._exit_code

    def _round(self) -> None:
        for fd, events in self._poll.poll(self._timeout_s()):
            if self._brain.end is not None and fd == self._brain.end.fileno():
                self._on_link(events)
            elif fd != self._signals.fd:
                self._reap_is_due = True  # a pidfd says that a child ended
        if self._signals.drain() or self._reap_is_due:
            self._reap()
        self._on_terminations()
        self._on_timers()
        if self._exit_code is not None and not self._children.living:
            self._over = True

    # --- timers ---------------------------------------------------------------------------------

    def _after(self, delay_s: float, call: Callable[[], None]) -> None:
        self._timers[call] = time.monotonic() + delay_s

    def _timeout_s(self) -> float:
        if self._reap_is_due:
            return 0
        if not self._timers:
            return -1
        return max(0.0, min(self._timers.values()) - time.monotonic())

    def _on_timers(self) -> None:
        now_s = time.monotonic()
        for call in [call for call, at_s in self._timers.items() if at_s <= now_s]:
            if self._timers.pop(call, None) is not None:  # none before it has called it off
                call()

    # --- the brain ------------------------------------------------------------------------------

    def _start_brain(self) -> None:
        try:
            self._brain.start()
        except OSError as error:
            say(f"cannot start the brain: {error.strerror}")
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
            self._terminate_brain()

    def _terminate_brain(self) -> None:
        self._brain.send({"op": "terminate", "urgent": self._terminations > 1})
        if self._exit_code is None and self._watch_brain not in self._timers:
            self._brain.heard_at_s = time.monotonic()
            self._watch_brain()

    def _watch_brain(self) -> None:
        """It shall end. One that hangs cannot stop the children, so this is then done here."""
        if not self._brain.pid:
            return  # watched again when it was started
        if time.monotonic() - self._brain.heard_at_s >= self._silence_s:
            say(
                f"the brain has not answered for {self._silence_s:g} s: "
                f"stopping all within {_GRACE_S:g} s without it"
            )
            self._end(1, signal.SIGTERM)
            return
        self._brain.send({"op": link.PING})
        self._after(self._silence_s / _PINGS_PER_SILENCE, self._watch_brain)

    def _on_brain_death(self, info: os.waitid_result | None) -> None:
        self._timers.pop(self._brain.kill, None)
        self._timers.pop(self._watch_brain, None)
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
            say(f"no brain stays alive to stop the children: stopping all within {_GRACE_S:g} s")
            self._end(1, signal.SIGTERM)
            return
        self._after(delay_s, self._start_brain)
        if info is not None:
            say(f"the brain ended ({how_it_ended(info)}); starting it again in {delay_s:g} s")

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
        except link.Lost as lost:
            self._refuse(lost.head, lost)
            return True
        except ValueError as error:
            say(f"dropped a message of the brain that cannot be read: {error}")
            return True
        if received is None:
            self._brain.close_link()
            self._after(_CLOSED_LINK_S, self._brain.kill)
            return False
        self._brain.heard_at_s = time.monotonic()
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
                case link.PONG:
                    pass
                case unknown:
                    say(f"a newer brain asks for {unknown!r}, which this keeper does not know")
        except Exception as error:  # noqa: BLE001  whatever it is, the brain must not wait for ever
            self._refuse(message, error)

    def _refuse(self, message: link.Message, error: Exception) -> None:
        say(f"dropped a message of the brain: {error!r}")
        if message.get("op") == "lock":
            number = getattr(error, "errno", None) or errno.EINVAL
            self._brain.send({"op": "lock_failed", "errno": number})
        elif message.get("op") == "spawn" and "key" in message:
            failed = {"op": "spawn_failed", "key": message["key"]}
            self._brain.send({**failed, "reason": f"the keeper cannot start it: {error}"})

    # --- what the brain asks for ----------------------------------------------------------------

    def _spawn(self, message: link.Message) -> None:
        key, env = message["key"], message["env"]
        new = self._children.spawn(key, message["file"], message["argv"], env, message["cwd"])
        if isinstance(new, Child):
            self._watch(new)
            self._brain.send(new.described("started"), new)
        else:
            self._brain.send({"op": "spawn_failed", "key": key, "reason": new})

    def _watch(self, child: Child) -> None:
        try:
            # Once: while a tracer keeps a dead one from us, it is readable and cannot be reaped.
            self._poll.register(child.pidfd, select.EPOLLIN | select.EPOLLET)
        except OSError:
            return  # SIGCHLD tells of its end as well

    def _signal(self, key: str, signum: int, *, whole_group: bool) -> None:
        try:
            self._children.signal(key, signum, whole_group=whole_group)
        except OSError as error:
            say(f"cannot send signal {signum} to {key}: {error.strerror}")

    def _lock(self, path: str, tries: int = _LOCK_TRIES) -> None:
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
        except BlockingIOError:
            self._on_busy(path, _holder(fd), tries)
            os.close(fd)
            return
        except OSError as error:
            os.close(fd)
            self._brain.send({"op": "lock_failed", "errno": error.errno})
            return
        self._locks[path] = fd
        _sign(fd)
        self._brain.send({"op": "locked"})

    def _on_busy(self, path: str, by: str, tries: int) -> None:
        """The brain of a killed keeper holds the lock for a moment, to kill what was left."""
        if tries > 1 and _is_gone(by):
            self._after(_LOCK_AGAIN_S, functools.partial(self._lock, path, tries - 1))
        else:
            self._brain.send({"op": "busy", "by": by or "another process"})

    def _reap(self) -> None:
        self._reap_is_due = False
        infos = list(_exits())
        try:
            for message in self._children.reaped(infos):
                self._brain.send(message)
        finally:
            for info in infos:
                if info.si_pid == self._brain.pid:
                    self._hear_last_words()
                    self._on_brain_death(info)
        if self._children.unseen:
            self._after(_LOOK_AGAIN_S, self._reap)

    # --- the end --------------------------------------------------------------------------------

    def _on_terminations(self) -> None:
        while self._terminations < self._signals.terminations:
            self._terminations += 1
            if self._terminations >= _TERMINATIONS_MAX:
                say("asked for the third time: killing everything")
                self._end(128 + self._signals.last, signal.SIGKILL)
            else:
                self._terminate_brain()

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
        say(f"cannot be killed: {', '.join(left)}")
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


def _holder(lock: int) -> str:
    try:
        return os.pread(lock, 200, 0).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _sign(lock: int) -> None:
    """For people, and for `_is_gone`; the lock holds without it, on a full disk too."""
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()}\n".encode(), 0)
    except OSError:
        return


def _is_gone(holder: str) -> bool:
    pid = holder.removeprefix("process ")
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except (PermissionError, ValueError):
        return False
    return False


def _become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        say("cannot become sub-reaper: processes that leave their group will not be found")


def run(brain_command: Sequence[str], *, silence_s: float = _SILENCE_S) -> int:
    """Keeps children for the brain that this command starts; returns the exit code."""
    _become_subreaper()
    return Keeper(brain_command, silence_s=silence_s).run()


def main(brain_argv: list[str]) -> int:
    # -P: a module of the user's in the working directory must not be taken for one of the brain's.
    return run([sys.executable, "-P", "-m", "formation_agent.brain", *brain_argv])
