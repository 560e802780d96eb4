"""One run: a live cluster, faults from a seed, an operator and load meanwhile; then a look."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lab import Lab

from chaos.operator import APP, Command, Operator, lost
from chaos.recorder import Record, Recorder, Stay
from chaos.schedule import Fault, Places, schedule
from chaos.traffic import Traffic
from chaos.verbs import WORKLOADS, Verbs

CONVERGES_S = 90.0
# From a fault to the moment at which what it silenced is replaced, and for old news to arrive.
LOST_SLACK_S = 30.0
DISK_BYTES = 4 * 1024 * 1024
_SCRIPTS = Path(__file__).resolve().parent.parent / "workloads"
_LOST = re.compile(r"^(\S+) was lost$")


@dataclass(slots=True, kw_only=True)
class Result:
    seed: int
    faults: list[Fault]
    violations: list[str] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    stays: int = 0
    moved: int = 0
    converged_s: float = 0.0

    def lines(self) -> Iterator[str]:
        made = Counter(
            "acknowledged" if c.acknowledged else "refused" if c.refused else "doubtful"
            for c in self.commands
        )
        yield f"seed {self.seed}: {len(self.faults)} faults"
        yield f"  kinds: {_counts(Counter(fault.kind for fault in self.faults))}"
        yield f"  commands: {_counts(made)}"
        yield f"  requests: {_counts(self.answers)}"
        yield f"  stays: {self.stays}, of which {self.moved} because their host was lost"
        yield f"  all at rest {self.converged_s:.1f} s after the last fault"
        yield f"  violations: {len(self.violations)}"
        for violation in self.violations:
            yield f"    {violation}"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counter.most_common()) or "none"


def manifest(directory: Path) -> str:
    python = f"{sys.executable} -S -E"
    return f"""
app = "{APP}"
[types.web]
command = "{python} {_SCRIPTS}/web.py"
quantity = 3
ready.http = "/"
ready.every = "1s"
stop.grace = "5s"
rollout.rollback = false
rollout.healthy = "1s"
[types.worker]
command = "{python} {_SCRIPTS}/worker.py {directory}"
quantity = 4
stop.grace = "5s"
rollout.rollback = false
rollout.healthy = "1s"
[types.one]
command = "{python} {_SCRIPTS}/holder.py {directory}"
quantity = 1
exclusive = true
stop.grace = "2s"
rollout.rollback = false
rollout.healthy = "1s"
"""


class Run:
    def __init__(self, lab: Lab, seed: int, length_s: float, say: Callable[[str], None]) -> None:
        self._lab, self._say = lab, say
        places = Places(lab.etcds, lab.coordinator_names, lab.agent_names)
        self.result = Result(seed=seed, faults=schedule(seed, length_s, places))
        self._verbs = Verbs(lab, seed)
        self._shared = lab.directory / "shared"
        self._length_s = length_s

    def go(self) -> Result:
        self._prepare()
        began_s = time.monotonic()
        recorder = Recorder(self._lab.etcd, began_s)
        operator = Operator(self._lab, self.result.seed)
        addresses = [self._lab.address(name) for name in self._lab.coordinator_names]
        hosts = {name: host.address for name, host in self._lab.network.hosts.items()}
        traffic = Traffic(addresses, hosts, APP, self._lab.channel)
        for thread in (recorder, operator, traffic):
            thread.start()
        self._let_it_happen(began_s)
        self.result.commands = operator.finish()
        self._comes_to_rest()
        self.result.answers = traffic.finish()
        self._judge(recorder.finish())
        return self.result

    def _prepare(self) -> None:
        lab = self._lab
        self._shared.mkdir()
        for name in lab.agent_names:
            lab.small_disk(lab.state(name), DISK_BYTES)
        lab.up("--log-max-bytes", "65536", "--log-files", "2")
        app = lab.app({"formation.toml": manifest(self._shared)}, APP)
        lab.formctl("apply", str(app), "--workdir", str(self._shared))

    # ------------------------------------------------------------------ faults

    def _let_it_happen(self, began_s: float) -> None:
        events = [(f.at_s, True, f) for f in self.result.faults]
        events += [(f.ends_s, False, f) for f in self.result.faults]
        for at_s, begins, fault in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, began_s + at_s - time.monotonic()))
            self._say(f"{time.monotonic() - began_s:6.1f} s {'' if begins else 'no more '}"
                      f"{fault.kind} {' '.join(fault.targets)}")  # fmt: skip
            (self._verbs.begin if begins else self._verbs.end)(fault)
        time.sleep(max(0.0, began_s + self._length_s - time.monotonic()))
        self._lab.network.heal()

    def _comes_to_rest(self) -> None:
        began_s = time.monotonic()
        try:
            self._lab.wait_hosts(len(self._lab.agent_names))
            self._lab.wait(lambda: not list(self._unsettled()), deadline_s=CONVERGES_S, what="rest")
        except AssertionError as error:
            still = "; ".join(self._unsettled())
            self.result.violations.append(f"it does not come to rest: {still} ({error})"[:600])
        self.result.converged_s = time.monotonic() - began_s

    def _unsettled(self) -> Iterator[str]:
        """What is not as wanted: wrong numbers, wrong states, processes that nobody wants."""
        rows = self._lab.ps(APP)
        (app,) = (row for row in self._lab.json("apps") if row["app"] == APP)
        for name, quantity in app["formation"].items():
            mine = [row for row in rows if row["type"] == name]
            if len(mine) != quantity or any(r["state"] != "healthy" or r["surplus"] for r in mine):
                states = [f"{r['ordinal']} {r['state']} {r['reason']}"[:80] for r in mine]
                yield f"{name}: {quantity} wanted, and there is {states}"
        known = {(row["host"], row["pid"]) for row in rows if row["pid"]}
        real = {
            (host, pid)
            for script in WORKLOADS
            for host, pids in self._lab.workload(script).items()
            for pid in pids
        }
        if known != real:
            yield f"unknown processes {sorted(real - known)}, missing {sorted(known - real)}"

    # ------------------------------------------------------------------ the verdict

    def _judge(self, record: Record) -> None:
        found = self.result.violations
        found += lost(self._lab, self.result.commands)
        overlaps = self._shared / "overlaps"
        if overlaps.exists():
            found += [f"two of one: {line}" for line in overlaps.read_text().splitlines()]
        if record.stale_writes:
            found.append(f"{record.stale_writes} documents of a leader that had been deposed")
        found += [f"dropped without a reason: {text}" for text in record.unexplained]
        self.result.stays = len(record.stays)
        for stay in record.stays.values():
            self._judge_move(stay)
        found += self._told_without_reason(record)

    def _judge_move(self, stay: Stay) -> None:
        """Only what a fault had silenced may have been replaced as lost."""
        match = _LOST.match(stay.item.reason)
        if match is None:
            return
        self.result.moved += 1
        host, at_s = match[1], stay.placed_s
        if not any(fault.touches(host, at_s, LOST_SLACK_S) for fault in self.result.faults):
            self.result.violations.append(
                f"{stay.item.uid} at {at_s:.1f} s since {host} was lost, which nothing had cut off"
            )

    def _told_without_reason(self, record: Record) -> Iterator[str]:
        """A worker that was told to end is in no document any more, or its agent was ended."""
        assigned = {uid for uid, stay in record.stays.items() if stay.gone_s is None}
        ended = {t for f in self.result.faults if f.kind in ("kill agent", "power off")
                 for t in f.targets}  # fmt: skip
        for ledger in self._shared.glob("ledger-*"):
            host = ledger.name.removeprefix("ledger-")
            for line in ledger.read_text().splitlines():
                _, what, uid, _ = line.split()
                if what == "told" and uid in assigned and host not in ended:
                    yield f"{uid} on {host} was told to end, and is wanted there: {line}"


def run(seed: int, length_s: float, say: Callable[[str], None]) -> Result:
    with Lab(coordinators=3, agents=4) as lab:
        result = Run(lab, seed, length_s, say).go()
        if result.violations:
            say(_logs(lab))
        return result


def _logs(lab: Lab) -> str:
    names = (*lab.coordinator_names, *lab.agent_names)
    return "\n".join(f"--- {name}\n{lab.log(name)[-20_000:]}" for name in names)
