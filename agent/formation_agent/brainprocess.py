"""The brain as the keeper sees it: a process, our end of its link, and what waits to be sent.

Used by the keeper alone; standard library only. It decides nothing about children, and nothing
that goes wrong with the link may hold the keeper up.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections import deque

from formation_agent import link

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from formation_agent.children import Child
    from formation_agent.spawn import Spawner

_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.1, 5.0
_BRAIN_PROVED_S = 3.0
_SEND_AGAIN_S = 0.1
# Priorities of a line, for systemd's journal.
WARNING, NOTICE = 4, 5
# What a pipe that has room at all takes without blocking.
_SAID_BYTES_MAX = 4096


class Brain:
    """The brain's process and our end of its link.

    Messages wait here for the end of a round of the loop, and longer while it is behind: a burst
    of starts wakes it once in a while and not for each. What can wait is bounded by what it asked
    for: a few messages per child. `later` calls something after some seconds.
    """

    def __init__(
        self,
        command: Sequence[str],
        spawner: Spawner,
        poll: select.epoll,
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._command = command
        self._spawner = spawner
        self._poll = poll
        self._later = later
        self._waiting: deque[tuple[link.Message, Child | None]] = deque()
        self._waits_since_s = 0.0
        self._awaits_room = False
        self._is_stuck = False
        self._deaths = 0
        self._started_at_s = 0.0
        self.heard_at_s = 0.0
        self.end: socket.socket | None = None
        self.pid = 0
        self.finished = False
        self.shall_go = False  # told to, or it said so itself: its exit 0 is not the end

    def start(self) -> None:
        ours, theirs = link.pair()
        env = {**os.environb, link.KEEPER_FD_VARIABLE.encode(): b"%d" % link.KEEPER_FD}
        try:
            self._poll.register(ours, select.EPOLLIN)
            fd = theirs.fileno()
            self.pid = self._spawner.program(self._command, env, fd, link.KEEPER_FD)
        except OSError:
            ours.close()  # and is watched no more
            raise
        finally:
            theirs.close()
        self._started_at_s = self.heard_at_s = time.monotonic()
        self.end = ours
        self.shall_go = False

    def reload(self) -> None:
        """It ends soon, and stops nothing."""
        self.shall_go = True
        self.send({"op": "reload"})

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
        self._awaits_room = self._is_stuck = False
        if self.end is not None:
            self._poll.unregister(self.end)
            self.end.close()
            self.end = None

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)  # ours and not yet reaped

    def send(self, message: link.Message, child: Child | None = None) -> None:
        """With `child`, a pidfd of it and the read ends of its pipes go along."""
        if self.end is None:
            return  # the next brain hears of it in its hello
        if not self._waiting:
            self._waits_since_s = time.monotonic()
        self._waiting.append((message, child))

    @property
    def is_owed(self) -> bool:
        """Something waits to be sent."""
        return bool(self._waiting)

    @property
    def oldest_waits_s(self) -> float:
        return time.monotonic() - self._waits_since_s if self._waiting else 0.0

    def flush(self) -> None:
        """Sends what waits; called at the end of the loop's rounds."""
        while self._waiting and self.end is not None:
            message, child = self._waiting[0]
            try:
                _send(self.end, message, child)
            except BlockingIOError:
                self._await_room(self.end, awaits=True)
                return
            except (BrokenPipeError, ConnectionResetError):
                self._waiting.clear()
                return
            except OSError as error:
                self._on_stuck(self.end, error)
                return
            self._waiting.popleft()
        self._is_stuck = False
        if self.end is not None:
            self._await_room(self.end, awaits=False)

    def _await_room(self, end: socket.socket, *, awaits: bool) -> None:
        if awaits != self._awaits_room:
            self._awaits_room = awaits
            self._poll.modify(end, select.EPOLLIN | (select.EPOLLOUT if awaits else 0))

    def _on_stuck(self, end: socket.socket, error: OSError) -> None:
        """Not for the brain to end: no descriptor or memory is free, or too many are under way."""
        if not self._is_stuck:
            say(f"cannot tell the brain now, trying again until it works: {error.strerror}")
        self._is_stuck = True
        self._await_room(end, awaits=False)
        self._later(_SEND_AGAIN_S, self.flush)


def _send(end: socket.socket, message: link.Message, child: Child | None) -> None:
    if child is None:
        link.send(end, message)
        return
    pidfd = child.open_pidfd()
    try:
        if pidfd < 0:
            link.send(end, message, child.pipes())
        else:
            link.send(end, {**message, "pidfd": True}, (pidfd, *child.pipes()))
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def brain_program() -> list[str]:
    """What starts it, before its own words."""
    # -P: a module of the user's in the working directory must not be taken for one of the brain's.
    python = [sys.executable, "-P"]
    archive = getattr(getattr(sys.modules["__main__"], "__loader__", None), "archive", "")
    if archive:  # all of us is one file, which finds its modules itself
        python.append(archive)
    return [*python, "-m", "formation_agent.brain"]


def how_it_ended(info: os.waitid_result) -> str:
    if info.si_code == os.CLD_EXITED:
        return f"exit {info.si_status}"
    try:
        return f"signal {signal.Signals(info.si_status).name.removeprefix('SIG')}"
    except ValueError:  # real-time signals have numbers only
        return f"signal {info.si_status}"


def say(text: str, level: int = WARNING) -> None:
    """Drops it when nobody reads what we write: a stopped terminal must not stop the keeper."""
    start = f"<{level}>" if _is_journal() else f"formation-agent[{os.getpid()}] "
    line = f"{start}{text}\n".encode("utf-8", "replace")
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    try:
        if any(events & select.POLLOUT for _, events in poll.poll(0)):
            os.write(2, line[:_SAID_BYTES_MAX])
    except OSError:
        return  # nobody listens


def _is_journal() -> bool:
    """stderr is systemd's journal: it knows when and who, and wants to know how important."""
    try:
        seen = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{seen.st_dev}:{seen.st_ino}"
