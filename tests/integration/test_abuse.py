"""Somebody who only wants to be in the way: others go on, and it is shown out."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from certified import Authority, now_ms
from eventually import eventually
from running import coordinator
from secure_rig import Rig

from formation.enrolling import EnrolError, Enrolled, enrol
from formation.identity import Role
from formation.v1 import agent_pb2, control_pb2, control_pb2_grpc, types_pb2
from formation.v1.agent_pb2_grpc import AgentStub
from formation_coordinator.sessions import COMPLAINT_MAX, MESSAGES_BURST
from formation_coordinator.store.memory import MemoryStore

CALL_S = 5.0
HALF_OPEN = 300


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    authority = Authority()
    async with coordinator(MemoryStore(), tmp_path, authority=authority) as running:
        yield Rig(tmp_path, authority, running)


async def is_served(rig: Rig) -> bool:
    async with rig.channel(rig.somebody(Role.VIEWER, "vic")) as channel:
        stub: control_pb2_grpc.ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
        await stub.ListHosts(control_pb2.ListHostsRequest(), timeout=CALL_S)
        return True


@contextmanager
def connections(address: str, count: int) -> Iterator[list[socket.socket]]:
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        opened = [
            stack.enter_context(socket.create_connection((host, int(port)), CALL_S))
            for _ in range(count)
        ]
        for one in opened:
            one.setblocking(False)
        yield opened


def is_closed(one: socket.socket) -> bool:
    try:
        while one.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


async def test_who_connects_and_says_nothing_is_shown_out(rig: Rig) -> None:
    with connections(rig.address, HALF_OPEN) as opened:
        assert await is_served(rig)
        await eventually(lambda: all(map(is_closed, opened)), deadline_s=30, what="their end")
        assert await is_served(rig)


async def test_a_hello_that_comes_drop_by_drop_takes_no_longer_than_a_handshake_may(
    rig: Rig,
) -> None:
    with connections(rig.address, 20) as opened:
        drops = iter(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100))
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while not all(map(is_closed, opened)):
            assert loop.time() < began_s + 30
            drop = bytes([next(drops, 0)])
            for one in opened:
                try:
                    one.send(drop)
                except OSError:
                    continue
            await asyncio.sleep(0.2)
        assert await is_served(rig)


async def test_rubbish_ends_its_own_connection(rig: Rig) -> None:
    rubbish = [
        os.urandom(200),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    with connections(rig.address, len(rubbish)) as opened:
        for one, said in zip(opened, rubbish, strict=True):
            one.send(said)
        await eventually(lambda: all(map(is_closed, opened)), deadline_s=20)
    assert await is_served(rig)


async def test_a_message_that_is_too_long_is_refused_and_the_next_is_not(rig: Rig) -> None:
    async with rig.channel(rig.somebody(Role.OPERATOR)) as channel:
        stub: control_pb2_grpc.ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
        long = control_pb2.ApplyRequest(app="shop", reason="x" * (17 << 20))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Apply(long, timeout=CALL_S)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await stub.ListHosts(control_pb2.ListHostsRequest(), timeout=CALL_S)


async def test_of_a_flood_of_joins_with_one_token_one_joins_and_others_are_served(
    rig: Rig,
) -> None:
    token = await rig.token()

    async def join(number: int) -> Enrolled:
        return await enrol(rig.address, token, f"h{number}", [Role.AGENT], now_ms())

    joining = asyncio.gather(*(join(n) for n in range(50)), return_exceptions=True)
    assert await is_served(rig)
    results = await joining
    assert sum(isinstance(result, Enrolled) for result in results) == 1
    assert sum(isinstance(result, EnrolError) for result in results) == len(results) - 1


async def test_an_agent_that_talks_without_end_slows_down_itself_alone(rig: Rig) -> None:
    flooding = asyncio.create_task(flood(rig, int(MESSAGES_BURST) * 4))
    try:
        await eventually(lambda: "loud" in rig.running.service.sessions.held)
        session = rig.running.service.sessions.held["loud"]
        for _ in range(10):
            assert await is_served(rig)
        # It is read, but not as fast as it talks.
        assert not flooding.done()
        assert session is rig.running.service.sessions.held["loud"]
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)


async def test_a_long_complaint_is_cut_for_all_who_list_hosts(rig: Rig) -> None:
    await flood(rig, 1)
    await eventually(lambda: hosts_complaint(rig) == "x" * COMPLAINT_MAX)


def hosts_complaint(rig: Rig) -> str:
    entry = rig.running.service.live.world.hosts.get("loud")
    return entry.status.complaint if entry and entry.status else ""


async def flood(rig: Rig, messages: int) -> None:
    said = types_pb2.HostStatus(host="loud", agent_id="x", boot_id="b")
    batch = agent_pb2.StatusBatch(complaint="x" * 10_000)
    async with rig.channel(rig.somebody(Role.AGENT, "loud")) as channel:
        call = AgentStub(channel).Session()
        await call.write(agent_pb2.AgentMessage(hello=agent_pb2.Hello(host=said)))
        await call.read()
        for _ in range(messages):
            await call.write(agent_pb2.AgentMessage(status=batch))
