"""What a dev session says about its instances, and which exits it noticed. Updates in, lines out.

Pure. Agents restart instances by themselves; here it is only told. Updates are the latest state,
not every step: a process that ended and is back already shows as a higher attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from formation.model import InstanceState
from formctl import wording
from formctl.views import Instance, Table, Update

_ENDS = ("exit ", "signal ")


@dataclass(frozen=True, slots=True)
class Exit:
    """A process that ended without having been asked to; `code` as a shell sees it."""

    slot: str
    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    lines: tuple[str, ...] = ()
    exits: tuple[Exit, ...] = ()


@dataclass(slots=True)
class _Memory:
    exits: int = 0
    attempt_started: int = 0
    is_over: bool = False


class Narrator:
    """`foreman_port(type, ordinal)` is where foreman would have put it, 0 where nowhere."""

    def __init__(self, app: str, foreman_port: Callable[[str, int], int]) -> None:
        self._app = app
        self._foreman_port = foreman_port
        self._memories: dict[str, _Memory] = {}
        self._reasons: set[tuple[str, str]] = set()
        self.table = Table()

    def feed(self, update: Update, *, now_ms: int) -> Told:
        lines: list[str] = []
        exits: list[Exit] = []
        for gone in self.table.apply(update):
            lines += self._over(gone)
            self._memories.pop(gone.uid, None)
        for instance in update.changed:
            if instance.slot.app == self._app:
                told = self._changed(instance, now_ms)
                lines += told.lines
                exits += told.exits
        return Told(lines=tuple(lines), exits=tuple(exits))

    def running(self) -> list[str]:
        """`web.2 (pid 17)` of everything that still has a process."""
        found = (i for i in self.table.of_app(self._app) if i.status.pid)
        return [f"{i.slot.short} (pid {i.status.pid})" for i in found]

    def _changed(self, instance: Instance, now_ms: int) -> Told:
        if not instance.is_placed:
            return Told(lines=self._waits(instance))
        if instance.state is InstanceState.STOPPED:
            return Told(lines=self._over(instance))
        memory = self._memories.setdefault(instance.uid, _Memory())
        lines: list[str] = []
        exits: tuple[Exit, ...] = ()
        if _exits(instance) > memory.exits and instance.state is not InstanceState.STOPPING:
            memory.exits = _exits(instance)
            lines += _ended(instance, now_ms)
            if _is_told(instance):
                exits = (Exit(instance.slot.short, _code(instance)),)
        if instance.status.pid and instance.status.attempt > memory.attempt_started:
            memory.attempt_started = instance.status.attempt
            lines.append(self._started(instance))
        return Told(lines=tuple(lines), exits=exits)

    def _started(self, instance: Instance) -> str:
        status, slot = instance.status, instance.slot
        text = f"{slot.short} started with pid {status.pid}"
        usual = self._foreman_port(slot.type, slot.ordinal)
        if usual and status.port and status.port != usual:
            return f"{text} on port {status.port}, since {usual} is taken"
        return text

    def _over(self, instance: Instance) -> tuple[str, ...]:
        memory = self._memories.get(instance.uid)
        if memory is None or memory.is_over:
            return ()
        memory.is_over = True
        return (f"{instance.slot.short} stopped",)

    def _waits(self, instance: Instance) -> tuple[str, ...]:
        key = (instance.slot.type, instance.status.reason)
        if not instance.status.reason or key in self._reasons:
            return ()
        self._reasons.add(key)
        return (f"{instance.slot.short} waits for a place: {instance.status.reason}",)


def _exits(instance: Instance) -> int:
    """How many processes of this stay have ended."""
    attempt = instance.status.attempt
    return attempt if instance.state is InstanceState.BACKOFF else max(0, attempt - 1)


def _is_told(instance: Instance) -> bool:
    """An agent that was killed takes its children along, and nobody is left to tell how."""
    return bool(instance.status.reason or instance.status.last_exit)


def _never_started(instance: Instance) -> bool:
    """The reason speaks of the last try; `last_exit` may be of an earlier one."""
    status = instance.status
    return not (status.reason or status.last_exit).startswith(_ENDS)


def _code(instance: Instance) -> int:
    last_exit = "" if _never_started(instance) else instance.status.last_exit
    return wording.exit_code(last_exit)


def _ended(instance: Instance, now_ms: int) -> list[str]:
    name, status = instance.slot.short, instance.status
    if not _is_told(instance):
        first = f"{name} ended with its agent"
    elif _never_started(instance):
        first = f"{name} cannot start: {status.reason}"
    else:
        first = f"{name} {wording.ended(status.last_exit)}"
    left_ms = status.retry_at_ms - now_ms
    if instance.state is InstanceState.BACKOFF and left_ms > 0:
        return [first, f"{name} restarting in {wording.age((left_ms + 999) // 1000)}…"]
    return [first, f"{name} restarting…"]
