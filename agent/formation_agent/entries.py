"""What the supervisor keeps of one stay beside the machine's part, and the words it uses for it.

Pure but for one look at a stranger's environment.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from formation.model import Assignment, Slot, Tries
from formation_agent import facts, processes
from formation_agent.machine import Stay

# What a shell says when it could not run a command.
_SHELL_EXITS = {126: "exit 126 (not executable?)", 127: "exit 127 (command not found?)"}


@dataclass(slots=True, kw_only=True)
class Entry:
    """A stay and what the shell around the machine knows of it."""

    stay: Stay
    start_ticks: int = 0
    started_at_ms: int = 0
    retry_at_ms: int = 0

    @property
    def uid(self) -> str:
        return self.stay.assignment.uid

    @property
    def slot(self) -> Slot:
        return self.stay.assignment.slot

    @property
    def key(self) -> str:
        return f"{self.uid}:{self.stay.attempt}"

    @property
    def tries(self) -> Tries:
        stay = self.stay
        ticks = self.start_ticks if stay.pid else 0
        return Tries(attempt=stay.attempt, failures=stay.failures, pid=stay.pid, start_ticks=ticks)


def kept_of(stay: Stay) -> tuple[int, ...]:
    """What the journal keeps of it."""
    return stay.attempt, stay.failures, stay.pid


def uid_of(key: str) -> str:
    return key.rpartition(":")[0]


def attempt_of(key: str) -> int:
    return int(key.rpartition(":")[2])


def signal_number(name: str) -> int:
    try:
        return signal.Signals[f"SIG{name}"]
    except KeyError:  # a release may name a signal that this machine does not have
        return signal.SIGTERM


def how(event: processes.Exited) -> str:
    return _SHELL_EXITS.get(event.code or 0) or processes.describe_exit(event)


def stray(uid: str, pid: int) -> Assignment:
    """A child that the journal does not know: it keeps its slot until it is gone."""
    slot = facts.slot_of_process(pid) or Slot("unknown", "process", pid)
    return Assignment(uid=uid, slot=slot, release=0)
