"""One agent's session in this process, against a scripted coordinator."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from eventually import eventually
from fake_coordinator import FakeCoordinator
from supervisor_bench import Bench, stay, wanted

from formation import wire
from formation.model import HostStatus, InstanceState, Usage
from formation.runtime import now_ms
from formation.v1 import agent_pb2 as pb
from formation_agent.endings import SessionLost
from formation_agent.logs import Logs
from formation_agent.membership import Membership
from formation_agent.session import Session


async def describe(_coordinator: str) -> HostStatus:
    return HostStatus(host="b", agent_id="a1")


class Meter:
    """Knows one instance of each app it is asked for, but cannot always look."""

    def __init__(self) -> None:
        self.blind = False

    async def sample(self, app: str) -> tuple[Usage, ...]:
        if self.blind:
            raise OSError(errno.EMFILE, "Too many open files")
        return (Usage(uid=f"of {app}", cpu_s=1.5),)


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[FakeCoordinator]:
    # No heartbeat wakes the writer in time.
    async with FakeCoordinator(f"unix:{tmp_path / 'c.sock'}", heartbeat_period_s=600) as running:
        yield running


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
async def session(tmp_path: Path, coordinator: FakeCoordinator, bench: Bench) -> Session:
    return Session(
        supervisor=bench.supervisor,
        journal=bench.journal,
        logs=Logs(tmp_path / "logs", max_bytes=10_000, files=2, host="b"),
        usage=Meter(),
        addresses=lambda: (coordinator.address,),
        describe=describe,
        dial=Membership(tmp_path, (), insecure=False, now_ms=now_ms).dialled,
    )


async def test_a_goodbye_that_was_wanted_before_there_was_a_session_is_said(
    coordinator: FakeCoordinator, session: Session
) -> None:
    session.goodbye()
    await asyncio.wait_for(session.run(), 10)
    assert session.left.is_set()
    assert coordinator.goodbyes == 1


class DeafCall:
    """A stream that says welcome and ends well, having taken the Hello and nothing more."""

    def __init__(self) -> None:
        self.written = 0
        self.said = 0

    async def write(self, message: pb.AgentMessage) -> None:
        self.written += 1
        if not message.HasField("hello"):
            await asyncio.Event().wait()

    async def read(self) -> object:
        self.said += 1
        if self.said == 1:
            return pb.CoordinatorMessage(welcome=pb.Welcome(cluster_id="c1"))
        await eventually(lambda: self.written == 2)
        return grpc.aio.EOF


async def test_a_stream_that_ends_before_the_goodbye_has_not_taken_it(session: Session) -> None:
    session.goodbye()
    call: Any = DeafCall()
    with pytest.raises(ExceptionGroup) as caught:
        await session._talk(call, call, "unix:/c")
    assert caught.group_contains(SessionLost, match="it ended the stream")
    assert not session.left.is_set()


class FailsAsItIsCancelled(Session):
    """Its task group begins to fail, and before it has ended the whole session is cancelled."""

    talks = 0

    async def _talk(self, *_args: object) -> None:
        self.talks += 1
        whole = asyncio.current_task()
        assert whole is not None
        async with asyncio.TaskGroup() as group:
            failing = group.create_task(self._fail())
            failing.add_done_callback(lambda _: whole.cancel())
            await asyncio.Event().wait()

    async def _fail(self) -> None:
        raise SessionLost("cut")


async def test_a_session_that_is_cancelled_as_it_fails_ends(session: Session) -> None:
    session.__class__ = FailsAsItIsCancelled
    running = asyncio.create_task(session.run())
    await asyncio.wait([running], timeout=10)
    assert running.cancelled()


async def test_what_the_hello_did_not_say_is_said_without_a_heartbeat(
    coordinator: FakeCoordinator, bench: Bench, session: Session
) -> None:
    running = asyncio.create_task(session.run())
    await coordinator.say(
        pb.CoordinatorMessage(assignments=wire.assignments_to_pb(wanted(7, stay("u1"))))
    )
    await coordinator.sees("u1", InstanceState.STARTING)
    await eventually(lambda: coordinator.batches[-1].generation == 7)
    running.cancel()


async def test_every_request_for_usage_is_answered_also_when_we_cannot_look(
    coordinator: FakeCoordinator, session: Session
) -> None:
    running = asyncio.create_task(session.run())
    for app in ("shop", "blog"):
        usages = await coordinator.sample_usage(f"of {app}", app)
        assert usages == {f"of {app}": Usage(uid=f"of {app}", cpu_s=1.5)}
    meter = session._usage
    assert isinstance(meter, Meter)
    meter.blind = True
    assert await coordinator.sample_usage("blind") == {}
    running.cancel()
