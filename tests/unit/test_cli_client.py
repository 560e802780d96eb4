"""The client against coordinators that are not ready, go away, or are none at all."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator

import pytest
from eventually import eventually
from fake_control import FakeControl
from grpc import StatusCode, aio

from formation.discovery import Target
from formation.v1 import control_pb2 as pb
from formctl.client import CALL_DEADLINE_S, Client
from formctl.dev.cluster import until_joined
from formctl.errors import CommandError, UnreachableError

NOT_READY = "coordinator one is not ready: the store is not read yet"


def target(*addresses: str) -> Target:
    return Target(addresses=addresses, origin="--coordinator", insecure=True)


@pytest.fixture
def socket() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="fc-") as short:
        yield f"unix:{short}/c.sock"


@pytest.fixture
async def pair() -> AsyncIterator[tuple[FakeControl, FakeControl, Target]]:
    """Two coordinators, asked in this order."""
    one, two = FakeControl(), FakeControl(hosts=("z",))
    async with one.serving() as first, two.serving() as second:
        yield one, two, target(first, second)


Pair = tuple[FakeControl, FakeControl, Target]
APPLY = pb.ApplyRequest(app="shop")


async def test_reads_go_on_with_the_next_coordinator_when_one_is_not_ready(pair: Pair) -> None:
    one, _, both = pair
    one.refusals = [NOT_READY] * 2
    async with Client(both) as client:
        assert [line.status.host for line in (await client.hosts())[0]] == ["z"]
        assert client.address == both.addresses[1]
    async with Client(both) as client:
        assert (await client.instances("")).complete
        assert client.address == both.addresses[1]


async def test_when_no_coordinator_is_ready_the_last_ones_words_are_told(pair: Pair) -> None:
    one, two, both = pair
    one.refusals, two.refusals = [NOT_READY], ["coordinator two is not ready: no etcd"]
    async with Client(both) as client:
        with pytest.raises(UnreachableError, match="coordinator two is not ready: no etcd"):
            await client.apps()


async def test_a_change_goes_on_only_when_it_is_sure_that_nothing_was_done(pair: Pair) -> None:
    one, two, both = pair
    one.refusals = [NOT_READY]
    async with Client(both) as client:
        await client.change(lambda stub: stub.Apply, APPLY)
    assert (len(one.requests), len(two.requests)) == (0, 1)
    one.refusals = ["etcd did not answer"]
    async with Client(both) as client:
        with pytest.raises(UnreachableError, match=r"etcd did not answer; it may or may not"):
            await client.change(lambda stub: stub.Apply, APPLY)
    assert len(two.requests) == 1


async def test_a_change_has_more_time_than_a_read(pair: Pair) -> None:
    one, _, both = pair
    async with Client(both) as client:
        await client.change(lambda stub: stub.Apply, APPLY)
    assert CALL_DEADLINE_S + 3 < one.change_deadline_s < 21


async def test_a_stream_goes_on_with_the_next_coordinator_when_one_is_not_ready(
    pair: Pair,
) -> None:
    one, _, both = pair
    one.refusals = [NOT_READY] * 1000
    notices: list[str] = []
    async with (
        Client(both, notice=notices.append) as client,
        contextlib.aclosing(client.watch("")) as updates,
    ):
        assert (await anext(updates)).complete
        assert client.address == both.addresses[1]
    assert notices == [f"formctl: coordinator {both.addresses[0]}: {NOT_READY}; trying again"]


async def test_a_lost_stream_is_told_at_once_and_its_end_in_our_own_words(socket: str) -> None:
    fake, notices = FakeControl(), list[str]()
    client = Client(target(socket), notice=notices.append, patience_s=0.5)
    async with fake.serving(socket):
        await client.connect(5.0)
        updates = client.watch("")
        await anext(updates)
        waiting = asyncio.ensure_future(anext(updates))
    await eventually(lambda: bool(notices))
    assert notices == [f"formctl: connection to coordinator {socket} lost; trying again"]
    with pytest.raises(UnreachableError) as caught:
        await waiting
    await updates.aclose()
    await client.close()
    assert str(caught.value) == f"coordinator {socket} has gone (tried for 0.5 s)"


@contextlib.asynccontextmanager
async def client_of_one_that_went(socket: str) -> AsyncIterator[Client]:
    fake = FakeControl()
    client = Client(target(socket))
    async with fake.serving(socket):
        await client.connect(5.0)
    try:
        yield client
    finally:
        await client.close()


async def test_a_read_that_loses_its_coordinator_does_not_quote_grpc(socket: str) -> None:
    async with client_of_one_that_went(socket) as client:
        with pytest.raises(UnreachableError) as caught:
            await client.apps()
    assert str(caught.value) == f"connection to coordinator {socket} lost"


async def test_a_server_of_another_kind_is_no_coordinator() -> None:
    server = aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Client(target(f"127.0.0.1:{port}")) as client:
            with pytest.raises(CommandError, match="is no coordinator"):
                await client.apps()
    finally:
        await server.stop(None)


async def test_what_listens_without_speaking_grpc_is_no_coordinator() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UnreachableError, match="answers as no coordinator does"):
            await Client(target(f"127.0.0.1:{port}")).connect(1.0)


async def test_a_dev_clusters_coordinator_may_be_unready_while_hosts_are_waited_for() -> None:
    fake = FakeControl(hosts=("a", "b"))
    fake.refusals = [NOT_READY] * 3
    async with fake.serving() as address, asyncio.timeout(10):
        await until_joined(target(address), ["a", "b"])
    assert fake.refusals == []


async def test_an_upload_whose_end_grpc_does_not_explain_is_asked_for_again(socket: str) -> None:
    """It ended while we wrote: why, gRPC knows only of the next one."""
    broke = ['Internal error from Core Failed "execute_batch": (SendMessageOperation,)'] * 2
    said: list[str] = []

    async def work() -> str:
        if broke:
            raise internal(broke.pop())
        return "there"

    async with FakeControl().serving(socket), Client(target(socket), notice=said.append) as client:
        assert await client.persistently(work, lambda: 0) == "there"
        assert said == [f"formctl: connection to coordinator {socket} lost; trying again"]
        broke.append("a bug of its own")
        with pytest.raises(CommandError, match="a bug of its own"):
            await client.persistently(work, lambda: 0)


def internal(said: str) -> aio.AioRpcError:
    return aio.AioRpcError(StatusCode.INTERNAL, aio.Metadata(), aio.Metadata(), details=said)
