"""What the supervisor keeps of one stay beside the machine's part, and the words it uses for it.

Pure but for one look at a stranger's environment, and at the wall clock.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from formation.memory import AgentMemory, Tries
from formation.model import (
    Assignment,
    InstanceState,
    InstanceStatus,
    ProcessType,
    Release,
    RestartPolicy,
    Slot,
)
from formation.policy import is_crash_looping
from formation.running import spec_of
from formation.runtime import now_ms
from formation_agent import facts, machine, processes
from formation_agent.launch import Launch
from formation_agent.machine import Phase, Stay
from formation_agent.orders import Releases

# What a shell says when it could not run a command.
_SHELL_EXITS = {126: "exit 126 (not executable?)", 127: "exit 127 (command not found?)"}
_NAMED_MAX = 10
_INTERRUPTED = "its end is not known: its agent or machine went down while it ran"
_OVER = (Phase.FINISHED, Phase.FAILED)
# Something of it runs, so it can be heard.
HEARD = frozenset(
    {
        Phase.STARTING,
        Phase.HEALTHY,
        Phase.UNREADY,
        Phase.LEAVING,
        Phase.RESTARTING,
        Phase.CLEANING,
        Phase.DRAINING,
        Phase.STOPPING,
    }
)
# What runs of it shall not be probed.
ENDING = frozenset(
    {Phase.LEAVING, Phase.RESTARTING, Phase.CLEANING, Phase.DRAINING, Phase.STOPPING}
)
_MAY_LOOP = (InstanceState.STARTING, InstanceState.BACKOFF, InstanceState.RESTARTING)


@dataclass(slots=True, kw_only=True)
class Entry:
    """A stay and what the shell around the machine knows of it. `launch`: while it is started.
    `unbuildable`: why the code that it waits for cannot be built here."""

    stay: Stay
    start_ticks: int = 0
    started_at_ms: int = 0
    retry_at_ms: int = 0
    cgroup: str = ""
    launch: Launch | None = None
    unbuildable: str = ""
    # Of the last time, and of what: orders come for one of hundreds, and all are written down.
    _tries: tuple[Stay, int, bool, Tries] | None = None

    @property
    def uid(self) -> str:
        return self.stay.assignment.uid

    @property
    def slot(self) -> Slot:
        return self.stay.assignment.slot

    @property
    def key(self) -> str:
        return key_of(self.uid, self.stay.attempt)

    def tries(self, wanted: Assignment | None) -> Tries:
        """For the journal. `wanted`: as it is written there; a retry that it asks for and that
        was not begun yet must not be lost with us."""
        stay = self.stay
        retried = wanted is not None and wanted.retry_mark > stay.assignment.retry_mark
        known = self._tries
        if known and known[0] is stay and known[1:3] == (self.start_ticks, retried):
            return known[3]
        tries = self._tries_of(stay, retried=retried)
        self._tries = stay, self.start_ticks, retried, tries
        return tries

    def _tries_of(self, stay: Stay, *, retried: bool) -> Tries:
        return Tries(
            attempt=stay.attempt,
            failures=stay.failures,
            pid=stay.pid,
            start_ticks=self.start_ticks if stay.pid else 0,
            over=0 if retried else over_of(stay),
            last_exit=stay.last_exit,
            ready=is_known_ready(stay),
        )


def stay_of(assignment: Assignment, release: Release | None, tries: Tries | None) -> Stay:
    """`tries`: as the journal remembers them; None of a stay that is new here."""
    slot = assignment.slot
    spec = spec_of(release, assignment)
    tries = tries or Tries(failures=assignment.failures)
    stay = Stay(
        assignment=assignment,
        # Only a stray has none, and it is only stopped.
        spec=spec or ProcessType(name=slot.type, command=""),
        attempt=tries.attempt,
        failures=tries.failures,
        last_exit=tries.last_exit,
    )
    return machine.over(stay, InstanceState(tries.over)) if tries.over else stay


def interrupted(stay: Stay) -> Stay:
    """A stay that an agent finds without a process, though one was started: it went with an agent
    or a machine."""
    if not had_its_try(stay) or stay.phase in _OVER:
        return stay
    return machine.over(structs.replace(stay, last_exit=_INTERRUPTED), InstanceState.FAILED)


def had_its_try(stay: Stay) -> bool:
    """It shall run once, and has: whatever became of that, it is not started again."""
    return stay.spec.restart is RestartPolicy.NEVER and stay.attempt > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The latest of every instance that changed, and the uids that are no more."""

    changed: tuple[InstanceStatus, ...] = ()
    gone_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One process tree, for who measures it. `pid` 0: only what the main process left behind.
    `cgroup`: the directory of its own, or ""."""

    uid: str
    slot: Slot
    key: str
    pid: int
    cgroup: str


def running_of(entry: Entry) -> Running:
    return Running(
        uid=entry.uid, slot=entry.slot, key=entry.key, pid=entry.stay.pid, cgroup=entry.cgroup
    )


def over_of(stay: Stay) -> int:
    """As the journal says it. An end stays what it was when somebody stops what is left of it."""
    if stay.phase in _OVER or (stay.phase is Phase.STOPPED and stay.after in _OVER):
        return machine.STATE_OF[stay.after].value
    return 0


def is_known_ready(stay: Stay) -> bool:
    """Of who says so: readiness that is a matter of time can be found out again."""
    says = stay.spec.notify or stay.spec.readiness is not None
    return says and stay.phase in (Phase.HEALTHY, Phase.DRAINING)


def remembered(
    memory: AgentMemory,
    table: Mapping[str, Entry],
    live: Iterable[Entry],
    releases: Releases,
    ports: Mapping[Slot, int],
    past: Iterable[Assignment] = (),
) -> AgentMemory:
    """What goes to disk: `memory` and all that is known beside it, of what is wanted or live, and
    of `past`, which an earlier brain knew."""
    wanted = {item.uid: item for item in memory.assigned}
    stopping = {e.uid: e.stay.assignment for e in live if e.uid not in wanted}
    unknown = {item.uid: item for item in past if item.uid not in table}
    ending = (*stopping.values(), *(i for uid, i in unknown.items() if uid not in wanted))
    kept = (*memory.assigned, *ending)
    slots, uids = {item.slot for item in kept}, {item.uid for item in kept}
    return replace(
        memory,
        ending=ending,
        releases=tuple(needed(releases, kept).values()),
        ports={slot: port for slot, port in ports.items() if slot in slots},
        tries={uid: tries for uid, tries in memory.tries.items() if uid in unknown}
        | {uid: entry.tries(wanted.get(uid)) for uid, entry in table.items() if uid in uids},
    )


def needed(releases: Releases, kept: Iterable[Assignment]) -> Releases:
    """Those that `kept` run."""
    names = {(item.slot.app, item.release) for item in kept}
    return {name: release for name, release in releases.items() if name in names}


def status_of(entry: Entry, port: int, now_s: float) -> InstanceStatus:
    stay = entry.stay
    return InstanceStatus(
        uid=entry.uid,
        slot=entry.slot,
        release=stay.assignment.release,
        state=stay.state,
        pid=stay.pid,
        port=port if stay.attempt else 0,
        attempt=stay.attempt,
        started_at_ms=entry.started_at_ms if stay.pid else 0,
        reason=stay.reason,
        last_exit=stay.last_exit,
        retry_at_ms=entry.retry_at_ms,
        failures=stay.failures,
        crash_looping=stay.state in _MAY_LOOP and is_crash_looping(stay.failed_at_s, now_s),
        unbuildable=entry.unbuildable if stay.phase is Phase.WAITING else "",
        told=stay.told,
    )


def wall_ms(at_s: float | None, now_s: float) -> int:
    return 0 if at_s is None else now_ms() + int((at_s - now_s) * 1000)


def key_of(uid: str, attempt: int) -> str:
    return f"{uid}:{attempt}"


def uid_of(key: str) -> str:
    return key.rpartition(":")[0]


def attempt_of(key: str) -> int:
    return int(key.rpartition(":")[2])


def signal_number(name: str) -> int:
    try:
        return signal.Signals[f"SIG{name}"]
    except KeyError:  # a release may name a signal that this machine does not have
        return signal.SIGTERM


def exited(event: processes.Exited, *, just_now: bool) -> machine.Exited:
    return machine.Exited(
        how=_how(event), empty=event.empty, success=event.code == 0, just_now=just_now
    )


def _how(event: processes.Exited) -> str:
    if event.oom_killed:
        # It may have been another one of the tree, and some time ago.
        plain = processes.describe_exit(replace(event, oom_killed=False))
        killed = event.signal == signal.SIGKILL
        return f"out of memory ({plain})" if killed else f"{plain} (out of memory before)"
    return _SHELL_EXITS.get(event.code or 0) or processes.describe_exit(event)


def names_of(living: Sequence[processes.Living]) -> str:
    """ "4711 (python), 4712 (sleep)"."""
    named = ", ".join(f"{item.pid} ({item.name})" for item in living[:_NAMED_MAX])
    more = len(living) - _NAMED_MAX
    return f"{named} and {more} more" if more > 0 else named


def stray(uid: str, pid: int) -> Assignment:
    """A child that the journal does not know: it keeps its slot until it is gone."""
    slot = facts.slot_of_process(pid) or Slot("unknown", "process", pid)
    return Assignment(uid=uid, slot=slot, release=0)
