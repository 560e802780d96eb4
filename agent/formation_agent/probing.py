"""Runs the probes of all processes of this host, each at its own pace, and keeps what they say.

How a probe is run is `probes`' business, what its results mean is `formation.policy`'s, and what
follows is decided elsewhere. Waiting probes are entries of one heap; only a running one is a task.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from formation.model import Probe, ProbeKind
from formation.policy import ProbeRecord, Verdict, judge_probe, probe_pause_s
from formation_agent.alarms import Alarms
from formation_agent.probes import Outcome, Target

# At once. Asking is cheap but for one descriptor each; a command is a process.
CONNECTIONS_MAX = 64
COMMANDS_MAX = 16
# So that the loop wakes for several at once: half the cost of a cheap probe is the waking.
_STEP_S = 0.05
_STEPS_FROM_S = 1.0

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class Check:
    """One probe on one process. `what` names both for people.

    `started_s`: of the process; infinitely long ago when its start is not waited for.
    `grace_until_s` may be changed at any time. `reason`: why the last run did not pass.
    """

    name: str
    what: str
    probe: Probe
    target: Target
    started_s: float
    grace_until_s: float
    record: ProbeRecord = field(default_factory=ProbeRecord)
    reason: str = ""
    began_s: float = 0.0
    task: asyncio.Task[None] | None = None
    has_said_why_not: bool = False

    @property
    def verdict(self) -> Verdict:
        return self.record.verdict


class _Lane:
    """Those whose time has come, in order; `limit` of them at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self.due: deque[Check] = deque()  # each check once at most


class Probing:
    """`judged` is called after every run that changed what a check says, and may start and stop
    checks. Probes run while `run` does. `jitter` gives numbers in [0, 1)."""

    def __init__(
        self,
        *,
        ask: Callable[[Probe, Target], Awaitable[Outcome]],
        judged: Callable[[Check], None],
        jitter: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._judged = judged
        self._jitter = jitter
        self._now_s = asyncio.get_running_loop().time
        self._checks: dict[str, Check] = {}
        self._alarms = Alarms(self._on_due)
        self._connections, self._commands = _Lane(CONNECTIONS_MAX), _Lane(COMMANDS_MAX)
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Until it is cancelled; that ends every probe."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                self._go_on(self._connections)
                self._go_on(self._commands)
                await asyncio.Event().wait()
            finally:
                self._group = None

    def start(self, check: Check) -> None:
        """The first run is spread, so that what started together is not asked together."""
        assert check.name not in self._checks, check.name
        self._checks[check.name] = check
        pause_s = self._pause_s(check)
        at_s = _stepped(self._now_s() + pause_s * self._jitter(), pause_s)
        self._alarms.set(check.name, at_s)

    def stop(self, name: str) -> None:
        """Also what is not there. A run that goes on is ended and says nothing any more."""
        check = self._checks.pop(name, None)
        if check is None:
            return
        self._alarms.set(name, None)
        if check.task is not None:
            check.task.cancel()

    # -- one run after the other -------------------------------------------------------------------

    def _on_due(self, name: str) -> None:
        check = self._checks[name]
        lane = self._commands if check.probe.kind is ProbeKind.EXEC else self._connections
        lane.due.append(check)
        self._go_on(lane)

    def _go_on(self, lane: _Lane) -> None:
        while self._group is not None and lane.due and lane.running < lane.limit:
            check = lane.due.popleft()
            if self._is_current(check):
                lane.running += 1
                check.began_s = self._now_s()
                check.task = self._group.create_task(self._run(check))
                # Not within it: one that is cancelled at once never begins.
                check.task.add_done_callback(lambda _: self._ended(lane))

    def _ended(self, lane: _Lane) -> None:
        lane.running -= 1
        self._go_on(lane)

    def _is_current(self, check: Check) -> bool:
        return self._checks.get(check.name) is check

    async def _run(self, check: Check) -> None:
        try:
            outcome = await self._ask(check.probe, check.target)
        except Exception as error:  # one odd answer must not end all the other probes
            log.exception("%s: a bug", check.what)
            outcome = Outcome(passed=None, reason=repr(error))
        check.task = None
        if self._is_current(check):
            self._take(check, outcome)

    def _take(self, check: Check, outcome: Outcome) -> None:
        now_s, was_undecided = self._now_s(), check.verdict is Verdict.UNDECIDED
        if outcome.passed is None:
            self._say_why_not(check, outcome.reason)
        else:
            check.reason = outcome.reason
            check.record, _ = judge_probe(
                check.record, outcome.passed, check.probe, now_s, check.grace_until_s
            )
        pause_s = self._pause_s(check)
        if was_undecided and check.verdict is not Verdict.UNDECIDED:
            pause_s *= 0.5 + 0.5 * self._jitter()  # from its own start's rhythm to the crowd's
        self._alarms.set(check.name, max(now_s, _stepped(check.began_s + pause_s, pause_s)))
        if outcome.passed is not None or check.verdict is Verdict.UNDECIDED:
            self._judged(check)

    def _pause_s(self, check: Check) -> float:
        return probe_pause_s(check.probe, check.record, self._now_s() - check.started_s)

    def _say_why_not(self, check: Check, reason: str) -> None:
        if check.verdict is Verdict.UNDECIDED:
            check.reason = reason
        if not check.has_said_why_not:
            check.has_said_why_not = True
            log.warning("%s says nothing: %s", check.what, reason)


def _stepped(at_s: float, pause_s: float) -> float:
    return at_s if pause_s < _STEPS_FROM_S else round(at_s / _STEP_S) * _STEP_S
