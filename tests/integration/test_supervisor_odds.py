"""The supervisor when orders meet and when processes cannot be started or heard."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from supervisor_bench import FDS, V1, Bench, FakeChildren, child, stay, wanted

from formation.memory import AgentMemory
from formation.model import InstanceState
from formation_agent import orders
from formation_agent.journal import Journal, load


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# -- orders that meet ------------------------------------------------------------------------------


class SlowJournal(Journal):
    """Writes when the test opens the gate."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, AgentMemory(agent_id="a1"))
        self.writing, self.gate = asyncio.Event(), asyncio.Event()

    async def _write(self, memory: AgentMemory) -> None:
        self.writing.set()
        await self.gate.wait()
        await super()._write(memory)


async def test_an_order_is_judged_by_what_a_broken_session_left_half_way(tmp_path: Path) -> None:
    journal = SlowJournal(tmp_path)
    bench = Bench(tmp_path, journal=journal)
    first = asyncio.create_task(bench.supervisor.take(wanted(5, stay("u1"), epoch=12)))
    await journal.writing.wait()
    first.cancel()  # the session broke
    older = asyncio.create_task(bench.supervisor.take(wanted(4, stay("u2", ordinal=2), epoch=11)))
    await asyncio.sleep(0)
    journal.gate.set()
    assert isinstance(await asyncio.wait_for(older, 5), orders.Refuse)
    assert (journal.memory.epoch, journal.memory.generation) == (12, 5)
    assert bench.children.spawned == ["u1:1"]
    assert journal.memory.releases == (V1,)


async def test_after_the_goodbye_no_order_comes_back_to_the_disk(tmp_path: Path) -> None:
    journal = SlowJournal(tmp_path)
    bench = Bench(tmp_path, journal=journal)
    late = asyncio.create_task(bench.supervisor.take(wanted(1, stay("u1"))))
    await journal.writing.wait()
    forgetting = asyncio.create_task(bench.supervisor.forget_orders())
    await asyncio.sleep(0)
    later = asyncio.create_task(bench.supervisor.take(wanted(2, stay("u1"))))
    journal.gate.set()
    await asyncio.wait_for(asyncio.gather(late, forgetting), 5)
    await asyncio.sleep(0)
    assert not later.done()
    later.cancel()
    on_disk = load(tmp_path, "new").memory
    assert (on_disk.generation, on_disk.assigned) == (1, ())


async def test_a_stay_that_is_listed_again_while_it_stops_runs_again(bench: Bench) -> None:
    await bench.want(stay("u1"))
    bench.started("u1:1")
    await bench.want()
    assert bench.state("u1") is InstanceState.STOPPING
    bench.supervisor.take_changes()
    await bench.want(stay("u1"))
    bench.exited("u1:1")
    assert bench.children.spawned == ["u1:1", "u1:2"]
    bench.started("u1:2")
    changes = bench.supervisor.take_changes()
    assert [(s.uid, s.attempt) for s in changes.changed] == [("u1", 2)]
    assert changes.gone_uids == ()


# -- what cannot be started or heard ---------------------------------------------------------------


async def test_an_assignment_that_nobody_thought_of_does_not_end_the_others(bench: Bench) -> None:
    class Surprised(FakeChildren):
        def spawn(self, key: str, **words: Any) -> None:
            if key.startswith("odd"):
                raise OverflowError("a number too large")
            super().spawn(key, **words)

    bench.supervisor._children = children = Surprised()
    await bench.want(stay("odd"), stay("u2", ordinal=2))
    assert children.spawned == ["u2:1"]
    assert bench.state("odd") is InstanceState.BACKOFF
    reasons = {status.uid: status.reason for status in bench.supervisor.statuses()}
    assert reasons["odd"] == "cannot be started: OverflowError('a number too large')"


async def test_no_more_are_started_than_files_can_be_open(tmp_path: Path) -> None:
    bench = Bench(tmp_path, files_max=64 + 5 * 2)
    await bench.want(*(stay(f"u{n}", ordinal=n) for n in (1, 2, 3)))
    assert bench.children.spawned == ["u1:1", "u2:1"]
    reasons = {status.uid: status.reason for status in bench.supervisor.statuses()}
    assert reasons["u3"] == "too many open files: raise LimitNOFILE (now 74)"
    bench.started("u1:1")
    await bench.want(stay("u2", ordinal=2), stay("u4", ordinal=4))
    assert bench.children.spawned == ["u1:1", "u2:1"]
    bench.exited("u1:1")
    await bench.want(stay("u2", ordinal=2), stay("u5", ordinal=5))
    assert bench.children.spawned == ["u1:1", "u2:1", "u5:1"]


async def test_a_process_whose_pipe_did_not_arrive_is_ended_and_it_is_said(bench: Bench) -> None:
    await bench.want(stay("u1"))
    bench.started("u1:1", fds=(FDS[0], -1))
    assert bench.children.told("u1:1") == [signal.SIGKILL]
    (note,) = [line for line in bench.logs.story if line.startswith("note")]
    assert note == (
        "note web.1: its output cannot be read: too many open files:"
        " raise LimitNOFILE (1 pipes lost so far)"
    )
    bench.exited("u1:1")
    assert bench.children.spawned == ["u1:1", "u1:2"]


async def test_a_process_that_runs_already_is_not_ended_for_a_lost_pipe(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AgentMemory(agent_id="a1", assigned=(stay("u1"),), releases=(V1,)))
    bench.supervisor.start([child("u1:3", fds=(-1, -1))])
    assert bench.children.signals == []
    assert "2 pipes lost so far" in bench.logs.story[0]
