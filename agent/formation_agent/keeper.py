"""The keeper: parent of every child, and of the brain that says which children there shall be.

It starts, signals, reaps and remembers; it decides nothing about instances. It stays small and
single-threaded (standard library, no asyncio, no threads), because spawning from it must be safe
and because it must outlive the brain. The brain may die at any time: children run on, their pipes
stay open here and their exits are kept until a brain says `forget`.

This module is the loop and the end; the brain's process is in `brainprocess`, the children are
in `children`, the way to the next program in this process is in `reexecution`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import gc
import os
import select
import signal
import time

from formation_agent import link, privileges, procfs, takeover
from formation_agent.brainprocess import Brain, brain_program, how_it_ended, say
from formation_agent.children import Child, Children
from formation_agent.fences import Fences
from formation_agent.locks import Busy, Locks
from formation_agent.reexecution import Reexecution, Rooms
from formation_agent.spawn import Spawner
from formation_agent.systemd import Manager
from formation_agent.timers import Timers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_PR_SET_CHILD_SUBREAPER = 36
_REFUSALS = (2, 78)  # exit codes that say: bad configuration
_CLOSED_LINK_S = 5.0  # a brain without a link is of no use
_BRAIN_DEATHS_WHILE_ENDING_MAX = 3
_AFTER_DEATH_WHILE_ENDING_S = 0.5
_GRACE_S = 30.0
_AFTER_KILL_S = 10.0
_TERMINATIONS_MAX = 3
_MESSAGES_PER_ROUND = 32
_GATHER_S = 0.1  # in a burst of starts the brain hears of them together: first they shall run
_SILENCE_S = 10.0  # of a brain that shall end and does not answer: it hangs
_PINGS_PER_SILENCE = 4
_AFTER_ERROR_S = 0.1
_LOOK_AGAIN_S, _LOOK_SOON_S = 0.5, 0.01
_LOCK_AGAIN_S, _LOCK_TRIES = 0.1, 50  # while who is named in it is gone already


class Keeper:
    """`state`: what the program before this one in the same process handed over."""

    def __init__(
        self, brain_command: Sequence[str], state: link.Message | None = None, *, silence_s: float
    ) -> None:
        self._silence_s = silence_s
        given = state or {}
        # First, so that nothing else takes a standard descriptor's place.
        self._spawner = Spawner(given.get("spawner"))
        self._poll = select.epoll()
        self._timers = Timers()
        self._manager = Manager(os.environ, self._timers.after)
        self._brain = Brain(brain_command, self._spawner, self._poll, self._timers.after)
        self._children = Children(self._spawner, self._poll, given.get("children", ()))
        lease_until_s = given.get("lease_until_s", 0.0)
        self._fences = Fences(self._children, self._timers, self._signal, lease_until_s)
        self._reap_is_due = True
        self._hears_more = False  # what the brain said may be more than this round took
        self._locks = Locks(given.get("locks"))
        self._signals = _Signals(given.get("hangups", 0))
        self._poll.register(self._signals.fd, select.EPOLLIN)
        self._terminations = 0
        self._deaths_while_ending = 0
        self._exit_code: int | None = None  # set: no brain any more, ends when every tree is empty
        self._over = False
        rooms = Rooms(
            brain=self._brain,
            spawner=self._spawner,
            poll=self._poll,
            timers=self._timers,
            locks=self._locks,
            manager=self._manager,
        )
        number = given.get("reexecutions", 0)
        self._reexecution = Reexecution(
            rooms, self._state, self._start_brain, number, brain_goes_s=silence_s
        )

    def run(self) -> int:
        self._manager.beat()
        self._start_brain()
        self._fences.look()
        while not self._over:
            try:
                self._round()
            except Exception as error:  # noqa: BLE001  the children must not die over our mistake
                say(f"an error of the keeper, which goes on: {error!r}")
                self._reap_is_due = True
                time.sleep(_AFTER_ERROR_S)
        self._children.close()
        self._manager.close()
        assert self._exit_code is not None
        return self._exit_code

    def _round(self) -> None:
        at_once = self._reap_is_due or self._hears_more
        self._hears_more = False
        for fd, _ in self._poll.poll(0 if at_once else self._timers.timeout_s()):
            self._on_event(fd)
        if self._signals.drain() or self._reap_is_due:
            self._reap()
        self._on_terminations()
        self._on_hangups()
        self._timers.run()
        if not self._hears_more or self._brain.oldest_waits_s > _GATHER_S:
            self._brain.flush()
            if not self._brain.is_owed:
                self._children.put_away()
        if self._exit_code is not None and not self._children.living:
            self._over = True

    def _on_event(self, fd: int) -> None:
        asked = self._reexecution.preflight
        if self._brain.end is not None and fd == self._brain.end.fileno():
            self._on_link()
        elif asked is not None and fd == asked.fd:
            asked.hear()
        elif fd != self._signals.fd:
            self._reap_is_due = True  # a cgroup has changed

    # --- the brain ------------------------------------------------------------------------------

    def _start_brain(self) -> None:
        self._timers.cancel(self._start_brain)
        try:
            self._brain.start()
        except OSError as error:
            say(f"cannot start the brain: {error}")
            self._on_brain_death(None)
            return
        self._brain.send(
            {
                "op": "hello",
                **link.ABOUT,
                "pid": os.getpid(),
                "children": len(self._children),
                "lease_until_s": self._fences.until_s,
            }
        )
        self._children.bring_out()
        for child in self._children:
            self._brain.send(child.described("child"), child)
        if self._terminations:
            self._terminate_brain()

    def _terminate_brain(self) -> None:
        if self._start_brain in self._timers:
            self._start_brain()  # at once: it has to stop the children and say goodbye
            return
        drain = self._signals.last != signal.SIGINT  # a person at a terminal does not wait for it
        self._brain.send({"op": "terminate", "urgent": self._terminations > 1, "drain": drain})
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
        self._timers.after(self._silence_s / _PINGS_PER_SILENCE, self._watch_brain)

    def _on_brain_death(self, info: os.waitid_result | None) -> None:
        self._timers.cancel(self._brain.kill)
        self._timers.cancel(self._watch_brain)
        delay_s = self._brain.died()
        if self._exit_code is not None:
            return
        code = info.si_status if info is not None and info.si_code == os.CLD_EXITED else None
        if self._brain.finished:
            self._end(0, signal.SIGKILL)
        elif self._reexecution.awaits_brain:
            self._reexecution.go()
        elif code == 0 and self._brain.shall_go:
            self._start_brain()  # it was called off
        elif code == 0:
            self._end(0, signal.SIGKILL)
        elif code in _REFUSALS and not self._children.living:
            self._end(code, signal.SIGKILL)
        else:
            self._on_brain_crash(info, delay_s)

    def _on_brain_crash(self, info: os.waitid_result | None, delay_s: float) -> None:
        if self._terminations:
            self._deaths_while_ending += 1
            delay_s = min(delay_s, _AFTER_DEATH_WHILE_ENDING_S)
        if self._deaths_while_ending >= _BRAIN_DEATHS_WHILE_ENDING_MAX:
            say(f"no brain stays alive to stop the children: stopping all within {_GRACE_S:g} s")
            self._end(1, signal.SIGTERM)
            return
        self._timers.after(delay_s, self._start_brain)
        if info is not None:
            say(f"the brain ended ({how_it_ended(info)}); starting it again in {delay_s:g} s")

    def _on_link(self) -> None:
        for _ in range(_MESSAGES_PER_ROUND):  # so that a flood of them delays no exit for long
            if not self._hear():
                return
        self._hears_more = True

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
            self._timers.after(_CLOSED_LINK_S, self._brain.kill)
            return False
        self._brain.heard_at_s = time.monotonic()
        with link.held(received[1]):
            self._on_message(link.with_streams(*received))
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
                case "contain":
                    self._brain.send(self._children.contain(message, self._brain.pid))
                case _:
                    self._on_word(message)
        except Exception as error:  # noqa: BLE001  whatever it is, the brain must not wait for ever
            self._refuse(message, error)

    def _on_word(self, message: link.Message) -> None:
        """What the brain says of itself."""
        match message["op"]:
            case "ready":
                self._manager.status(message["status"])
                self._reexecution.on_ready()
                if not self._reexecution.is_under_way:
                    self._manager.ready()
            case "status":
                self._manager.status(message["text"])
            case "bye":
                self._brain.finished = True
            case "again":
                self._brain.shall_go = True
            case "lease":
                self._fences.extend(message["until_s"])
            case link.PONG:
                pass
            case unknown:
                say(f"a newer brain asks for {unknown!r}, which this keeper does not know")

    def _refuse(self, message: link.Message, error: Exception) -> None:
        say(f"dropped a message of the brain: {error!r}")
        if message.get("op") == "lock":
            number = getattr(error, "errno", None) or errno.EINVAL
            self._brain.send({"op": "lock_failed", "errno": number})
        elif message.get("op") == "contain":
            problem = f"processes get no cgroups: {error}"
            self._brain.send({"op": "contained", "path": "", "controllers": [], "problem": problem})
        elif message.get("op") == "spawn" and "key" in message:
            failed = {"op": "spawn_failed", "key": message["key"]}
            self._brain.send({**failed, "reason": f"the keeper cannot start it: {error}"})

    # --- what the brain asks for ----------------------------------------------------------------

    def _spawn(self, message: link.Message) -> None:
        key = message["key"]
        new = self._children.spawn(message)
        if isinstance(new, Child):
            if new.fence_s >= 0:
                self._fences.look()
            self._brain.send(new.described("started"), new)
        else:
            self._brain.send({"op": "spawn_failed", "key": key, "reason": new})

    def _signal(self, key: str, signum: int, *, whole_group: bool) -> None:
        try:
            self._children.signal(key, signum, whole_group=whole_group)
        except OSError as error:
            say(f"cannot send signal {signum} to {key}: {error.strerror}")
        if self._children.unseen:
            self._reap_is_due = True  # which looks for those that it has to reach

    def _lock(self, path: str, tries: int = _LOCK_TRIES) -> None:
        try:
            self._locks.take(path)
        except Busy as busy:
            if tries > 1 and busy.is_gone:
                # The brain of a killed keeper holds it for a moment, to kill what was left.
                again = functools.partial(self._lock, path, tries - 1)
                self._timers.after(_LOCK_AGAIN_S, again)
            else:
                self._brain.send({"op": "busy", "by": busy.by or "another process"})
        except OSError as error:
            self._brain.send({"op": "lock_failed", "errno": error.errno})
        else:
            self._brain.send({"op": "locked"})

    def _reap(self) -> None:
        self._reap_is_due = False
        infos = list(_exits())
        try:
            for message in self._children.reaped(infos):
                self._brain.send(message)
        finally:
            for info in infos:
                self._reexecution.on_exit(info)
                if info.si_pid == self._brain.pid:
                    self._hear_last_words()
                    self._on_brain_death(info)
        if self._children.unseen:
            self._timers.after(_LOOK_AGAIN_S, self._reap)

    # --- the next program in this process -------------------------------------------------------

    def _on_hangups(self) -> None:
        """Once for all that came until now; one that comes meanwhile may mean a newer program."""
        ending = self._terminations or self._exit_code is not None
        if self._signals.hangups and not ending and not self._reexecution.is_under_way:
            self._signals.hangups = 0
            self._reexecution.begin()

    def _state(self) -> tuple[link.Message, Iterable[int]] | None:
        """All that the next program must know, and the descriptors that it names."""
        if self._signals.terminations or self._exit_code is not None:
            return None
        self._children.bring_out()
        state = {
            "spawner": self._spawner.state(),
            "children": self._children.state(),
            "locks": self._locks.state(),
            "hangups": self._signals.hangups,
            "reexecutions": self._reexecution.number,
            "lease_until_s": self._fences.until_s,
        }
        rooms = (self._spawner, self._children, self._locks)
        return state, [fd for room in rooms for fd in room.descriptors()]

    # --- the end --------------------------------------------------------------------------------

    def _on_terminations(self) -> None:
        while self._terminations < self._signals.terminations:
            if not self._terminations:
                self._reexecution.call_off()
                self._manager.stopping()
            self._terminations += 1
            if self._terminations >= _TERMINATIONS_MAX:
                say("asked for the third time: killing everything")
                self._end(128 + self._signals.last, signal.SIGKILL)
            else:
                self._terminate_brain()

    def _end(self, code: int, signum: signal.Signals) -> None:
        """From here on no brain is started; over when every tree is empty."""
        self._reexecution.call_off()
        self._exit_code = code
        self._timers.clear()
        self._manager.stopping()
        self._manager.beat()
        self._brain.kill()
        for key in [child.key for child in self._children]:
            self._signal(key, signum, whole_group=True)
        if signum == signal.SIGKILL:
            self._timers.after(_AFTER_KILL_S, self._give_up)
        else:
            self._timers.after(_GRACE_S, self._kill_all)

    def _kill_all(self) -> None:
        assert self._exit_code is not None
        self._end(self._exit_code, signal.SIGKILL)

    def _give_up(self) -> None:
        left = [str(child.pid) for child in self._children if not child.empty]
        say(f"cannot be killed: {', '.join(left)}")
        self._over = True


class _Signals:
    """Wakes the loop; counts the requests to end, so that none is lost however they pile up."""

    def __init__(self, hangups: int) -> None:
        self.terminations = 0
        self.hangups = hangups
        self.last = 0
        self.fd, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, self._hang_up)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._terminate)
        takeover.unblock_signals()  # those that came while this program took over

    def _hang_up(self, _number: int, _frame: object) -> None:
        self.hangups += 1

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


def _become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        say("cannot become sub-reaper: processes that leave their group will not be found")


def run(brain_command: Sequence[str], *, silence_s: float = _SILENCE_S) -> int:
    """Keeps children for the brain that this command starts; returns the exit code."""
    if takeover.CHECK_VARIABLE in os.environ:
        return takeover.answer(brain_command)
    gc.freeze()  # what was imported stays: no collection need look at it again
    took_over = takeover.STATE_VARIABLE in os.environ
    _become_subreaper()
    privileges.hide()
    try:
        keeper = Keeper(brain_command, takeover.inherited(), silence_s=silence_s)
    except Exception as error:
        if not took_over:
            raise
        say(f"cannot take over from the program before: {error!r}: killing everything")
        _kill_all_children()
        return 1
    return keeper.run()


def _kill_all_children() -> None:
    """What they leave is handed to us, their sub-reaper, until nothing is left."""
    deadline_s = time.monotonic() + _AFTER_KILL_S
    while time.monotonic() < deadline_s and (pids := procfs.own_children()):
        for pid in pids:
            with contextlib.suppress(PermissionError):
                os.kill(pid, signal.SIGKILL)  # ours and not yet reaped
        for _ in _exits():
            pass
        time.sleep(_LOOK_SOON_S)


def main(brain_argv: list[str]) -> int:
    return run([*brain_program(), *brain_argv])
