"""The supervisor around the machine: restart policy, retries, health, what outlives a brain."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from eventually import eventually
from msgspec import structs
from supervisor_bench import V1, Bench, child, exit_of, stay

from formation.memory import AgentMemory, Tries
from formation.model import Assignment, InstanceState, InstanceStatus, Slot
from formation_agent import machine, processes, stays
from formation_agent.journal import load


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def status(bench: Bench, uid: str) -> InstanceStatus:
    return next(item for item in bench.supervisor.statuses() if item.uid == uid)


def remembered(*assigned: Assignment, **tries: Tries) -> AgentMemory:
    return AgentMemory(agent_id="a1", assigned=assigned, releases=(V1,), tries=tries)


def marked(uid: str, type_name: str, mark: int) -> Assignment:
    return structs.replace(stay(uid, type_name), retry_mark=mark)


# -- what is over, and another try -----------------------------------------------------------------


async def test_what_is_done_stays_done_whatever_begins_anew(bench: Bench) -> None:
    await bench.want(stay("u1", "job"), stay("u2", "once"))
    await bench.journal.flush()  # what runs once is started when the disk knows of it
    for key, code in (("u1:1", 0), ("u2:1", 3)):
        bench.started(key)
        bench.exited(key, code=code)
    assert bench.children.spawned == ["u1:1", "u2:1"]
    await bench.journal.flush()
    later = Bench(bench.directory, load(bench.directory, "new").memory)
    later.supervisor.start([])
    await later.want(stay("u1", "job"), stay("u2", "once"))
    assert later.children.spawned == []
    done, failed = status(later, "u1"), status(later, "u2")
    assert (done.state, done.last_exit) == (InstanceState.FINISHED, "exit 0")
    assert (failed.state, failed.last_exit, failed.attempt) == (InstanceState.FAILED, "exit 3", 1)
    await later.want()
    assert later.supervisor.statuses() == ()


async def test_what_is_done_stays_done_when_the_agent_ends(bench: Bench) -> None:
    await bench.want(stay("u1", "job"), stay("u2", "once"), stay("u3", "web"))
    for uid, code in (("u1", 0), ("u2", 3)):
        bench.started(f"{uid}:1")
        bench.exited(f"{uid}:1", code=code)
    bench.started("u3:1")
    stopping = asyncio.create_task(bench.supervisor.stop_all())
    await eventually(lambda: bench.children.told("u3:1"))
    bench.exited("u3:1")
    await asyncio.wait_for(stopping, 5)
    assert [bench.state(uid) for uid in ("u1", "u2", "u3")] == [
        InstanceState.FINISHED,
        InstanceState.FAILED,
        InstanceState.STOPPED,
    ]
    await bench.journal.flush()
    over = {uid: tries.over for uid, tries in load(bench.directory, "new").memory.tries.items()}
    assert over == {"u1": InstanceState.FINISHED, "u2": InstanceState.FAILED, "u3": 0}


async def test_an_end_is_not_forgotten_because_its_tree_had_to_be_stopped(bench: Bench) -> None:
    await bench.want(stay("u1", "job"))
    bench.started("u1:1")
    bench.exited("u1:1", code=0, empty=False)
    stopping = asyncio.create_task(bench.supervisor.stop_all())
    await eventually(lambda: bench.state("u1") is InstanceState.STOPPING)
    bench.supervisor.hear(processes.TreeEmpty(key="u1:1"))
    await asyncio.wait_for(stopping, 5)
    await bench.journal.flush()
    assert load(bench.directory, "new").memory.tries["u1"].over == InstanceState.FINISHED


async def test_the_keeper_is_told_to_forget_what_is_done_only_when_the_disk_knows(
    bench: Bench,
) -> None:
    await bench.want(stay("u1", "job"), stay("u2", "once"), stay("u3", "job", ordinal=2))
    for uid, code in (("u1", 0), ("u2", 3), ("u3", 0)):
        bench.started(f"{uid}:1")
        bench.exited(f"{uid}:1", code=code)
    assert bench.children.forgotten == []
    await bench.journal.flush()
    assert sorted(bench.children.forgotten) == ["u1:1", "u2:1", "u3:1"]


async def test_what_runs_again_is_never_remembered_twice(bench: Bench) -> None:
    await bench.want(stay("u1", "job"))
    bench.started("u1:1")
    bench.exited("u1:1", code=0)
    bench.supervisor._feed("u1", stays.RetryWanted())
    assert (bench.children.forgotten, bench.children.spawned[-1]) == (["u1:1"], "u1:2")
    await bench.journal.flush()
    assert bench.children.forgotten == ["u1:1"]


async def test_an_end_that_only_the_keeper_knew_is_over_for_the_next_brain(tmp_path: Path) -> None:
    bench = Bench(tmp_path, remembered(stay("u1", "job"), u1=Tries(attempt=1, pid=9)))
    done = replace(exit_of("u1:1"), code=0)
    bench.supervisor.start([child("u1:1", exited=done, empty=True)])
    assert bench.state("u1") is InstanceState.FINISHED
    await bench.journal.flush()
    assert bench.children.forgotten == ["u1:1"]
    assert bench.children.spawned == []


async def test_a_retry_reaches_what_waits_or_is_over_and_nothing_else(bench: Bench) -> None:
    await bench.want(stay("u1", "job"), stay("u2", "web"), stay("u3", "quit"))
    bench.started("u1:1")
    bench.exited("u1:1", code=0)
    for key in ("u2:1", "u2:2"):
        bench.supervisor.hear(processes.SpawnFailed(key=key, reason="no"))
    bench.started("u3:1")
    assert bench.state("u2") is InstanceState.BACKOFF
    again = [marked("u1", "job", 1), marked("u2", "web", 1), marked("u3", "quit", 1)]
    await bench.want(*again)
    assert bench.children.spawned[4:] == ["u1:2", "u2:3"]
    bench.started("u1:2")
    bench.exited("u1:2", code=0)
    await bench.want(*again)  # the same mark is the same wish
    assert bench.state("u1") is InstanceState.FINISHED


async def test_a_retry_that_was_written_but_not_begun_is_not_lost(bench: Bench) -> None:
    await bench.want(stay("u1", "job"))
    bench.started("u1:1")
    bench.exited("u1:1", code=0)
    # The journal takes the order, and then we die.
    await bench.journal.commit(generation=2, assigned=(marked("u1", "job", 1),))
    later = Bench(bench.directory, load(bench.directory, "new").memory)
    later.supervisor.start([])
    await eventually(lambda: later.children.spawned == ["u1:2"])


async def test_a_stay_that_loops_says_so_until_it_is_up(bench: Bench) -> None:
    await bench.want(structs.replace(stay("u1"), failures=2))
    for attempt in range(1, 6):
        assert not status(bench, "u1").crash_looping
        bench.supervisor.hear(processes.SpawnFailed(key=f"u1:{attempt}", reason="no"))
        await bench.want(structs.replace(marked("u1", "web", attempt), failures=2))
    waiting = status(bench, "u1")
    assert (waiting.crash_looping, waiting.failures) == (True, 7)
    bench.started("u1:6")
    assert bench.state("u1") is InstanceState.HEALTHY
    assert not status(bench, "u1").crash_looping


async def test_memory_that_ran_out_is_told_apart_from_a_kill(bench: Bench) -> None:
    await bench.want(stay("u1"), stay("u2", ordinal=2))
    for uid in ("u1", "u2"):
        bench.started(f"{uid}:1")
    killed = replace(exit_of("u1:1"), code=None, signal=int(signal.SIGKILL), oom_killed=True)
    bench.supervisor.hear(killed)
    bench.supervisor.hear(replace(exit_of("u2:1"), oom_killed=True))
    assert status(bench, "u1").last_exit == "out of memory (signal KILL)"
    assert status(bench, "u2").last_exit == "exit 1 (out of memory before)"


# -- health ----------------------------------------------------------------------------------------


async def test_a_process_is_watched_from_its_start_until_its_tree_is_gone(bench: Bench) -> None:
    await bench.want(stay("u1", "probed"))
    bench.started("u1:1", pid=70)
    attempt, launch, pid, port, notify_fd = bench.health.watched["u1"]
    assert (attempt, pid, notify_fd) == (1, 70, -1)
    assert launch is not None
    assert (launch.port, launch.env["PORT"], launch.cwd) == (port, str(port), "/")
    await bench.want()
    bench.exited("u1:1", empty=False)
    bench.supervisor.hear(processes.TreeEmpty(key="u1:1"))
    assert bench.health.story == ["watch u1:1", "relax u1", "unwatch u1"]


async def test_what_health_reports_is_told_and_acted_on(bench: Bench) -> None:
    await bench.want(stay("u1", "probed"))
    bench.started("u1:1")
    assert bench.state("u1") is InstanceState.STARTING
    bench.supervisor.report("u1", 1, stays.Ready())
    bench.supervisor.report("u1", 1, stays.Told(text="42 clients"))
    assert (status(bench, "u1").state, status(bench, "u1").told) == (
        InstanceState.HEALTHY,
        "42 clients",
    )
    bench.supervisor.report("u1", 1, stays.NotReady(reason="refused"))
    assert status(bench, "u1").reason == "not ready: refused"
    bench.supervisor.report("u1", 1, stays.NotAlive(reason="no answer"))
    assert bench.state("u1") is InstanceState.RESTARTING
    assert bench.children.told("u1:1") == [signal.SIGTERM]
    bench.exited("u1:1")
    assert bench.children.spawned == ["u1:1", "u1:2"]
    assert bench.health.story == ["watch u1:1", "relax u1", "unwatch u1"]


async def test_what_is_reported_of_a_process_that_is_gone_is_dropped(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.want(stay("u1", "probed"))
    bench.started("u1:1")
    bench.exited("u1:1")
    for attempt in (1, 2):  # the second one is only asked for
        bench.supervisor.report("u1", attempt, stays.NotAlive(reason="no answer"))
    bench.supervisor.report("nobody", 1, stays.Ready())
    assert bench.state("u1") is InstanceState.STARTING
    assert "a bug" not in caplog.text


async def test_a_socket_of_nobody_is_closed(bench: Bench) -> None:
    inner, outer = os.pipe()
    os.close(outer)
    bench.supervisor.hear(
        processes.Started(key="x:1", pid=9, stdout_fd=-1, stderr_fd=-1, notify_fd=inner)
    )
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(inner)


async def test_a_ready_process_is_still_ready_for_the_next_brain(bench: Bench) -> None:
    await bench.want(stay("u1", "probed"), stay("u2", "probed", ordinal=2))
    for uid in ("u1", "u2"):
        bench.started(f"{uid}:1")
    bench.supervisor.report("u1", 1, stays.Ready())
    await bench.journal.flush()
    memory = load(bench.directory, "new").memory
    assert memory.tries["u1"].ready
    assert not memory.tries["u2"].ready
    later = Bench(bench.directory, memory)
    young = bench.now_ticks()
    later.supervisor.start([replace(child(f"{uid}:1"), start_ticks=young) for uid in ("u1", "u2")])
    assert later.state("u1") is InstanceState.HEALTHY
    assert later.state("u2") is InstanceState.STARTING
    assert later.health.story == ["watch u1:1 ready", "watch u2:1"]
    _, launch, _, port, _ = later.health.watched["u1"]
    assert launch is not None
    assert launch.env["PORT"] == str(port) == str(memory.ports[Slot("shop", "probed", 1)])
    assert later.children.spawned == []


async def test_what_ended_meanwhile_or_is_unknown_is_not_probed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, remembered(stay("u1")))
    ended = child("u1:1", exited=exit_of("u1:1", empty=False))
    bench.supervisor.start([ended, child("stray:1")])
    assert bench.health.story == ["watch stray:1 ready", "relax stray"]
    assert bench.health.watched["stray"][1] is None


# -- ending ----------------------------------------------------------------------------------------


async def test_only_the_main_process_hears_the_signal_where_the_type_says_so(bench: Bench) -> None:
    await bench.want(stay("u1", "main"))
    bench.started("u1:1")
    await bench.want()
    assert bench.children.to_main == [("u1:1", signal.SIGTERM), ("u1:1", signal.SIGCONT)]
    assert bench.children.signals == []


async def test_who_holds_up_a_stop_is_named_in_its_reason_and_in_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.want(stay("u1", "slow"))
    bench.started("u1:1")
    there = (processes.Living(pid=4711, name="python"), processes.Living(pid=4712, name="sleep"))
    bench.children.alive["u1:1"] = there
    await bench.want()
    named = "still there: 4711 (python), 4712 (sleep)"
    await eventually(lambda: named in status(bench, "u1").reason)
    assert (
        f"shop/slow.1: no longer wanted on this host; not gone within 0.1 s: killed; {named}"
        in (caplog.text)
    )
    assert bench.children.told("u1:1") == [signal.SIGTERM, signal.SIGKILL]


# -- with nobody there -----------------------------------------------------------------------------


async def test_an_agent_without_processes_waits_a_moment_for_orders(tmp_path: Path) -> None:
    bench = Bench(tmp_path, remembered(stay("u1"), stay("u2", ordinal=2)), start_wait_s=60.0)
    bench.supervisor.start([])
    assert bench.children.spawned == []
    assert bench.state("u1") is InstanceState.WAITING
    assert status(bench, "u1").reason == "the agent has just started: waits a moment for orders"
    # Meanwhile the leader has moved one of them, and given the other one's slot to a new stay.
    await bench.want(stay("u3"))
    assert bench.children.spawned == ["u3:1"]
    assert [item.uid for item in bench.supervisor.statuses()] == ["u3"]


async def test_what_is_still_wanted_starts_once_when_orders_and_timer_come_together(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, remembered(stay("u1"), stay("u2", ordinal=2)))
    bench.supervisor.start([])
    await bench.want(stay("u1"))  # the timer rings while the order is being written
    assert bench.children.spawned == ["u1:1"]
    bench.started("u1:1")
    assert bench.state("u1") is InstanceState.HEALTHY


async def test_without_a_coordinator_the_journal_is_enough(tmp_path: Path) -> None:
    bench = Bench(tmp_path, remembered(stay("u1"), u1=Tries(attempt=4)), start_wait_s=0.01)
    bench.supervisor.start([])
    assert bench.children.spawned == []
    await eventually(lambda: bench.children.spawned == ["u1:5"])


async def test_an_agent_that_ends_while_it_waits_starts_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, remembered(stay("u1"), stay("new")), start_wait_s=0.01)
    bench.supervisor.start([])
    await asyncio.wait_for(bench.supervisor.stop_all(), 5)
    await asyncio.sleep(0.03)
    assert bench.children.spawned == []


async def test_a_brain_with_processes_starts_the_rest_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, remembered(stay("u1"), stay("u2", ordinal=2)), start_wait_s=60.0)
    bench.supervisor.start([child("u1:1")])
    assert bench.children.spawned == ["u2:1"]


def test_every_phase_in_which_something_runs_can_be_heard() -> None:
    heard = {phase for phase, row in machine.TABLE.items() if stays.Told in row}
    from formation_agent import entries

    assert heard == entries.HEARD


async def test_what_runs_once_is_known_to_the_disk_before_it_starts(bench: Bench) -> None:
    await bench.want(stay("u1", "once"), stay("u2", "web"))
    assert bench.children.spawned == ["u2:1"]
    await bench.journal.flush()
    assert bench.children.spawned == ["u2:1", "u1:1"]
    assert load(bench.directory, "new").memory.tries["u1"].attempt == 1


async def test_what_runs_once_is_not_started_again_when_it_was_interrupted(bench: Bench) -> None:
    await bench.want(stay("u1", "once"))
    await bench.journal.flush()
    bench.started("u1:1")
    later = Bench(bench.directory, load(bench.directory, "new").memory)
    later.supervisor.start([])
    await later.want(stay("u1", "once"))
    await later.journal.flush()
    assert later.children.spawned == []
    assert status(later, "u1").state is InstanceState.FAILED
    assert status(later, "u1").last_exit.startswith("its end is not known")


async def test_what_runs_once_is_not_started_again_after_the_agent_was_stopped(
    bench: Bench,
) -> None:
    await bench.want(stay("u1", "once"))
    await bench.journal.flush()
    bench.started("u1:1")
    stopping = asyncio.create_task(bench.supervisor.stop_all())
    await eventually(lambda: bench.children.told("u1:1"))
    bench.exited("u1:1")
    await asyncio.wait_for(stopping, 5)
    await bench.supervisor.forget_orders()
    later = Bench(bench.directory, load(bench.directory, "new").memory)
    later.supervisor.start([])
    await later.journal.flush()
    await later.want(stay("u1", "once"))
    await later.journal.flush()
    assert later.children.spawned == []
    assert status(later, "u1").state is InstanceState.FAILED
