"""What a dev session says about its instances, and which exits it noticed. Updates in, lines out.

Pure. Agents restart instances by themselves; here it is only told. Updates are the latest state,
not every step: a process that ended and is back already shows as a higher attempt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from formation.model import InstanceState
from formctl import wording
from formctl.views import Instance, Table, Update

_OVER = (InstanceState.FINISHED, InstanceState.FAILED)
# Nothing of it runs.
_AT_REST = (InstanceState.BACKOFF, *_OVER)
_LEAVING = (InstanceState.DRAINING, InstanceState.STOPPING)
# Shorter ones are hardly meant as one.
_GRACE_MIN_S = 1.0
# How much later than the agent we hear that an instance is stopping.
_LATENCY_S = 0.25


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
    runs: bool = False
    stopping_ms: int = 0
    trouble: str = ""


class Narrator:
    """`foreman_port(type, ordinal)` is where foreman would have put it, 0 where nowhere.

    `graces`: by type, how long from the stop signal to KILL.
    """

    def __init__(
        self,
        app: str,
        foreman_port: Callable[[str, int], int],
        graces: Mapping[str, float] | None = None,
    ) -> None:
        self._app = app
        self._foreman_port = foreman_port
        self._graces = graces or {}
        self._memories: dict[str, _Memory] = {}
        self._reasons: set[tuple[str, str]] = set()
        self._is_stopping = False
        self.table = Table()

    def stops(self) -> None:
        """From now on everything ends because it shall: that it has no place is no news."""
        self._is_stopping = True

    def feed(self, update: Update, *, now_ms: int) -> Told:
        lines: list[str] = []
        exits: list[Exit] = []
        for gone in self.table.apply(update):
            lines += self._over(gone, now_ms)
            self._memories.pop(gone.uid, None)
        for instance in update.changed:
            if instance.slot.app == self._app:
                told = self._changed(instance, now_ms)
                lines += told.lines
                exits += told.exits
        return Told(lines=tuple(lines), exits=tuple(exits))

    def running(self, stopping_for_s: float | None = None) -> list[str]:
        """`web.2 (pid 17)` of everything that still has a process, and when it will be killed."""
        found = (i for i in self.table.of_app(self._app) if i.status.pid)
        return [
            f"{i.slot.short} (pid {i.status.pid}{self._deadline(i, stopping_for_s)})" for i in found
        ]

    def end(self, *, now_ms: int) -> list[str]:
        """Nothing runs any more: the lines for those whose end was not reported."""
        return [line for i in self.table.of_app(self._app) for line in self._over(i, now_ms)]

    def _deadline(self, instance: Instance, stopping_for_s: float | None) -> str:
        grace_s = self._graces.get(instance.slot.type)
        if grace_s is None or stopping_for_s is None:
            return ""
        return f", killed in {wording.age(math.ceil(max(0.0, grace_s - stopping_for_s)))}"

    def _changed(self, instance: Instance, now_ms: int) -> Told:
        if not instance.is_placed:
            return Told(lines=self._waits(instance))
        if instance.state is InstanceState.STOPPED:
            return Told(lines=self._over(instance, now_ms))
        memory = self._memories.setdefault(instance.uid, _Memory())
        at_rest = instance.state in _AT_REST
        memory.runs = not at_rest and (memory.runs or bool(instance.status.pid))
        if instance.state is InstanceState.STOPPING:
            memory.stopping_ms = memory.stopping_ms or now_ms
        lines: list[str] = []
        exits: tuple[Exit, ...] = ()
        is_leaving = instance.surplus or instance.state in _LEAVING
        if _exits(instance) > memory.exits and not is_leaving:
            memory.exits = _exits(instance)
            lines += _ended(instance, now_ms)
            if _is_told(instance):
                exits = (Exit(instance.slot.short, _code(instance)),)
        if instance.status.pid and instance.status.attempt > memory.attempt_started:
            memory.attempt_started = instance.status.attempt
            lines.append(self._started(instance))
        lines += _health(instance, memory)
        return Told(lines=tuple(lines), exits=exits)

    def _started(self, instance: Instance) -> str:
        status, slot = instance.status, instance.slot
        text = f"{slot.short} started with pid {status.pid}"
        usual = self._foreman_port(slot.type, slot.ordinal)
        if usual and status.port and status.port != usual:
            return f"{text} on port {status.port}, since {usual} is taken"
        return text

    def _over(self, instance: Instance, now_ms: int) -> tuple[str, ...]:
        memory = self._memories.get(instance.uid)
        if memory is None or memory.is_over or not memory.runs:
            return ()
        memory.is_over = True
        grace_s = self._graces.get(instance.slot.type, 0.0)
        took_s = (now_ms - memory.stopping_ms) / 1000 if memory.stopping_ms else 0.0
        # How a stopped one ended is not reported; only KILL ends what its grace did not.
        if grace_s >= _GRACE_MIN_S and took_s >= grace_s - _LATENCY_S:
            return (f"{instance.slot.short} was killed: it had not stopped after {grace_s:g} s",)
        return (f"{instance.slot.short} stopped",)

    def _waits(self, instance: Instance) -> tuple[str, ...]:
        key = (instance.slot.type, instance.status.reason)
        if not instance.status.reason or key in self._reasons or self._is_stopping:
            return ()
        self._reasons.add(key)
        return (f"{instance.slot.short} waits for a place: {instance.status.reason}",)


def _exits(instance: Instance) -> int:
    """How many processes of this stay have ended."""
    attempt = instance.status.attempt
    return attempt if instance.state in _AT_REST else max(0, attempt - 1)


def _is_told(instance: Instance) -> bool:
    """An agent that was killed takes its children along, and nobody is left to tell how."""
    return bool(instance.status.reason or instance.status.last_exit)


def _never_started(instance: Instance) -> bool:
    """The reason speaks of the last try; `last_exit` may be of an earlier one."""
    status = instance.status
    return not status.last_exit or status.last_exit not in (status.reason or status.last_exit)


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
    if instance.state in _OVER:
        return [first]
    left_ms = status.retry_at_ms - now_ms
    if instance.state is InstanceState.BACKOFF and left_ms > 0:
        loop = " (crash loop)" if status.crash_looping else ""
        return [first, f"{name} restarting in {wording.age((left_ms + 999) // 1000)}…{loop}"]
    return [first, f"{name} restarting…"]


def _health(instance: Instance, memory: _Memory) -> list[str]:
    """What probes say of a process that runs, when it changes."""
    name, was = instance.slot.short, memory.trouble
    if instance.state is InstanceState.HEALTHY:
        memory.trouble = ""
        return [f"{name} is ready again"] if was else []
    if instance.state is InstanceState.UNREADY:
        memory.trouble = instance.status.reason or "not ready"
        return [f"{name} {memory.trouble}"] if memory.trouble != was else []
    if instance.state is InstanceState.RESTARTING:
        memory.trouble = f"restarting {instance.status.attempt}"
        told = f"{name} is stopped and started again: {instance.status.reason}"
        return [told] if memory.trouble != was else []
    return []
