"""Tickets, tokens and the two sides of an exec at a coordinator, over TLS; agents are played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import grpc.aio
import pytest
from certified import Authority
from eventually import eventually
from hollow_agent import HollowAgent
from running import RunningCoordinator, coordinator
from secure_rig import Rig

from formation.credentials import Credential
from formation.execflow import CHUNK_BYTES
from formation.identity import Role
from formation.model import AuditRecord
from formation.v1 import agent_pb2, control_pb2_grpc, exec_pb2, types_pb2
from formation.v1 import control_pb2 as pb
from formation.v1.agent_pb2_grpc import AgentStub
from formation_coordinator import execroom
from formation_coordinator.store import codec, keys
from formation_coordinator.store.memory import MemoryStore

DEADLINE_S = 10.0
DENIED = grpc.StatusCode.PERMISSION_DENIED
NO_TICKET = "this ticket is not good any more; try again"
ENDED = exec_pb2.ExecOutput(ended=exec_pb2.ExecEnded(code=3, how="exit 3"))


class Shop(Rig):
    """An app shop with web=1 on a played agent, and whoever wants to run something there."""

    store: MemoryStore
    agent: HollowAgent

    @asynccontextmanager
    async def control(self, who: Credential) -> AsyncIterator[control_pb2_grpc.ControlAsyncStub]:
        async with self.channel(who) as channel:
            stub: control_pb2_grpc.ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
            yield stub

    async def ticket(self, who: Credential, **fields: object) -> str:
        asked = {"app": "shop", "type": "web", "ordinal": 1, "command": "sh"} | fields
        async with self.control(who) as control:
            request = pb.StartExecRequest(**asked)  # type: ignore[arg-type]
            return (await control.StartExec(request)).ticket

    async def audit(self) -> list[AuditRecord]:
        items = (await self.store.ranges([keys.AUDIT])).items
        found = [codec.decode(item.key, item.value) for item in items]
        return [r for r in found if isinstance(r, AuditRecord) and r.action == "exec"]

    async def asked(self, number: int = 1) -> agent_pb2.OpenExec:
        await eventually(lambda: len(self.agent.open_execs) >= number)
        return self.agent.open_execs[number - 1]


Stream = grpc.aio.StreamStreamCall[exec_pb2.ExecInput, exec_pb2.ExecOutput]


async def ended(call: Stream) -> exec_pb2.ExecEnded:
    """What is said at last; what comes before that is dropped."""
    while isinstance(message := await call.read(), exec_pb2.ExecOutput):
        if message.WhichOneof("message") == "ended":
            return message.ended
    raise AssertionError(f"it ended without a word: {await call.code()} {await call.details()}")


async def refused(call: Stream) -> grpc.StatusCode:
    with suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    return await call.code()


async def _apply(running: RunningCoordinator) -> None:
    spec = types_pb2.ProcessType(name="web", command="serve")
    await running.control.Apply(
        pb.ApplyRequest(app="shop", types=[spec], formation={"web": 1}, who="test")
    )


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    authority, store = Authority(), MemoryStore()
    async with coordinator(store, tmp_path, authority=authority) as running:
        found = Shop(tmp_path, authority, running)
        found.store = store
        credential = found.somebody(Role.AGENT, "a")
        agent = HollowAgent(running.address, "a", channel=found.channel(credential))
        async with agent:
            found.agent = agent
            await _apply(running)
            await agent.wait_for(lambda: bool(agent.running))
            ann = found.somebody(Role.OPERATOR)
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    try:
                        await found.ticket(ann)
                        break
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.01)
            yield found


async def test_operators_and_deployers_of_the_app_get_a_ticket_and_nobody_else(shop: Shop) -> None:
    assert await shop.ticket(shop.somebody(Role.OPERATOR))
    assert await shop.ticket(shop.somebody(Role.DEPLOYER, "d", ("sh*",)))
    for who in (
        shop.somebody(Role.VIEWER),
        shop.somebody(Role.DEPLOYER, "other", ("blog",)),
        shop.somebody(Role.AGENT, "a"),
        shop.somebody(Role.COORDINATOR, "c9"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await shop.ticket(who)
        assert caught.value.code() is DENIED
    assert not await shop.audit()


async def test_a_ticket_is_its_holders_alone_and_good_once(shop: Shop) -> None:
    ann, bob = shop.somebody(Role.OPERATOR, "ann"), shop.somebody(Role.OPERATOR, "bob")
    ticket = await shop.ticket(ann)
    async with shop.control(bob) as theirs, shop.control(ann) as hers:
        stolen = theirs.Exec(iter([exec_pb2.ExecInput(ticket=ticket)]))
        assert (await ended(stolen)).why == NO_TICKET
        made_up = hers.Exec(iter([exec_pb2.ExecInput(ticket="0" * 16)]))
        assert (await ended(made_up)).why == NO_TICKET
        first = hers.Exec()
        await first.write(exec_pb2.ExecInput(ticket=ticket))
        await shop.asked()
        second = hers.Exec(iter([exec_pb2.ExecInput(ticket=ticket)]))
        assert (await ended(second)).why == NO_TICKET
        first.cancel()
    assert [record.who for record in await shop.audit()][:1] == ["ann"]


async def test_what_one_side_says_the_other_one_hears_and_the_end_is_written_down(
    shop: Shop,
) -> None:
    ann = shop.somebody(Role.OPERATOR, "ann")
    async with shop.control(ann) as control:
        call = control.Exec()
        await call.write(exec_pb2.ExecInput(ticket=await shop.ticket(ann, command="sh -x")))
        order = await shop.asked()
        assert (order.start.command, order.start.uid) == ("sh -x", next(iter(shop.agent.running)))
        theirs = shop.agent.stub.Exec()
        await theirs.write(agent_pb2.ExecPush(request_id=order.request_id))
        data = bytes(range(256)) * (CHUNK_BYTES // 256)
        for _ in range(20):
            await call.write(exec_pb2.ExecInput(stdin=data))
            heard = await theirs.read()
            assert isinstance(heard, exec_pb2.ExecInput)
            assert heard.stdin == data
            await theirs.write(agent_pb2.ExecPush(output=exec_pb2.ExecOutput(stderr=data)))
            said = await call.read()
            assert isinstance(said, exec_pb2.ExecOutput)
            assert said.stderr == data
        await theirs.write(agent_pb2.ExecPush(output=ENDED))
        assert await call.read() == ENDED
        await call.write(exec_pb2.ExecInput(stdin=b"late"))  # which loses nothing
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        while await theirs.read() is not grpc.aio.EOF:
            pass
    began, over = await eventually(lambda: _two(shop))
    assert (began.who, over.who, over.after) == ("ann", "ann", "exit 3")
    assert began.detail.endswith("on web.1 (a): sh -x")


async def _two(shop: Shop) -> list[AuditRecord]:
    records = await shop.audit()
    return records if len(records) == 2 else []


async def test_a_token_is_one_hosts_alone(shop: Shop) -> None:
    ann = shop.somebody(Role.OPERATOR, "ann")
    async with (
        shop.control(ann) as control,
        shop.channel(shop.somebody(Role.AGENT, "evil")) as channel,
    ):
        call = control.Exec()
        await call.write(exec_pb2.ExecInput(ticket=await shop.ticket(ann)))
        token = (await shop.asked()).request_id
        for name in (token, "0" * 16, ""):
            stolen = AgentStub(channel).Exec()
            await stolen.write(agent_pb2.ExecPush(request_id=name))
            assert await stolen.read() is grpc.aio.EOF
        theirs = shop.agent.stub.Exec()
        await theirs.write(agent_pb2.ExecPush(request_id=token))
        await theirs.write(agent_pb2.ExecPush(output=ENDED))
        assert await call.read() == ENDED


async def test_when_either_side_goes_the_other_one_is_let_go_of(shop: Shop) -> None:
    ann = shop.somebody(Role.OPERATOR, "ann")
    async with shop.control(ann) as control:
        for number, agent_goes in ((1, True), (2, False)):
            call = control.Exec()
            await call.write(exec_pb2.ExecInput(ticket=await shop.ticket(ann)))
            theirs = shop.agent.stub.Exec()
            token = (await shop.asked(number)).request_id
            await theirs.write(agent_pb2.ExecPush(request_id=token))
            await call.write(exec_pb2.ExecInput(stdin=b"x"))
            assert await theirs.read()
            if agent_goes:
                theirs.cancel()
                end = await ended(call)
                assert (end.code, end.how) == (1, "")
                assert "the agent of host a has broken" in end.why
            else:
                call.cancel()
                assert await theirs.read() is grpc.aio.EOF
    records = await eventually(lambda: _four(shop))
    assert "has broken" in records[1].after
    assert "its asker has gone" in records[3].after


async def _four(shop: Shop) -> list[AuditRecord]:
    records = await shop.audit()
    return records if len(records) == 4 else []


async def test_who_sends_what_is_too_long_is_cut_off(shop: Shop) -> None:
    ann = shop.somebody(Role.OPERATOR, "ann")
    async with shop.control(ann) as control:
        call = control.Exec()
        await call.write(exec_pb2.ExecInput(ticket=await shop.ticket(ann)))
        theirs = shop.agent.stub.Exec()
        await theirs.write(agent_pb2.ExecPush(request_id=(await shop.asked()).request_id))
        await call.write(exec_pb2.ExecInput(stdin=bytes(3 * CHUNK_BYTES)))
        assert await theirs.read() is grpc.aio.EOF
        assert await refused(call) is grpc.StatusCode.OK


async def test_an_agent_that_does_not_answer_is_one_line(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execroom, "AGENT_ANSWERS_S", 0.2)
    ann = shop.somebody(Role.OPERATOR, "ann")
    async with shop.control(ann) as control:
        call = control.Exec()
        await call.write(exec_pb2.ExecInput(ticket=await shop.ticket(ann)))
        said = (await ended(call)).why
    assert said.startswith("host a: its agent has not answered within 0.2 s")


async def test_only_coordinators_relay_and_only_to_hosts_of_theirs(shop: Shop) -> None:
    start = exec_pb2.ExecInput(start=exec_pb2.ExecStart(host="b", command="sh"))
    for role in (Role.OPERATOR, Role.DEPLOYER, Role.VIEWER, Role.AGENT):
        apps = ("*",) if role is Role.DEPLOYER else ()
        async with shop.control(shop.somebody(role, "a", apps)) as control:
            assert await refused(control.RelayExec(iter([start]))) is DENIED
    async with shop.control(shop.somebody(Role.COORDINATOR, "c2")) as control:
        assert "host b" in (await ended(control.RelayExec(iter([start])))).why
        start.start.host = "a"
        call = control.RelayExec()
        await call.write(start)
        theirs = shop.agent.stub.Exec()
        await theirs.write(agent_pb2.ExecPush(request_id=(await shop.asked()).request_id))
        await theirs.write(agent_pb2.ExecPush(output=ENDED))
        assert await call.read() == ENDED
    assert not await shop.audit()  # it is written by whoever was asked first
