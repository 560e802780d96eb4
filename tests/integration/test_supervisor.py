"""The supervisor over children that a test answers for: order, adoption, scale, the end."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest
from eventually import eventually
from supervisor_bench import V1, Bench, FakeChildren, child, exit_of, stay

from formation.memory import AgentMemory, Tries
from formation.model import Assignment, InstanceState, Slot
from formation_agent import facts, processes
from formation_agent.journal import load


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_orders_are_on_disk_before_anything_is_spawned(bench: Bench) -> None:
    class Suspicious(FakeChildren):
        def spawn(self, key: str, **words: object) -> None:
            on_disk = load(bench.directory, "new").memory
            assert [item.uid for item in on_disk.assigned] == ["u1"]
            self.spawned.append(key)

    bench.supervisor._children = children = Suspicious()
    await bench.want(stay("u1"))
    assert children.spawned == ["u1:1"]


async def test_orders_that_cannot_be_written_are_not_followed(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "missing")
    with pytest.raises(Exception, match="cannot write"):
        await bench.want(stay("u1"))
    assert bench.children.spawned == []
    assert bench.journal.memory.assigned == ()


async def test_a_slot_is_handed_over_when_the_old_tree_is_empty(bench: Bench) -> None:
    await bench.want(stay("old"))
    bench.started("old:1")
    port = bench.children.environments["old:1"]["PORT"]
    await bench.want(stay("new"))
    assert bench.state("new") is InstanceState.WAITING
    bench.exited("old:1", empty=False)
    assert bench.children.spawned == ["old:1"]
    bench.supervisor.hear(processes.TreeEmpty(key="old:1"))
    assert bench.children.spawned == ["old:1", "new:1"]
    assert bench.children.environments["new:1"]["PORT"] == port
    assert bench.supervisor.take_changes().gone_uids == ("old",)
    assert bench.state("old") is None


async def test_a_slot_in_backoff_is_handed_over_at_once_with_its_port(bench: Bench) -> None:
    await bench.want(stay("old"))
    port = bench.children.environments["old:1"]["PORT"]
    for key in ("old:1", "old:2"):
        bench.supervisor.hear(processes.SpawnFailed(key=key, reason="no"))
    assert bench.state("old") is InstanceState.BACKOFF
    await bench.want(stay("new"))
    assert bench.children.spawned[-1] == "new:1"
    assert bench.children.environments["new:1"]["PORT"] == port


async def test_a_waiting_stay_that_is_not_wanted_any_more_never_starts(bench: Bench) -> None:
    await bench.want(stay("one"))
    bench.started("one:1")
    await bench.want(stay("two"))
    await bench.want(stay("three"))
    bench.exited("one:1")
    assert bench.children.spawned == ["one:1", "three:1"]
    assert bench.state("two") is None


async def test_what_the_last_process_wrote_is_read_before_the_next_one_writes(bench: Bench) -> None:
    await bench.want(stay("u1"))
    bench.started("u1:1")
    bench.exited("u1:1")
    bench.started("u1:2")
    assert bench.logs.story == ["attach web.1", "close web.1", "attach web.1"]
    assert bench.children.forgotten == ["u1:1"]


async def test_time_makes_a_stay_healthy_and_ends_its_grace(bench: Bench) -> None:
    await bench.want(stay("u1", "slow"))
    bench.started("u1:1")
    assert bench.state("u1") is InstanceState.STARTING
    await eventually(lambda: bench.state("u1") is InstanceState.HEALTHY)
    await bench.want()
    await eventually(lambda: bench.children.told("u1:1") == [signal.SIGTERM, signal.SIGKILL])


async def test_a_type_is_stopped_with_its_own_signal(bench: Bench) -> None:
    await bench.want(stay("u1", "quit"))
    bench.started("u1:1")
    await bench.want()
    assert bench.children.told("u1:1") == [signal.SIGQUIT]


async def test_a_port_that_somebody_took_is_replaced_and_it_is_said(bench: Bench) -> None:
    await bench.want(stay("u1"))
    bench.started("u1:1")
    first = int(bench.children.environments["u1:1"]["PORT"])
    bench.taken.add(first)
    bench.exited("u1:1")
    second = int(bench.children.environments["u1:2"]["PORT"])
    assert second != first
    assert f"note web.1: port {first} is not free: PORT is {second}" in bench.logs.story


# -- after a brain's death -------------------------------------------------------------------------


def remembered(*assigned: Assignment, ending: tuple[Assignment, ...] = ()) -> AgentMemory:
    return AgentMemory(
        agent_id="a1",
        assigned=assigned,
        ending=ending,
        releases=(V1,),
        ports={Slot("shop", "web", 1): 20007},
        tries={"u1": Tries(attempt=3, failures=2)},
    )


async def test_a_child_of_the_last_brain_goes_on_under_its_attempt_and_port(tmp_path: Path) -> None:
    bench = Bench(tmp_path, remembered(stay("u1"), stay("u2", ordinal=2)))
    bench.supervisor.start([child("u1:3")])
    one, two = bench.supervisor.statuses()
    assert (one.uid, one.attempt, one.state, one.port) == ("u1", 3, InstanceState.HEALTHY, 20007)
    assert one.started_at_ms == 1234
    # What has no child is started, and nothing else.
    assert bench.children.spawned == ["u2:1"]
    assert (two.uid, two.state) == ("u2", InstanceState.STARTING)
    bench.exited("u1:3")
    assert bench.state("u1") is InstanceState.STARTING  # up for long: failures begin anew
    assert bench.children.environments["u1:4"]["PORT"] == "20007"


async def test_an_exit_that_no_brain_saw_is_handled_by_the_next(tmp_path: Path) -> None:
    bench = Bench(tmp_path, remembered(stay("u1")))
    bench.supervisor.start([child("u1:3", exited=exit_of("u1:3"), empty=True)])
    assert bench.children.forgotten == ["u1:3"]
    # How long it was up is not known, so this is the third failure in a row, not the first.
    (status,) = bench.supervisor.statuses()
    assert (status.state, status.reason) == (
        InstanceState.BACKOFF,
        "exit 1 (3rd time in a row)",
    )


async def test_a_stop_that_had_begun_is_carried_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, remembered(stay("new"), ending=(stay("u1"),)))
    bench.supervisor.start([child("u1:3")])
    assert bench.children.told("u1:3") == [signal.SIGTERM]
    assert bench.state("new") is InstanceState.WAITING
    bench.exited("u1:3")
    assert bench.children.spawned == ["new:1"]


async def test_a_stopped_child_that_ended_meanwhile_is_not_started_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, remembered(ending=(stay("u1"),)))
    bench.supervisor.start([child("u1:3", exited=exit_of("u1:3"), empty=True)])
    assert bench.children.spawned == []
    assert bench.supervisor.statuses() == ()


async def test_a_child_that_the_journal_does_not_know_is_stopped(tmp_path: Path) -> None:
    bench = Bench(tmp_path, remembered())
    bench.supervisor.start([child("stray:1")])
    assert bench.children.told("stray:1") == [signal.SIGTERM]
    bench.exited("stray:1")
    assert bench.children.forgotten == ["stray:1"]
    assert bench.children.spawned == []


async def test_a_backoff_does_not_outlast_the_brain_but_its_count_does(tmp_path: Path) -> None:
    bench = Bench(tmp_path, remembered(stay("u1")))
    bench.supervisor.start([])
    await eventually(lambda: bench.children.spawned == ["u1:4"])
    bench.supervisor.hear(processes.SpawnFailed(key="u1:4", reason="no"))
    assert bench.state("u1") is InstanceState.BACKOFF  # the third failure, not the first


async def test_the_disk_knows_what_is_ending(bench: Bench) -> None:
    await bench.want(stay("u1"))
    bench.started("u1:1")
    await bench.want()
    on_disk = load(bench.directory, "new").memory
    assert [item.uid for item in on_disk.ending] == ["u1"]
    assert on_disk.releases == (V1,)
    bench.exited("u1:1")
    await bench.journal.flush()
    on_disk = load(bench.directory, "new").memory
    assert (on_disk.ending, on_disk.releases, on_disk.ports) == ((), (), {})


async def test_the_disk_knows_which_processes_run(bench: Bench) -> None:
    await bench.want(stay("u1"), stay("u2", ordinal=2))
    bench.started("u1:1", pid=77)
    await bench.journal.flush()
    on_disk = load(bench.directory, "new").memory
    assert on_disk.boot_id == facts.boot_id()
    assert on_disk.tries["u1"] == Tries(attempt=1, pid=77, start_ticks=770)
    assert on_disk.tries["u2"] == Tries(attempt=1)


# -- telling ---------------------------------------------------------------------------------------


async def test_only_the_latest_of_every_instance_is_told_and_its_end_once(bench: Bench) -> None:
    await bench.want(stay("u1"), stay("u2", ordinal=2))
    bench.started("u1:1")
    bench.exited("u1:1")
    bench.started("u1:2", pid=200)
    changes = bench.supervisor.take_changes()
    assert sorted((s.uid, s.attempt, s.pid) for s in changes.changed) == [
        ("u1", 2, 200),
        ("u2", 1, 0),
    ]
    assert not bench.supervisor.news.is_set()
    await bench.want(stay("u2", ordinal=2))
    bench.exited("u1:2")
    changes = bench.supervisor.take_changes()
    assert (changes.changed, changes.gone_uids) == ((), ("u1",))


async def test_a_shell_that_found_no_command_is_told_in_words(bench: Bench) -> None:
    await bench.want(stay("u1"))
    bench.started("u1:1")
    bench.exited("u1:1", code=127)
    (status,) = bench.supervisor.statuses()
    assert status.last_exit == "exit 127 (command not found?)"


# -- scale and the end -----------------------------------------------------------------------------


async def test_a_thousand_stays_are_spawned_in_one_go(bench: Bench) -> None:
    began_s = time.monotonic()
    await bench.want(*(stay(f"u{n}", ordinal=n) for n in range(1, 1001)))
    assert len(bench.children.spawned) == 1000
    for n in range(1, 1001):
        bench.started(f"u{n}:1", pid=n)
    await bench.want()
    for n in range(1, 1001):
        bench.exited(f"u{n}:1")
    assert bench.supervisor.statuses() == ()
    assert time.monotonic() - began_s < 5.0


async def test_stopping_all_waits_for_the_last_tree_and_keeps_the_table(bench: Bench) -> None:
    await bench.want(stay("u1"), stay("u2", ordinal=2))
    bench.started("u1:1")
    bench.started("u2:1")
    stopping = asyncio.create_task(bench.supervisor.stop_all())
    await eventually(lambda: bench.children.told("u2:1") == [signal.SIGTERM])
    bench.exited("u1:1")
    bench.exited("u2:1", empty=False)
    await asyncio.sleep(0)
    assert not stopping.done()
    bench.supervisor.hear(processes.TreeEmpty(key="u2:1"))
    await asyncio.wait_for(stopping, 5)
    assert [s.state for s in bench.supervisor.statuses()] == [InstanceState.STOPPED] * 2
    # Too late for new orders.
    await bench.want(stay("u3", ordinal=3))
    assert bench.children.spawned == ["u1:1", "u2:1"]


async def test_being_told_twice_kills_what_is_left(bench: Bench) -> None:
    await bench.want(stay("u1"))
    bench.started("u1:1")
    stopping = asyncio.create_task(bench.supervisor.stop_all())
    await eventually(lambda: bench.children.told("u1:1") == [signal.SIGTERM])
    bench.supervisor.hear(processes.Terminate(urgent=True))
    await eventually(lambda: bench.children.told("u1:1") == [signal.SIGTERM, signal.SIGKILL])
    bench.exited("u1:1")
    await asyncio.wait_for(stopping, 5)


async def test_what_drains_is_told_so_before_it_gets_its_signal(bench: Bench) -> None:
    await bench.want(stay("u1", "drained"))
    bench.started("u1:1")
    await bench.want()
    assert (bench.state("u1"), bench.children.told("u1:1")) == (InstanceState.DRAINING, [])
    await eventually(lambda: bench.children.told("u1:1") == [signal.SIGTERM])
    assert bench.state("u1") is InstanceState.STOPPING


@pytest.mark.parametrize("drain", [True, False])
async def test_an_agent_that_ends_drains_what_it_has_unless_a_terminal_asked(
    bench: Bench, drain: bool
) -> None:
    await bench.want(stay("u1", "drained"))
    bench.started("u1:1")
    bench.supervisor.hear(processes.Terminate(urgent=False, drain=drain))
    stopping = asyncio.create_task(bench.supervisor.stop_all())
    await asyncio.sleep(0)
    after = InstanceState.DRAINING if drain else InstanceState.STOPPING
    assert bench.state("u1") is after
    await eventually(lambda: bench.children.told("u1:1") == [signal.SIGTERM])
    bench.exited("u1:1")
    await asyncio.wait_for(stopping, 5)


async def test_a_brain_that_finds_one_draining_drains_it_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, remembered(ending=(stay("u1", "drained"),)))
    bench.supervisor.start([child("u1:1")])
    assert (bench.state("u1"), bench.children.told("u1:1")) == (InstanceState.DRAINING, [])


async def test_an_event_of_a_process_that_is_not_ours_is_put_away(bench: Bench) -> None:
    bench.started("other:1")
    bench.exited("other:1")
    assert bench.children.signals == [("other:1", signal.SIGKILL)]
    assert bench.children.forgotten == ["other:1"]
