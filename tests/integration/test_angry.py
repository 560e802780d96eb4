"""A real agent whose keeper, brain and instances are killed at random, with a seed.

FORMATION_ANGRY_ROUNDS (12): how long. FORMATION_ANGRY_SEED: what a failure printed, to try again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from agent_program import AgentProgram
from eventually import eventually
from fake_coordinator import FakeCoordinator

from formation.model import Assignment, InstanceState, ProcessType, Release, Slot
from formation_agent import procfs

ROUNDS = int(os.environ.get("FORMATION_ANGRY_ROUNDS", "12"))
SEED = int(os.environ.get("FORMATION_ANGRY_SEED") or secrets.randbits(32))
SETTLES_WITHIN_S = 40.0

# Every run of it has another exit code, and says when it began and how it will end.
BRIEF = """sh -c 'u=$FORMATION_INSTANCE; n=$(grep -c "$u begin" {ledger});
 echo "$u begin" >> {ledger};
 sleep 0.2; c=$((n % 90 + 10)); echo "$u exit $c" >> {ledger}; exit $c'"""
FORKS = "sh -c '(LEFT=1 setsid sleep 1000 &); exec sleep 1000'"
STUBBORN = "sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'"
LONG = {"plain": 4, "forks": 2, "stubborn": 1}
BRIEFS = 3


class Angry:
    """One agent, what it shall run, and what must hold whatever is killed."""

    def __init__(self, agent: AgentProgram, coordinator: FakeCoordinator, ledger: Path) -> None:
        self.agent = agent
        self.coordinator = coordinator
        self.dice = random.Random(SEED)
        self.story: list[str] = []
        self._ledger = ledger
        self._id = secrets.token_hex(4)  # no other agent on this machine has these instances
        self._stays: dict[Slot, Assignment] = {}
        self._count = self._told_at = 0
        # Those that no keeper before this one has run.
        self._briefs: list[str] = []

    # -- what it shall run -------------------------------------------------------------------------

    async def order(self, *, anew: float) -> None:
        """New brief ones, and another stay in some of the other slots."""
        for kind, count in (*LONG.items(), ("brief", BRIEFS)):
            for ordinal in range(1, count + 1):
                slot = Slot("angry", kind, ordinal)
                if slot not in self._stays or kind == "brief" or self.dice.random() < anew:
                    self._count += 1
                    uid = f"{self._id}-{self._count}"
                    self._stays[slot] = Assignment(uid=uid, slot=slot, release=1)
        self._briefs = [stay.uid for slot, stay in self._stays.items() if slot.type == "brief"]
        await self.tell()

    async def tell(self) -> None:
        """What it misses because its session breaks is said again after its next hello."""
        self._told_at = len(self.coordinator.hellos)
        await self.coordinator.assign(*self._stays.values(), releases=[self._release()])

    def _release(self) -> Release:
        brief = BRIEF.format(ledger=self._ledger).replace("\n", "")
        commands = {"plain": "sleep 1000", "forks": FORKS, "stubborn": STUBBORN, "brief": brief}
        types = tuple(
            ProcessType(name=name, command=command, stop_grace_s=0.3, ready_after_s=0.0)
            for name, command in commands.items()
        )
        return Release(app="angry", number=1, types=types, workdir="/")

    # -- what happens to it ------------------------------------------------------------------------

    async def round(self) -> None:
        actions = {
            self.kill_brain: 4,
            self.kill_keeper: 2,
            self.kill_both: 2,
            self.hang_up: 4,
            self.freeze_brain: 2,
            self.kill_instance: 3,
        }
        names, weights = list(actions), list(actions.values())
        count = self.dice.choice((1, 1, 2, 3))
        for action in self.dice.choices(names, weights, k=count):
            self.story.append(action.__name__)
            await action()
            await self.pause()
        await self.settles()

    async def pause(self) -> None:
        """Some time, so that what follows happens anywhere in what goes on."""
        await asyncio.sleep(self.dice.choice((0.0, 0.05, 0.3, 0.8)) * self.dice.random())

    async def kill_brain(self) -> None:
        (await self.agent.brain()).kill()

    async def kill_keeper(self) -> None:
        self.agent.descendants()
        self.agent.signal(signal.SIGKILL)
        await self.start_again()

    async def kill_both(self) -> None:
        brain = await self.agent.brain()
        brain.suspend()  # so that it cannot act on the keeper's end
        self.agent.signal(signal.SIGKILL)
        brain.kill()
        await self.start_again()

    async def start_again(self) -> None:
        await self.agent.ended()
        await self.pause()
        hellos = len(self.coordinator.hellos)
        self.agent.start()
        await eventually(
            lambda: len(self.coordinator.hellos) > hellos,
            deadline_s=SETTLES_WITHIN_S,
            what=f"the next agent's hello\n{self.agent.text[-3000:]}",
        )
        await self.order(anew=0.3)

    async def hang_up(self) -> None:
        for _ in range(self.dice.choice((1, 1, 3))):
            self.agent.signal(signal.SIGHUP)

    async def freeze_brain(self) -> None:
        brain = await self.agent.brain()
        with contextlib.suppress(psutil.NoSuchProcess):
            brain.suspend()
            await self.kill_instance()
            await self.pause()
            brain.resume()

    async def kill_instance(self) -> None:
        """Not a brief one: what it does is written down."""
        living = [process for process in self.marked() if process.slot.startswith(tuple(LONG))]
        if living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.dice.choice(living).pid, signal.SIGKILL)

    # -- what must hold ----------------------------------------------------------------------------

    async def settles(self) -> None:
        async def settled() -> bool:
            if len(self.coordinator.hellos) != self._told_at:
                await self.tell()
            assert not self.doubles()
            return not self.problems()

        try:
            await eventually(settled, deadline_s=SETTLES_WITHIN_S)
        except AssertionError as error:
            wrong = [*self.doubles(), *self.problems()]
            raise AssertionError(f"{wrong}\n{self.agent.text[-5000:]}") from error

    def problems(self) -> list[str]:
        return [*self.not_running(), *self.orphans(), *self.zombies(), *self.lost_exits()]

    def not_running(self) -> Iterator[str]:
        for slot, stay in self._stays.items():
            status = self.coordinator.table.get(stay.uid)
            healthy = status is not None and status.state is InstanceState.HEALTHY
            runs = healthy and status is not None and psutil.pid_exists(status.pid)
            if slot.type != "brief" and not runs:
                yield f"{slot} ({stay.uid}) does not run: {status}"

    def orphans(self) -> Iterator[str]:
        ours = {process.pid for process in self.agent.descendants()}
        for process in self.marked():
            if process.pid not in ours and process.lives():
                yield f"{process.slot} ({process.uid}) is an orphan: {process.pid}"

    def zombies(self) -> Iterator[str]:
        for process in self.agent.descendants():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() == psutil.STATUS_ZOMBIE:
                    yield f"zombie: {process.pid}"

    def lost_exits(self) -> Iterator[str]:
        """Every start is counted, and the last exit is the one that is shown."""
        began, last = defaultdict[str, int](int), dict[str, str]()
        for line in self._ledger.read_text().splitlines():
            uid, what, *code = line.split()
            began[uid] += what == "begin"
            last.update({uid: f"exit {code[0]}"} if code else {})
        for uid in self._briefs:
            status = self.coordinator.table.get(uid)
            if status is None or status.attempt != began[uid]:
                yield f"{uid} began {began[uid]} times: {status}"
            elif status.state is InstanceState.BACKOFF and status.last_exit != last.get(uid):
                yield f"{uid} ended last with {last.get(uid)}: {status}"

    def doubles(self) -> list[str]:
        """Slots in which two live at the same moment: both still do after both were seen."""
        mains = defaultdict[str, list[Marked]](list)
        for process in self.marked():
            mains[process.slot].append(process)
        found = []
        for slot, processes in mains.items():
            living = [process for process in processes if process.lives()]
            stays = {process.uid for process in living}
            leaders = [process for process in living if process.leads and not process.left]
            if len(stays) > 1 or len(leaders) > 1:
                found.append(f"two of {slot}: {living}")
        return found

    def marked(self) -> list[Marked]:
        return [found for pid in procfs.all_pids() if (found := Marked.of(pid, self._id))]


class Marked:
    """A process that carries the mark of one of our instances."""

    def __init__(self, pid: int, ticks: int, environment: bytes) -> None:
        self.pid = pid
        self._ticks = ticks
        self.leads = procfs.session(pid) == pid
        self.uid = _variable(environment, "FORMATION_INSTANCE")
        self.slot = _variable(environment, "PS")
        self.left = b"LEFT=1" in environment.split(b"\0")

    @classmethod
    def of(cls, pid: int, id_: str) -> Marked | None:
        ticks = procfs.start_ticks(pid)
        environment = procfs.environment(pid)
        mark = f"FORMATION_INSTANCE={id_}-".encode()
        return cls(pid, ticks, environment) if ticks and mark in environment else None

    def lives(self) -> bool:
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE and (
                procfs.start_ticks(self.pid) == self._ticks
            )
        except psutil.NoSuchProcess:
            return False

    def __repr__(self) -> str:
        return f"{self.slot} {self.uid} pid {self.pid}"


def _variable(environment: bytes, name: str) -> str:
    return (procfs.variable_in(environment, name.encode()) or b"").decode()


@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_nothing_is_orphaned_doubled_or_forgotten_whatever_is_killed(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ledger.touch()
    async with (
        FakeCoordinator(f"unix:{tmp_path / 'c.sock'}") as coordinator,
        AgentProgram(tmp_path, "--coordinator", coordinator.address, "--name", "b") as agent,
    ):
        angry = Angry(agent, coordinator, ledger)
        try:
            await angry.order(anew=1.0)
            await angry.settles()
            for _ in range(ROUNDS):
                await angry.order(anew=0.1)
                await angry.round()
            agent.signal(signal.SIGTERM)
            assert await agent.ended(SETTLES_WITHIN_S) == 0
            await eventually(lambda: not angry.marked())
        except BaseException:
            print(f"FORMATION_ANGRY_SEED={SEED}; it went: {', '.join(angry.story)}")
            raise
