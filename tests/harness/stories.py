"""Stories of a cluster, written for people, and what the leader does in them: golden files.

A line that begins with `> ` is what happens; the lines after it are what the leader then says and
does, until it waits. Agents obey at once, and what they start is well, unless its release is bad:
then it crash-loops everywhere.

    > hosts a b c zone=z1          three hosts join
    > type web surge=1 port=8080   a type: surge= unavailable= healthy= deadline= port= memory=
                                   exclusive per_host max_per_host= require= apart= cron= wait
    > release [bad] [canary=N] [command=passes|fails|lasts [timeout=S]]
                                   the types, as the next release; with a release command
    > scale web=3
    > silent b / back b / goodbye b / forget b / crash b (its instances)
    > cordon a / drain a [deadline=S] / uncordon a / label a ssd=yes
    > pause / resume / promote / abort / restart web / restart web.1
    > run NAME / after 6s

Traces: `+` placed, `-` no longer listed, `~` told to end; `:` the leader's sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

from msgspec import structs
from worlds import host as made_host
from worlds import process_type, release, step

from formation.model import (
    Assignment,
    Host,
    HostStatus,
    InstanceState,
    InstanceStatus,
    ProcessType,
    Release,
    Slot,
)
from formation.releasecommand import RELEASE, ReleaseCommand
from formation.requests import Run
from formation.rules import (
    Constraint,
    HostLoss,
    LossAction,
    Resources,
    RolloutRules,
    Schedule,
    Share,
    Where,
    rollout_defaults,
)
from formation.seen import Rollout
from formation_coordinator import candidates
from formation_coordinator.book import Book
from formation_coordinator.changing import with_release
from formation_coordinator.plan import Plan
from formation_coordinator.world import Change, HostEntry, World, apply

WALL_BEGINS_MS = 1_772_366_400_000  # 2026-03-01 12:00:00 UTC
PASSES_MAX = 60
_ENDS = {
    "passes": (InstanceState.FINISHED, "exit 0"),
    "fails": (InstanceState.FAILED, "exit 1"),
    "lasts": (InstanceState.HEALTHY, ""),
}


def told(script: str) -> str:
    """The script again, with what the leader does now."""
    story, lines = Story(), []
    for line in script.splitlines():
        if line.startswith("#") or not line.strip():
            lines.append(line)
        elif line.startswith("> "):
            lines.append(line)
            lines += story.tell(line.removeprefix("> ").split())
    return "\n".join(lines) + "\n"


class Story:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.world = World()
        self.book = Book()
        self.plan = Plan()
        self.types: dict[str, ProcessType] = {}
        self.bad: set[int] = set()
        self.commands: dict[int, str] = {}
        self.looping: dict[str, int] = {}
        self._stems = (f"s{number}" for number in count(1))
        self._sentence = ""

    def tell(self, words: list[str]) -> list[str]:
        verb, rest = words[0], words[1:]
        if verb == "after":
            return list(self._until(self.now_s + float(rest[0].removesuffix("s"))))
        names = [word for word in rest if "=" not in word]
        pairs = dict(word.split("=", 1) for word in rest if "=" in word)
        tellers: dict[str, Callable[[list[str], dict[str, str]], None]] = {
            "hosts": self._hosts, "type": self._type, "release": self._release,
            "scale": self._scale, "silent": self._silent, "back": self._back,
            "goodbye": self._goodbye, "forget": self._forget, "cordon": self._cordon,
            "drain": self._drain, "uncordon": self._uncordon, "label": self._label,
            "pause": self._pause, "resume": self._resume, "promote": self._promote,
            "abort": self._abort, "restart": self._restart, "run": self._run,
            "crash": self._crash,
        }  # fmt: skip
        tellers[verb](names, pairs)
        return list(self._passes())

    # -- time --------------------------------------------------------------------------------------

    def _until(self, ends_s: float) -> Iterator[str]:
        for _ in range(1_000):
            at_s = self.plan.wake_at_s
            if at_s is None or at_s > ends_s:
                break
            self.now_s = max(self.now_s, at_s) + 0.001
            lines = list(self._passes())
            if lines:
                yield f"  {self.now_s - 100:.0f}s"
                yield from lines
        self.now_s = max(self.now_s, ends_s)

    def _passes(self) -> Iterator[str]:
        for _ in range(PASSES_MAX):
            plan = self._step()
            if plan.sentence != self._sentence and (plan.pending or plan.brake):
                yield f"  : {plan.sentence}"
            self._sentence = plan.sentence
            if not plan.writes:
                return
            yield from self._written(plan)
        raise AssertionError("the leader does not come to rest")

    def _step(self) -> Plan:
        self.plan = step(
            self.world,
            now_s=self.now_s,
            wall_ms=WALL_BEGINS_MS + int((self.now_s - 100) * 1000),
            stem=next(self._stems),
            book=self.book,
            progress=self.plan.progress,
        )
        return self.plan

    def _written(self, plan: Plan) -> Iterator[str]:
        before = self.world.hosts
        for decision in plan.decisions:
            words = (decision.action, decision.before, decision.after, decision.why)
            yield f"  : {' '.join(words)}".rstrip()
        for document in sorted(plan.documents, key=lambda d: d.host):
            old = {item.uid: item for item in before[document.host].assigned}
            new = {item.uid: item for item in document.instances}
            yield from _changes(document.host, old, new)
        changes = [Change(kind="assignments", names=(d.host,), record=d) for d in plan.documents]
        self._take(*plan.records, *changes)
        for document in plan.documents:
            self._say(document.host)

    def _take(self, *changes: Change) -> None:
        revision = self.world.revision + 1
        self.world = apply(self.world, changes, revision=revision, now_s=self.now_s)

    # -- agents ------------------------------------------------------------------------------------

    def _say(self, name: str) -> None:
        entry = self.world.hosts[name]
        if entry.connected:
            self._take(Change(kind="status", names=(name,), record=self._status(entry)))

    def _status(self, entry: HostEntry) -> HostStatus:
        assert entry.status is not None
        running = tuple(self._of(item) for item in entry.assigned if not item.ending)
        generation = entry.document.generation if entry.document else 0
        return structs.replace(
            entry.status, instances=running, generation=generation, departed=False
        )

    def _of(self, item: Assignment) -> InstanceStatus:
        said = InstanceStatus(
            uid=item.uid, slot=item.slot, release=item.release, state=InstanceState.HEALTHY
        )
        if item.run and item.slot.type == RELEASE:
            state, last_exit = _ENDS[self.commands[item.release]]
            return structs.replace(said, state=state, last_exit=last_exit)
        if item.run:
            return structs.replace(said, state=InstanceState.FINISHED, last_exit="exit 0")
        if item.release in self.bad or item.uid in self.looping:
            failed = {"failures": 5, "crash_looping": True, "last_exit": "exit 1"}
            return structs.replace(said, state=InstanceState.BACKOFF, **failed)  # type: ignore[arg-type]
        return said

    # -- what happens ------------------------------------------------------------------------------

    def _hosts(self, names: list[str], pairs: dict[str, str]) -> None:
        memory = int(pairs.pop("memory", "0")) * 2**20
        for name in names:
            entry = made_host(name, labels=pairs, memory_bytes=memory)
            self._take(
                Change(kind="hosts", names=(name,), record=entry.host),
                Change(kind="sessions", names=(name,), record=entry.session),
                Change(kind="status", names=(name,), record=entry.status),
            )

    def _type(self, names: list[str], pairs: dict[str, str]) -> None:
        name, flags = names[0], set(names[1:])
        port, alone = int(pairs.get("port", "0")), "exclusive" in flags
        usual = rollout_defaults(port=port, exclusive=alone, per_host="per_host" in flags)
        rules = RolloutRules(
            surge=_share(pairs.get("surge"), usual.surge),
            unavailable=_share(pairs.get("unavailable"), usual.unavailable),
            healthy_s=float(pairs.get("healthy", "10")),
            deadline_s=float(pairs.get("deadline", "300")),
        )
        where = Where(
            require=(Constraint(label=pairs["require"]),) if "require" in pairs else (),
            max_per_host=int(pairs.get("max_per_host", "0")),
            apart_from=(pairs["apart"],) if "apart" in pairs else (),
        )
        self.types[name] = process_type(
            name,
            port=port,
            rollout=rules,
            where=where,
            exclusive=alone,
            per_host="per_host" in flags,
            resources=Resources(memory_bytes=int(pairs.get("memory", "0")) * 2**20),
            schedule=Schedule(cron=pairs["cron"].replace("_", " ")) if "cron" in pairs else None,
            on_host_loss=HostLoss(
                action=LossAction.WAIT if "wait" in flags else LossAction.REPLACE
            ),
            stop_grace_s=3.0,
        )

    def _release(self, names: list[str], pairs: dict[str, str]) -> None:
        app = self.world.apps.get("shop")
        number = app.latest_release + 1 if app else 1
        if "bad" in names:
            self.bad.add(number)
        record: Release = release(*self.types.values(), number=number)
        record = replace(record, created_at_ms=WALL_BEGINS_MS + int((self.now_s - 100) * 1000))
        word = Rollout(canary=int(pairs.get("canary", "0")))
        if "command" in pairs:
            self.commands[number] = pairs["command"]
            timeout_s = float(pairs.get("timeout", "60"))
            record = replace(record, command=ReleaseCommand(command="x", timeout_s=timeout_s))
        self._take(
            Change(kind="releases", names=("shop", str(number)), record=record),
            Change(kind="apps", names=("shop",), record=with_release(app, record, {}, word)),
        )
        candidate = self.world.apps["shop"].candidate
        if candidate is not None:
            run = candidates.run_of(record, candidate)
            self._take(Change(kind="runs", names=("shop", run.id), record=run))

    def _app(self, **fields: object) -> None:
        changed = replace(self.world.apps["shop"], **fields)  # type: ignore[arg-type]
        self._take(Change(kind="apps", names=("shop",), record=changed))

    def _scale(self, _: list[str], pairs: dict[str, str]) -> None:
        wanted = {name: int(number) for name, number in pairs.items()}
        self._app(formation={**self.world.apps["shop"].formation, **wanted})

    def _silent(self, names: list[str], _: dict[str, str]) -> None:
        for name in names:
            self._take(Change(kind="sessions", names=(name,), record=None))

    def _back(self, names: list[str], _: dict[str, str]) -> None:
        for name in names:
            session = made_host(name).session
            self._take(Change(kind="sessions", names=(name,), record=session))
            self._say(name)

    def _goodbye(self, names: list[str], _: dict[str, str]) -> None:
        for name in names:
            status = self.world.hosts[name].status
            assert status is not None
            gone = structs.replace(status, instances=(), departed=True)
            self._take(
                Change(kind="status", names=(name,), record=gone),
                Change(kind="sessions", names=(name,), record=None),
            )

    def _forget(self, names: list[str], _: dict[str, str]) -> None:
        for name in names:
            document = self.world.hosts[name].document
            assert document is not None
            emptied = replace(document, bundles=(), generation=document.generation + 1)
            self._take(
                Change(kind="hosts", names=(name,), record=None),
                Change(kind="status", names=(name,), record=None),
                Change(kind="assignments", names=(name,), record=emptied),
            )

    def _crash(self, names: list[str], _: dict[str, str]) -> None:
        """All that is on these hosts now crash-loops there."""
        for name in names:
            for item in self.world.hosts[name].assigned:
                self.looping[item.uid] = 1
            self._say(name)

    def _word(self, name: str, **fields: object) -> None:
        host = self.world.hosts[name].host or Host(name=name)
        changed = replace(host, **fields)  # type: ignore[arg-type]
        self._take(Change(kind="hosts", names=(name,), record=changed))

    def _cordon(self, names: list[str], _: dict[str, str]) -> None:
        self._word(names[0], cordoned=True)

    def _drain(self, names: list[str], pairs: dict[str, str]) -> None:
        deadline_s = float(pairs.get("deadline", "0"))
        self._word(names[0], cordoned=True, draining=True, drain_deadline_s=deadline_s)

    def _uncordon(self, names: list[str], _: dict[str, str]) -> None:
        self._word(names[0], cordoned=False, draining=False)

    def _label(self, names: list[str], pairs: dict[str, str]) -> None:
        self._word(names[0], labels=pairs)

    def _pause(self, _: list[str], __: dict[str, str]) -> None:
        self._app(rollout=replace(self.world.apps["shop"].rollout, paused=True))

    def _resume(self, _: list[str], __: dict[str, str]) -> None:
        self._app(rollout=replace(self.world.apps["shop"].rollout, paused=False))

    def _promote(self, _: list[str], __: dict[str, str]) -> None:
        self._app(rollout=Rollout())

    def _abort(self, _: list[str], __: dict[str, str]) -> None:
        app = self.world.apps["shop"]
        if app.candidate is not None:
            aborted = candidates.taken_back(app, "aborted by ann")
            self._take(Change(kind="apps", names=("shop",), record=aborted))
            return
        undone = Rollout(undone_release=app.release, reason="aborted by ann")
        self._app(release=app.stable_release, rollout=undone)

    def _restart(self, names: list[str], _: dict[str, str]) -> None:
        marks = self.world.apps["shop"].restart_marks
        self._app(restart_marks={**marks, names[0]: marks.get(names[0], 0) + 1})

    def _run(self, names: list[str], _: dict[str, str]) -> None:
        app = self.world.apps["shop"]
        number = app.runs_made + 1
        run = Run(
            id=f"run.{number}",
            slot=Slot("shop", "run", number),
            release=app.release,
            command=names[0],
            who="ann",
        )
        self._take(Change(kind="runs", names=("shop", run.id), record=run))
        self._app(runs_made=number)


def _changes(host: str, old: dict[str, Assignment], new: dict[str, Assignment]) -> Iterator[str]:
    for uid, item in old.items():
        if uid not in new:
            yield f"  - {item.slot.short} on {host}"
        elif new[uid].ending and not item.ending:
            yield f"  ~ {item.slot.short} on {host}: {new[uid].reason}"
    for uid, item in new.items():
        if uid not in old:
            yield f"  + {item.slot.short} on {host}: {item.reason}"


def _share(text: str | None, usual: Share) -> Share:
    if text is None:
        return usual
    return Share(percent=float(text[:-1])) if text.endswith("%") else Share(count=int(text))
