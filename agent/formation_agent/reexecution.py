"""The way to a re-execution in place: ask the program on disk, send the brain away, become it.

Used by the keeper alone; standard library only. At every step but the last everything can go on
as before, and it does when something is wrong. The step itself is `takeover`'s.
"""

from __future__ import annotations

from formation_agent import preflight, takeover
from formation_agent.brainprocess import NOTICE, say
from formation_agent.preflight import Preflight

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import select
    from collections.abc import Callable, Iterable

    from formation_agent.brainprocess import Brain
    from formation_agent.link import Message
    from formation_agent.locks import Locks
    from formation_agent.spawn import Spawner
    from formation_agent.systemd import Manager
    from formation_agent.timers import Timers


class Rooms:
    """What it needs of the keeper."""

    def __init__(
        self,
        *,
        brain: Brain,
        spawner: Spawner,
        poll: select.epoll,
        timers: Timers,
        locks: Locks,
        manager: Manager,
    ) -> None:
        self.brain = brain
        self.spawner = spawner
        self.poll = poll
        self.timers = timers
        self.locks = locks
        self.manager = manager


class Reexecution:
    """One at a time; `number` counts them over all programs that this process has been.

    `collect` gives the state to hand over and its descriptors, or None when the agent shall end;
    `resume` starts a brain again. A brain that was told to go has `brain_goes_s` for it.
    """

    def __init__(
        self,
        rooms: Rooms,
        collect: Callable[[], tuple[Message, Iterable[int]] | None],
        resume: Callable[[], None],
        number: int,
        *,
        brain_goes_s: float,
    ) -> None:
        self._brain_goes_s = brain_goes_s
        self._rooms = rooms
        self._collect = collect
        self._resume = resume
        self.number = number
        self.preflight: Preflight | None = None
        self.awaits_brain = False
        self._took_over = number > 0
        if self._took_over:
            rooms.locks.report(number, "taken over")

    @property
    def is_under_way(self) -> bool:
        return self.preflight is not None or self.awaits_brain

    def begin(self) -> None:
        self.number += 1
        self._took_over = False
        self._rooms.locks.report(self.number, "began")
        self._rooms.manager.reloading()
        say("re-executing: asking the program on disk whether it can take over", NOTICE)
        try:
            self.preflight = Preflight(self._rooms.spawner, self._rooms.poll, self._on_answer)
        except OSError as error:
            self._refuse(f"cannot start {takeover.program()[0]}: {error.strerror}")
            return
        self._rooms.timers.after(preflight.WITHIN_S, self.preflight.give_up)

    def on_exit(self, info: os.waitid_result) -> None:
        """Some process was reaped; was it the one that was asked?"""
        if self.preflight is not None and info.si_pid == self.preflight.pid:
            asked, self.preflight = self.preflight, None
            self._rooms.timers.cancel(asked.give_up)
            asked.ended(info)

    def call_off(self) -> None:
        """The agent shall end, which goes first."""
        if self.is_under_way:
            self._refuse("the agent is ending")
        if self.preflight is not None:
            self._rooms.timers.cancel(self.preflight.give_up)
            self.preflight.call_off()
        self.awaits_brain = False
        self._rooms.timers.cancel(self._kill_brain)

    def on_ready(self) -> None:
        """A brain is up."""
        if self._took_over:
            self._took_over = False
            self._rooms.locks.report(self.number, "ready")
            say("re-executed", NOTICE)

    def _on_answer(self, problem: str) -> None:
        if problem:
            self._refuse(f"the program on disk cannot take over: {problem}")
            return
        self.awaits_brain = True
        if self._rooms.brain.pid:
            self._rooms.brain.reload()
            self._rooms.timers.after(self._brain_goes_s, self._kill_brain)
        else:
            self.go()

    def _kill_brain(self) -> None:
        say(f"the brain has not gone within {self._brain_goes_s:g} s: killed")
        self._rooms.brain.kill()

    def go(self) -> None:
        """No brain is there any more. Does not return, unless it went wrong."""
        self.awaits_brain = False
        self._rooms.timers.cancel(self._kill_brain)
        takeover.block_signals()
        try:
            collected = self._collect()
            if collected is None:
                self._refuse("the agent is ending")
            else:
                takeover.execute(*collected, self._rooms.manager.variables)
        except Exception as error:  # noqa: BLE001  the children must not die over it
            self._refuse(f"cannot execute the program on disk: {error}")
        finally:
            takeover.unblock_signals()
        self._resume()

    def _refuse(self, why: str) -> None:
        say(f"not re-executed, everything goes on as before: {why}")
        self._rooms.locks.report(self.number, f"refused: {why}")
        self._rooms.manager.reloaded()
