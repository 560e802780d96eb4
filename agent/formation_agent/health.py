"""Watches over the processes of this host: probes, sd_notify, watchdogs. Reports what it finds.

Decides nothing about a process: what follows from a finding is the machine's. Standing findings are
reported again, so that none is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from formation.model import Probe, ProcessType
from formation.policy import ProbeRecord, Verdict
from formation_agent import facts, machine, notify, procfs
from formation_agent.alarms import Alarms
from formation_agent.launch import Launch
from formation_agent.notify import Belonging, NotifySocket
from formation_agent.probes import Outcome, Target
from formation_agent.probing import Check, Probing

# A program may say more often how far it is; the last word counts.
TOLD_EVERY_S = 0.2
_LONG_AGO = float("-inf")
_READINESS, _LIVENESS, _WATCHDOG, _TOLD = "readiness", "liveness", "watchdog", "told"

log = logging.getLogger(__name__)
Report = Callable[[str, int, machine.Event], None]


@dataclass(slots=True, kw_only=True, eq=False)
class _Watched:
    """One process. `has_been_ready` ends the start grace; `says_ready`: its last word, which counts
    for a type with `notify`. `fed_s`: the last WATCHDOG=1, or when it began to be expected."""

    uid: str
    attempt: int
    spec: ProcessType
    name: str
    pid: int
    grace_until_s: float
    watchdog_s: float
    fed_s: float
    has_been_ready: bool
    says_ready: bool
    is_reloading: bool = False
    is_relaxed: bool = False
    reported: machine.Event | None = None
    readiness: Check | None = None
    liveness: Check | None = None
    socket: NotifySocket | None = None
    told: str = ""
    told_at_s: float = _LONG_AGO
    said: set[str] = field(default_factory=set)


class Health:
    """`report(uid, attempt, event)` is never called from within `watch`, `relax` or `unwatch`, and
    may call them. Probes run while `run` does."""

    def __init__(
        self,
        *,
        report: Report,
        ask: Callable[[Probe, Target], Awaitable[Outcome]],
        jitter: Callable[[], float],
    ) -> None:
        self._report = report
        self._now_s = asyncio.get_running_loop().time
        self._watched: dict[str, _Watched] = {}
        self._alarms = Alarms(self._on_due)
        self._probing = Probing(ask=ask, judged=self._on_judged, jitter=jitter)

    async def run(self) -> None:
        """Until it is cancelled."""
        await self._probing.run()

    def close(self) -> None:
        for uid in list(self._watched):
            self.unwatch(uid)

    def watch(
        self,
        uid: str,
        attempt: int,
        spec: ProcessType,
        launch: Launch | None,
        pid: int,
        port: int,
        notify_fd: int,
        ready: bool,
    ) -> None:
        """See `rooms.Health`."""
        self.unwatch(uid)
        if notify_fd < 0 and spec.readiness is None and spec.liveness is None:
            return
        now_s = self._now_s()
        started_s = _started_s(pid, now_s)
        watched = self._watched[uid] = _Watched(
            uid=uid,
            attempt=attempt,
            spec=spec,
            name=_name_of(uid, launch),
            pid=pid,
            grace_until_s=_LONG_AGO if ready else started_s + spec.start_grace_s,
            watchdog_s=spec.watchdog_s,
            fed_s=now_s,
            has_been_ready=ready,
            says_ready=ready,
            reported=machine.Ready() if ready else None,
        )
        self._hear(watched, notify_fd)
        self._check(watched, Target(key=f"{uid}:{attempt}", port=port, launch=launch), started_s)
        self._arm_watchdog(watched)

    def _hear(self, watched: _Watched, fd: int) -> None:
        if fd < 0:
            return
        watched.socket = NotifySocket(
            fd,
            Belonging(uid=watched.uid, pid=watched.pid),
            lambda message: self._on_message(watched, message),
            lambda reason: self._say_once(watched, reason),
        )

    def _check(self, watched: _Watched, target: Target, started_s: float) -> None:
        """Starts its probes."""
        spec, ready = watched.spec, watched.has_been_ready
        if spec.readiness is not None:
            watched.readiness = _check_of(watched, _READINESS, spec.readiness, target, started_s)
            if ready:
                watched.readiness.record = ProbeRecord(verdict=Verdict.PASSES)
            if watched.says_ready or not spec.notify:
                self._probing.start(watched.readiness)
        if spec.liveness is not None:
            watched.liveness = _check_of(watched, _LIVENESS, spec.liveness, target, _LONG_AGO)
            self._probing.start(watched.liveness)

    def relax(self, uid: str) -> None:
        """See `rooms.Health`."""
        watched = self._watched.get(uid)
        if watched is None:
            return
        watched.is_relaxed = True
        self._probing.stop(f"{uid} {_READINESS}")
        self._probing.stop(f"{uid} {_LIVENESS}")
        self._alarms.set(f"{uid} {_WATCHDOG}", None)

    def unwatch(self, uid: str) -> None:
        """See `rooms.Health`."""
        self.relax(uid)
        watched = self._watched.pop(uid, None)
        if watched is None:
            return
        self._alarms.set(f"{uid} {_TOLD}", None)
        if watched.socket is not None:
            watched.socket.close()

    # -- probes ------------------------------------------------------------------------------------

    def _on_judged(self, check: Check) -> None:
        uid, _, which = check.name.rpartition(" ")
        watched = self._watched[uid]
        if which == _READINESS:
            self._tell_readiness(watched)
        elif check.verdict is Verdict.FAILS:
            self._tell(watched, machine.NotAlive(reason=check.reason))

    def _tell_readiness(self, watched: _Watched) -> None:
        """What is to be said of it now, if that is something new."""
        event = _readiness(watched)
        if event is None or event == watched.reported or watched.is_relaxed:
            return
        watched.reported = event
        if isinstance(event, machine.Ready) and not watched.has_been_ready:
            self._has_started(watched)
        self._tell(watched, event)

    def _has_started(self, watched: _Watched) -> None:
        watched.has_been_ready = True
        watched.fed_s = self._now_s()
        self._set_grace(watched, _LONG_AGO)

    def _set_grace(self, watched: _Watched, until_s: float) -> None:
        watched.grace_until_s = until_s
        for check in (watched.readiness, watched.liveness):
            if check is not None:
                check.grace_until_s = until_s
        self._arm_watchdog(watched)

    # -- sd_notify ---------------------------------------------------------------------------------

    def _on_message(self, watched: _Watched, message: notify.Message) -> None:
        if message.status is not None:
            watched.told = message.status
            self._tell_status(watched)
        if message.extend_s is not None:
            until_s = self._now_s() + message.extend_s
            if watched.grace_until_s > _LONG_AGO:
                self._set_grace(watched, max(watched.grace_until_s, until_s))
            self._tell(watched, machine.Extended(by_s=message.extend_s))
        self._on_watchdog_words(watched, message)
        if watched.spec.notify:
            self._on_readiness_words(watched, message)
        if message.stopping:
            self._tell(watched, machine.StoppingItself())
        if message.main_pid:
            self._say_once(watched, "MAINPID is ignored: what runs here stays in the foreground")

    def _on_readiness_words(self, watched: _Watched, message: notify.Message) -> None:
        is_news = message.reloading or (message.ready and not watched.says_ready)
        if not is_news or self._watched.get(watched.uid) is not watched:
            return
        watched.says_ready, watched.is_reloading = message.ready, not message.ready
        name = f"{watched.uid} {_READINESS}"
        self._probing.stop(name)
        if watched.readiness is not None and message.ready and not watched.is_relaxed:
            # What it said of the time before does not count.
            watched.readiness.record = ProbeRecord(verdict=Verdict.PASSES)
            self._probing.start(watched.readiness)
        self._tell_readiness(watched)

    def _on_watchdog_words(self, watched: _Watched, message: notify.Message) -> None:
        if message.watchdog_s is not None:
            watched.watchdog_s = message.watchdog_s
        if message.alive or message.watchdog_s is not None:
            watched.fed_s = self._now_s()
            self._arm_watchdog(watched)
        if message.given_up and not watched.is_relaxed:
            self._tell(watched, machine.NotAlive(reason="it said WATCHDOG=trigger"))

    def _tell_status(self, watched: _Watched) -> None:
        at_s, now_s = watched.told_at_s + TOLD_EVERY_S, self._now_s()
        if now_s < at_s:
            self._alarms.set(f"{watched.uid} {_TOLD}", at_s)
            return
        watched.told_at_s = now_s
        self._tell(watched, machine.Told(text=watched.told))

    # -- timers ------------------------------------------------------------------------------------

    def _on_due(self, name: str) -> None:
        uid, _, which = name.rpartition(" ")
        watched = self._watched[uid]
        if which == _TOLD:
            self._tell_status(watched)
        else:
            self._look_at_watchdog(watched)

    def _arm_watchdog(self, watched: _Watched) -> None:
        if watched.watchdog_s <= 0 or watched.socket is None or watched.is_relaxed:
            return
        # Mostly it is fed long before, so it is set once and looks again when it rings.
        name = f"{watched.uid} {_WATCHDOG}"
        at_s, set_s = _hungry_at_s(watched), self._alarms.at_s(name)
        if set_s is None or at_s < set_s:
            self._alarms.set(name, at_s)

    def _look_at_watchdog(self, watched: _Watched) -> None:
        assert watched.socket is not None
        watched.socket.read()  # we may have been held up, and what it said lies there unread
        if self._watched.get(watched.uid) is not watched or watched.is_relaxed:
            return
        if self._now_s() >= _hungry_at_s(watched):
            watched.fed_s = self._now_s()  # said again when it lasts as long again
            silence = machine.describe_duration(watched.watchdog_s)
            self._tell(watched, machine.NotAlive(reason=f"said no WATCHDOG=1 for {silence}"))
        if self._watched.get(watched.uid) is watched:
            self._arm_watchdog(watched)

    # -- telling -----------------------------------------------------------------------------------

    def _tell(self, watched: _Watched, event: machine.Event) -> None:
        if self._watched.get(watched.uid) is watched:
            self._report(watched.uid, watched.attempt, event)

    def _say_once(self, watched: _Watched, text: str) -> None:
        if text not in watched.said:
            watched.said.add(text)
            log.warning("%s: sd_notify: %s", watched.name, text)


def _readiness(watched: _Watched) -> machine.Event | None:
    """None: there is nothing to say yet."""
    check = watched.readiness
    if watched.spec.notify and not watched.says_ready:
        return machine.NotReady(reason="it is reloading") if watched.is_reloading else None
    if check is None or check.verdict is Verdict.PASSES:
        return machine.Ready()
    return machine.NotReady(reason=check.reason) if check.reason else None


def _started_s(pid: int, now_s: float) -> float:
    ticks = None
    with contextlib.suppress(OSError):
        ticks = procfs.start_ticks(pid)
    return facts.monotonic_of_ticks(ticks, now_s) if ticks else now_s


def _hungry_at_s(watched: _Watched) -> float:
    return max(watched.fed_s, watched.grace_until_s) + watched.watchdog_s


def _check_of(
    watched: _Watched, which: str, probe: Probe, target: Target, started_s: float
) -> Check:
    return Check(
        name=f"{watched.uid} {which}",
        what=f"{watched.name}: its {which} probe",
        probe=probe,
        target=target,
        started_s=started_s,
        grace_until_s=watched.grace_until_s,
    )


def _name_of(uid: str, launch: Launch | None) -> str:
    if launch is None:
        return uid
    return f"{launch.env.get('FORMATION_APP', '')}/{launch.env.get('PS', uid)}"
