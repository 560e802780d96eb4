"""The real agent and its lease: exclusive instances run while a coordinator is surely heard, and
not a moment longer, whatever is stopped or cut; everything else goes on."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from agent_program import AgentProgram
from eventually import eventually
from fake_coordinator import FakeCoordinator
from msgspec import structs

from formation.model import Assignment, InstanceState, ProcessType, Release, Slot

HEALTHY, WAITING = InstanceState.HEALTHY, InstanceState.WAITING
LEASE_S = 2.0
GRACE_S = 0.5
RELEASE = Release(
    app="shop",
    number=1,
    types=(
        ProcessType(
            name="one",
            command="sleep 1000",
            exclusive=True,
            stop_grace_s=GRACE_S,
            ready_after_s=0.0,
            stop_drain_s=600.0,
        ),
        ProcessType(name="web", command="sleep 2000", ready_after_s=0.0),
    ),
    workdir="/",
)
AT_ONCE = replace(RELEASE, types=tuple(replace(s, stop_drain_s=0.0) for s in RELEASE.types))
ONE = Assignment(uid="one.1-s", slot=Slot("shop", "one", 1), release=1)
WEB = Assignment(uid="web.1-s", slot=Slot("shop", "web", 1), release=1)


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[FakeCoordinator]:
    address = f"unix:{tmp_path}/c.sock"
    async with FakeCoordinator(address, heartbeat_period_s=0.4) as made:
        made.lease_s = LEASE_S
        yield made


@pytest.fixture
async def agent(tmp_path: Path, coordinator: FakeCoordinator) -> AsyncIterator[AgentProgram]:
    async with AgentProgram(tmp_path, "--coordinator", coordinator.address) as made:
        yield made


def command_of(agent: AgentProgram) -> set[str]:
    found = set()
    for process in agent.children():
        with contextlib.suppress(psutil.Error):  # it has just ended, and may not be reaped yet
            found.add(" ".join(process.cmdline()))
    return found


async def both(coordinator: FakeCoordinator, release: Release = RELEASE) -> None:
    await coordinator.assign(ONE, WEB, releases=[release])
    await coordinator.sees(ONE.uid, HEALTHY)
    await coordinator.sees(WEB.uid, HEALTHY)


async def test_without_an_answer_it_ends_with_the_lease_and_comes_back_with_it(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await both(coordinator)
    coordinator.acknowledges = False
    status = await coordinator.sees(ONE.uid, WAITING)
    assert status.reason == "waits for a coordinator: it is exclusive"
    assert command_of(agent) == {"sleep 2000"}
    coordinator.acknowledges = True
    back = await coordinator.sees(ONE.uid, HEALTHY)
    assert (back.attempt, back.failures) == (2, 0)


async def test_an_agent_that_beats_seldom_holds_its_lease_from_the_first_exclusive_one_on(
    tmp_path: Path, coordinator: FakeCoordinator
) -> None:
    coordinator.relaxed_period_s = 600.0
    async with AgentProgram(tmp_path, "--coordinator", coordinator.address) as agent:
        await coordinator.assign(WEB, releases=[RELEASE])
        await coordinator.sees(WEB.uid, HEALTHY)
        before = coordinator.heartbeats
        await coordinator.assign(ONE, WEB, releases=[RELEASE])
        await coordinator.sees(ONE.uid, HEALTHY)
        await eventually(lambda: coordinator.heartbeats >= before + 5)
        assert command_of(agent) == {"sleep 1000", "sleep 2000"}
    # The first one, right after the welcome.
    assert before == 1


async def test_when_the_coordinator_goes_it_is_gone_before_the_lease_and_its_grace_are_over(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await both(coordinator)
    await coordinator.stop()
    began_s = time.monotonic()
    await eventually(lambda: command_of(agent) == {"sleep 2000"}, what="one.1 has ended")
    assert time.monotonic() - began_s < LEASE_S + GRACE_S + 1.0


async def test_a_brain_that_is_stopped_keeps_no_exclusive_instance_alive(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await both(coordinator)
    brain = await agent.brain()
    brain.send_signal(signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        await eventually(lambda: command_of(agent) == {"sleep 2000"}, what="one.1 was killed")
        assert time.monotonic() - began_s < LEASE_S + GRACE_S + 1.5
    finally:
        brain.send_signal(signal.SIGCONT)


async def test_a_brain_that_dies_hands_the_lease_on_and_stops_nothing(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await both(coordinator)
    before = (await coordinator.sees(ONE.uid, HEALTHY)).pid
    (await agent.brain()).kill()
    await eventually(lambda: len(coordinator.hellos) == 2, what="the next brain")
    status = await coordinator.sees(ONE.uid, HEALTHY)
    assert (status.pid, status.attempt) == (before, 1)


async def test_after_a_start_without_a_coordinator_it_waits_and_the_others_run(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await both(coordinator)
    await coordinator.stop()
    agent.signal(signal.SIGKILL)
    await agent.ended()
    agent.start()
    await eventually(lambda: command_of(agent) == {"sleep 2000"}, what="web.1 alone")
    await coordinator.start()
    await coordinator.sees(ONE.uid, HEALTHY)


async def test_one_that_is_drained_is_ended_with_the_lease_all_the_same(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await both(coordinator)
    await coordinator.assign(structs.replace(ONE, ending=True), WEB, releases=[RELEASE])
    await coordinator.sees(ONE.uid, InstanceState.DRAINING)
    await coordinator.stop()
    began_s = time.monotonic()
    await eventually(lambda: command_of(agent) == {"sleep 2000"}, what="one.1 has ended")
    assert time.monotonic() - began_s < LEASE_S + GRACE_S + 1.0


async def test_one_that_is_ending_is_stopped_and_not_started_again(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    await both(coordinator, AT_ONCE)
    await coordinator.assign(structs.replace(ONE, ending=True), WEB, releases=[AT_ONCE])
    await coordinator.sees_gone(ONE.uid)
    assert coordinator.batches[-1].generation == coordinator.generation
    (await agent.brain()).kill()
    await eventually(lambda: len(coordinator.hellos) == 2, what="the next brain")
    await coordinator.assign(structs.replace(ONE, ending=True), WEB, releases=[AT_ONCE])
    await coordinator.sees(WEB.uid, HEALTHY)
    assert command_of(agent) == {"sleep 2000"}
    assert coordinator.hellos[1].host.generation == coordinator.generation - 1
