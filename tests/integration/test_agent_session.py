"""The real agent against a scripted coordinator: what it runs, keeps, refuses and says."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from agent_program import AgentProgram, runs
from eventually import eventually
from fake_coordinator import FakeCoordinator
from keeper_rig import NOBODY

from formation.model import Assignment, InstanceState, ProcessType, Release, Slot
from formation.v1 import agent_pb2 as pb

HEALTHY, BACKOFF, STOPPING = (
    InstanceState.HEALTHY,
    InstanceState.BACKOFF,
    InstanceState.STOPPING,
)
SLEEP = "sleep 1000"
SERVE = (
    f"{sys.executable} -c 'import os, socket;"
    ' s = socket.create_server(("127.0.0.1", int(os.environ["PORT"])));'
    ' c, _ = s.accept(); c.sendall(os.environ["PS"].encode()); c.close(); s.accept()\''
)


def release(number: int = 1, /, **commands: str) -> Release:
    types = tuple(
        ProcessType(name=name, command=command, stop_grace_s=1.0, ready_after_s=0.0)
        for name, command in commands.items()
    )
    return Release(app="shop", number=number, types=types, workdir="/")


def stay(uid: str, type_name: str = "web", ordinal: int = 1, release: int = 1) -> Assignment:
    return Assignment(uid=uid, slot=Slot("shop", type_name, ordinal), release=release)


def many(count: int) -> list[Assignment]:
    return [stay(f"u{n}", ordinal=n) for n in range(1, count + 1)]


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[FakeCoordinator]:
    async with FakeCoordinator(f"unix:{tmp_path / 'c.sock'}") as running:
        yield running


@pytest.fixture
async def agent(tmp_path: Path, coordinator: FakeCoordinator) -> AsyncIterator[AgentProgram]:
    argv = ("--coordinator", coordinator.address, "--name", "b", "--label", "zone=1")
    async with AgentProgram(tmp_path, *argv, "--verbose") as running:
        yield running


async def pids(coordinator: FakeCoordinator, *uids: str) -> dict[str, int]:
    return {uid: (await coordinator.sees(uid, HEALTHY)).pid for uid in uids}


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and runs(psutil.Process(pid))


# -- running ---------------------------------------------------------------------------------------


async def test_the_agent_introduces_itself_and_runs_what_is_assigned(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(*many(3), releases=[release(web=SLEEP)])
    running = await pids(coordinator, "u1", "u2", "u3")
    hello = coordinator.hellos[0]
    assert (hello.host.host, hello.cluster_id) == ("b", "")
    assert dict(hello.host.labels) == {"zone": "1"}
    assert hello.host.agent_id
    assert hello.host.capacity.cpus >= 1
    assert {psutil.Process(pid).name() for pid in running.values()} == {"sleep"}
    assert len({coordinator.table[uid].port for uid in running}) == 3
    await eventually(lambda: coordinator.batches[-1].generation == 1)
    assert (agent.state_dir.stat().st_mode & 0o777) == 0o700


async def test_an_instance_serves_on_its_port(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(stay("u1"), releases=[release(web=SERVE)])
    port = (await coordinator.sees("u1", HEALTHY)).port

    async def answer() -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return b""
        try:
            return await reader.read()
        finally:
            writer.close()

    assert await eventually(answer) == b"web.1"


async def test_a_killed_instance_is_back_within_a_second(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(stay("u1"), releases=[release(web=SLEEP)])
    before = await coordinator.sees("u1", HEALTHY)
    began_s = time.monotonic()
    os.kill(before.pid, signal.SIGKILL)
    after = await coordinator.sees("u1", HEALTHY, attempt=2)
    assert time.monotonic() - began_s < 1.0
    assert after.pid != before.pid
    assert (after.last_exit, after.port) == ("signal KILL", before.port)


async def test_a_command_that_is_not_there_waits_with_a_countdown(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(
        stay("u1", "one"),
        stay("u2", "two"),
        stay("u3", "dir"),
        releases=[
            replace(release(one="no-such-command -x", two="no-such-command $PORT", dir="true"))
        ],
    )
    for uid in ("u1", "u2"):
        status = await coordinator.sees(uid, BACKOFF)
        assert status.reason == "command not found: no-such-command"
        assert status.retry_at_ms > 0
        assert status.attempt >= 2


async def test_a_missing_directory_is_named(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    nowhere = replace(release(web=SLEEP), workdir="/no/such/dir")
    await coordinator.assign(stay("u1"), releases=[nowhere])
    status = await coordinator.sees("u1", BACKOFF)
    assert status.reason == "working directory does not exist: /no/such/dir"


async def test_a_new_release_starts_only_after_the_old_process_is_gone(
    coordinator: FakeCoordinator, agent: AgentProgram, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    slow = (
        f'sh -c \'echo begin >> {ledger}; trap "sleep 0.2; echo end >> {ledger}; exit" TERM;'
        " while :; do sleep 0.02; done'"
    )
    await coordinator.assign(stay("u1"), releases=[release(web=slow)])
    await eventually(lambda: ledger.exists() and ledger.read_text() == "begin\n")
    old = await coordinator.sees("u1", HEALTHY)
    await coordinator.assign(stay("u2", release=2), releases=[release(2, web=slow)])
    new = await coordinator.sees("u2", HEALTHY)
    await eventually(lambda: ledger.read_text() == "begin\nend\nbegin\n")
    await coordinator.sees_gone("u1")
    assert new.port == old.port
    waited = [item for item in coordinator.history if item.state is InstanceState.WAITING]
    assert [item.uid for item in waited] == ["u2"]


async def test_a_child_that_ignores_the_signal_is_killed_after_its_grace(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    stubborn = "sh -c 'trap \"\" TERM; echo armed; while :; do sleep 0.1; done'"
    await coordinator.assign(stay("u1"), releases=[release(web=stubborn)])
    pid = (await coordinator.sees("u1", HEALTHY)).pid
    log = agent.state_dir / "logs" / "shop" / "web.1.log"
    await eventually(lambda: log.exists() and b"armed" in log.read_bytes())
    began_s = time.monotonic()
    await coordinator.assign()
    await coordinator.sees_gone("u1")
    assert 1.0 <= time.monotonic() - began_s < 3.0
    assert not is_alive(pid)
    assert "web.1: no longer wanted on this host; not gone within 1 s: killed" in agent.text


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
async def test_an_ordinary_user_can_run_an_agent() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777)
        coordinator = FakeCoordinator(f"unix:{directory / 'c.sock'}")
        async with (
            coordinator,
            AgentProgram(
                directory, "--name", "b", "--coordinator", coordinator.address, before=NOBODY
            ) as agent,
        ):
            (directory / "c.sock").chmod(0o777)
            await coordinator.assign(stay("u1"), releases=[release(web=SLEEP)])
            pid = (await coordinator.sees("u1", HEALTHY)).pid
            assert psutil.Process(pid).uids().real == 65534
            agent.signal(signal.SIGTERM)
            assert await agent.ended() == 0
            assert not is_alive(pid)


# -- deaths ----------------------------------------------------------------------------------------


async def test_children_outlive_the_brain_and_the_session_resumes(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(*many(3), releases=[release(web=SLEEP)])
    before = await pids(coordinator, "u1", "u2", "u3")
    brain = await agent.brain()
    brain.kill()
    os.kill(before["u3"], signal.SIGKILL)
    await eventually(lambda: len(coordinator.hellos) == 2)
    again = coordinator.hellos[1]
    assert again.host.agent_id == coordinator.hellos[0].host.agent_id
    assert (again.cluster_id, again.epoch, again.generation) == ("c1", 10, 1)
    assert (await pids(coordinator, "u1", "u2")).items() <= before.items()
    assert (await coordinator.sees("u3", HEALTHY, attempt=2)).last_exit == "signal KILL"
    # And it can still be told what to do.
    await coordinator.assign(stay("u1"))
    await coordinator.sees_gone("u2", "u3")


async def test_a_brain_that_died_while_stopping_goes_on_stopping(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    stubborn = release(web="sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'")
    await coordinator.assign(stay("u1"), releases=[stubborn])
    await coordinator.sees("u1", HEALTHY)
    await coordinator.assign()
    pid = (await coordinator.sees("u1", STOPPING)).pid
    (await agent.brain()).kill()
    await eventually(lambda: len(coordinator.hellos) == 2)
    await coordinator.sees_gone("u1")
    assert not is_alive(pid)


async def test_no_child_outlives_the_keeper(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(*many(3), releases=[release(web=SLEEP)])
    running = await pids(coordinator, "u1", "u2", "u3")
    agent.descendants()
    agent.signal(signal.SIGKILL)
    await agent.ended()
    await eventually(lambda: not any(is_alive(pid) for pid in running.values()))
    await eventually(lambda: not agent.alive(), what="the brain's end")


async def test_keeper_and_brain_both_killed_leave_nothing_for_the_next_start(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(*many(2), releases=[release(web=SLEEP)])
    before = await pids(coordinator, "u1", "u2")
    brain = await agent.brain()
    brain.suspend()  # so that it cannot act on the keeper's end
    agent.signal(signal.SIGKILL)
    brain.kill()
    await agent.ended()
    assert all(is_alive(pid) for pid in before.values())
    await coordinator.stop()
    agent.start()
    await eventually(lambda: not any(is_alive(pid) for pid in before.values()))
    # What was assigned is started again from the journal, with no coordinator there.
    await eventually(lambda: len([p for p in agent.children() if p.name() == "sleep"]) == 2)
    assert "killed 2 processes that an agent killed before had left behind" in agent.text


async def test_nothing_stops_while_the_coordinator_is_away(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(*many(2), releases=[release(web=SLEEP)])
    before = await pids(coordinator, "u1", "u2")
    await coordinator.stop()
    os.kill(before["u2"], signal.SIGKILL)
    await eventually(lambda: len([p for p in agent.children() if p.name() == "sleep"]) == 2)
    assert is_alive(before["u1"])
    await coordinator.start()
    await eventually(lambda: len(coordinator.hellos) == 2)
    assert (await coordinator.sees("u1", HEALTHY)).pid == before["u1"]
    assert (await coordinator.sees("u2", HEALTHY)).attempt == 2


async def test_the_next_coordinator_on_the_list_takes_over(tmp_path: Path) -> None:
    one = FakeCoordinator(f"unix:{tmp_path / '1.sock'}")
    two = FakeCoordinator(f"unix:{tmp_path / '2.sock'}")
    async with (
        two,
        AgentProgram(tmp_path, "--name", "b", "--coordinator", f"{one.address},{two.address}"),
    ):
        await eventually(lambda: two.hellos)
        await one.start()
        await two.stop()
        await eventually(lambda: one.hellos)
        await one.stop()


# -- orders ----------------------------------------------------------------------------------------


async def test_a_complete_order_ends_what_it_does_not_list(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(*many(3), releases=[release(web=SLEEP)])
    before = await pids(coordinator, "u1", "u2", "u3")
    await coordinator.assign(stay("u2", ordinal=2))
    await coordinator.sees_gone("u1", "u3")
    assert (await pids(coordinator, "u2"))["u2"] == before["u2"]


async def test_a_change_touches_only_what_it_names(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(*many(2), releases=[release(web=SLEEP)])
    before = await pids(coordinator, "u1", "u2")
    await coordinator.assign(stay("u3", ordinal=3), complete=False, removed_uids=("u2",))
    await coordinator.sees_gone("u2")
    await coordinator.sees("u3", HEALTHY)
    assert (await pids(coordinator, "u1"))["u1"] == before["u1"]


async def test_a_gap_is_answered_by_asking_for_everything(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(stay("u1"), releases=[release(web=SLEEP)])
    await coordinator.sees("u1", HEALTHY)
    await coordinator.assign(complete=False, applies_to=7, results_in=8, removed_uids=("u1",))
    await eventually(lambda: coordinator.resends == 1)
    assert coordinator.table["u1"].state is HEALTHY


@pytest.mark.parametrize(
    ("older", "complaint"),
    [
        ({"epoch": 9, "results_in": 2}, "refused orders of leader epoch 9, 10 was seen before"),
        ({"epoch": 11, "results_in": 0}, "refused orders of generation 0, 1 was seen before"),
    ],
)
async def test_orders_from_the_past_stop_nothing_and_are_complained_about(
    coordinator: FakeCoordinator, agent: AgentProgram, older: dict[str, Any], complaint: str
) -> None:
    await coordinator.assign(stay("u1"), releases=[release(web=SLEEP)])
    before = await coordinator.sees("u1", HEALTHY)
    await coordinator.assign(**older)
    await eventually(lambda: coordinator.complaint.startswith(complaint))
    assert (await coordinator.sees("u1", HEALTHY)).pid == before.pid
    # Right orders again: obeyed, and the complaint is over.
    await coordinator.assign(stay("u2", ordinal=2), releases=[release(web=SLEEP)], results_in=5)
    await coordinator.sees_gone("u1")
    await eventually(lambda: coordinator.complaint == "")


async def test_another_cluster_is_not_obeyed(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(stay("u1"), releases=[release(web=SLEEP)])
    pid = (await coordinator.sees("u1", HEALTHY)).pid
    await coordinator.stop()
    coordinator.cluster_id = "c2"
    await coordinator.start()
    await eventually(lambda: "belongs to cluster c2, this agent to c1" in agent.text)
    assert is_alive(pid)


# -- logs ------------------------------------------------------------------------------------------


async def test_logs_are_pushed_with_their_history_and_then_live(
    coordinator: FakeCoordinator, agent: AgentProgram, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    talk = (
        f"sh -c 'echo one; echo two; echo three >&2; while [ ! -e {gate} ]; do sleep 0.02; done;"
        " printf live; exec sleep 1000'"
    )
    await coordinator.assign(stay("u1"), releases=[release(web=talk)])
    log = agent.state_dir / "logs" / "shop" / "web.1.log"
    await eventually(lambda: log.exists() and b"three" in log.read_bytes())
    await coordinator.open_logs("history", tail_lines=-1, follow=False)
    await eventually(lambda: "history" not in coordinator.pushing and coordinator.pushes)
    assert sorted(coordinator.lines("history")) == [b"one", b"three", b"two"]
    await coordinator.open_logs("follow", tail_lines=0, follow=True)
    await eventually(
        lambda: any(push.history_done for push in coordinator.pushes.get("follow", []))
    )
    gate.touch()
    pid = (await coordinator.sees("u1", HEALTHY)).pid
    await eventually(lambda: psutil.Process(pid).name() == "sleep")
    await coordinator.assign()  # its end completes the last line
    await eventually(lambda: coordinator.lines("follow") == [b"live"])
    line = next(line for push in coordinator.pushes["follow"] for line in push.lines)
    assert (line.app, line.type, line.ordinal, line.host) == ("shop", "web", 1, "b")
    await coordinator.close_logs("follow")
    await eventually(lambda: "follow" not in coordinator.pushing)


# -- the end ---------------------------------------------------------------------------------------


async def test_a_terminated_agent_ends_everything_and_says_goodbye(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(*many(3), releases=[release(web=SLEEP)])
    running = await pids(coordinator, "u1", "u2", "u3")
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    assert coordinator.goodbyes == 1
    assert {item.state for item in coordinator.table.values()} == {InstanceState.STOPPED}
    assert not any(is_alive(pid) for pid in running.values())
    # They run elsewhere now: the next start brings nothing back by itself.
    agent.start()
    await eventually(lambda: len(coordinator.hellos) == 2)
    assert not coordinator.table
    assert (coordinator.hellos[1].epoch, coordinator.hellos[1].generation) == (10, 1)


async def test_an_agent_that_nobody_hears_ends_too_and_remembers_its_orders(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.assign(stay("u1"), releases=[release(web=SLEEP)])
    await coordinator.sees("u1", HEALTHY)
    await coordinator.stop()
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    agent.start()
    await eventually(lambda: [p for p in agent.children() if p.name() == "sleep"])


async def test_a_second_request_to_end_does_not_wait_for_the_grace(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    patient = ProcessType(
        name="web",
        command="sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'",
        stop_grace_s=600.0,
        ready_after_s=0.0,
    )
    await coordinator.assign(
        stay("u1"), releases=[Release(app="shop", number=1, types=(patient,), workdir="/")]
    )
    await coordinator.sees("u1", HEALTHY)
    agent.signal(signal.SIGINT)
    await coordinator.sees("u1", STOPPING)
    agent.signal(signal.SIGINT)
    assert await agent.ended() == 0


async def test_heartbeats_come_at_the_period_that_the_coordinator_sets(tmp_path: Path) -> None:
    async with (
        FakeCoordinator(f"unix:{tmp_path / 'c.sock'}", heartbeat_period_s=0.05) as fast,
        AgentProgram(tmp_path, "--name", "b", "--coordinator", fast.address),
    ):
        await eventually(lambda: fast.heartbeats >= 5)


async def test_an_agent_is_told_another_pace_while_its_session_holds(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await coordinator.say(pb.CoordinatorMessage(pace=pb.Pace(relaxed_period_s=0.05)))
    before = coordinator.heartbeats
    await eventually(lambda: coordinator.heartbeats >= before + 5)
