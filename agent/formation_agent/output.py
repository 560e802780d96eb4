"""What is written and said of an instance: its pipes, notes beside them, the agent's own log."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter

from formation.model import Slot
from formation_agent import machine
from formation_agent.launch import Launch
from formation_agent.machine import Phase, Stay
from formation_agent.rooms import LogRoom
from formation_agent.stays import Happened, happened

log = logging.getLogger(__name__)


def close(fd: int) -> None:
    """Of a pipe that nobody will read; -1 is none."""
    with contextlib.suppress(OSError):
        if fd >= 0:
            os.close(fd)


class Output:
    def __init__(self, logs: LogRoom) -> None:
        self._logs = logs
        self._pipes_lost = 0
        self.happened: Counter[tuple[tuple[str, str], Happened]] = Counter()

    def attach(self, slot: Slot, stdout_fd: int, stderr_fd: int, *, lost: bool) -> bool:
        """False when a pipe did not arrive; `lost`: then one is missing."""
        if stdout_fd >= 0 or stderr_fd >= 0:
            self._logs.attach(slot, stdout_fd, stderr_fd)
        missing = (stdout_fd, stderr_fd).count(-1) if lost else 0
        if missing:
            self._pipes_lost += missing
            text = f"too many open files: raise LimitNOFILE ({self._pipes_lost} pipes lost so far)"
            log.error("%s: its output cannot be read: %s", slot, text)
            self._logs.note(slot, f"its output cannot be read: {text}")
        return not missing

    def close_pipes(self, slot: Slot) -> None:
        self._logs.close_pipes(slot)

    def note(self, slot: Slot, launch: Launch, attempt: int) -> None:
        """What differs in this start from what was wished for."""
        if launch.moved_from:
            moved = f"port {launch.moved_from} is not free: PORT is {launch.port}"
            log.info("%s: %s", slot, moved)
            self._logs.note(slot, moved)
        if attempt == 1:
            for note in launch.notes:
                self._logs.note(slot, note)

    def moved(self, event: machine.Event, before: Stay, stay: Stay, now_s: float) -> None:
        """Counted, and told in the agent's own log."""
        kind = stay.assignment.slot.app, stay.assignment.slot.type
        for what in happened(event, before, stay):
            self.happened[kind, what] += 1
        _say(event, before, stay, now_s)


def _say(event: machine.Event, before: Stay, stay: Stay, now_s: float) -> None:
    """To the agent's own log."""
    slot, reason = stay.assignment.slot, stay.reason
    if stay.failures > before.failures:
        wait_s = (stay.retry_at_s or now_s) - now_s
        then = f"; next try in {machine.describe_duration(wait_s)}" if wait_s > 0 else ""
        log.warning("%s: %s%s", slot, reason, then)
    elif isinstance(event, machine.StillThere) or (stay.killing and not before.killing):
        log.warning("%s: %s", slot, reason)
    elif stay.phase is before.phase:
        return
    elif stay.phase in (Phase.UNREADY, Phase.RESTARTING):
        log.warning("%s: %s", slot, reason)
    elif stay.phase is Phase.FINISHED:
        log.info("%s: finished: %s", slot, reason)
    else:
        log.debug("%s (%s): %s %s", slot, stay.assignment.uid, stay.phase, reason)
