"""Probes against real servers of every kind and of no kind."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc.aio
import pytest
from eventually import eventually
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from formation.model import Probe, ProbeKind
from formation_agent.probes import PASSED, Outcome, ProbeRuns, Target

PROMPT_S = 10.0  # of what answers; only a stuck machine comes near it
HUNG_S = 0.2
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class NoCommands:
    async def ask(self, probe: Probe, target: Target) -> Outcome:
        raise AssertionError("no command is to be run")


async def ask(
    kind: ProbeKind, port: int, target: str = "", timeout_s: float = PROMPT_S, own_port: int = 0
) -> Outcome:
    probe = Probe(kind=kind, target=target, timeout_s=timeout_s, port=own_port)
    return await ProbeRuns(NoCommands()).ask(probe, Target(key="u1:1", port=port))


async def in_time(kind: ProbeKind, port: int, timeout_s: float) -> Outcome:
    """What comes of it when this machine does not hold us up meanwhile."""
    while True:
        outcome = await ask(kind, port, timeout_s=timeout_s)
        if outcome.passed is not None:
            return outcome


async def http(port: int, path: str = "/health", timeout_s: float = PROMPT_S) -> Outcome:
    return await ask(ProbeKind.HTTP, port, path, timeout_s)


def failed(reason: str) -> Outcome:
    return Outcome(passed=False, reason=reason)


@contextmanager
def nobody() -> Iterator[int]:
    """A port on which nobody listens, and nobody will."""
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        yield end.getsockname()[1]


@asynccontextmanager
async def serving(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[int]:
    tasks: set[asyncio.Task[object]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, host, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)


def answering(
    answer: bytes, *, then_hang: bool = False, asked: list[bytes] | None = None
) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if asked is not None:
            asked.append(request)
        writer.write(answer)
        await writer.drain()
        if then_hang:
            await asyncio.Event().wait()

    return handle


async def hanging(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


def status(code: int, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (code, len(body), body)


# -- http ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [200, 204, 302, 399])
async def test_a_status_from_200_to_399_passes(code: int) -> None:
    async with serving(answering(status(code))) as port:
        assert await http(port) == PASSED


@pytest.mark.parametrize("code", [400, 404, 500, 503])
async def test_any_other_status_fails_and_is_named(code: int) -> None:
    async with serving(answering(status(code, b"sorry"))) as port:
        assert await http(port) == failed(f"HTTP {code} from /health")


async def test_the_request_says_who_asks_and_for_what() -> None:
    asked: list[bytes] = []
    async with serving(answering(status(200), asked=asked)) as port:
        await http(port, "/health?deep=1&name=Ü b#x")
        await http(port, "")
    first, *headers = asked[0].decode("ascii").split("\r\n")
    assert first == "GET /health?deep=1&name=%C3%9C%20b#x HTTP/1.1"
    assert {"Host: localhost", "User-Agent: formation-probe", "Connection: close"} <= set(headers)
    assert asked[1].startswith(b"GET / HTTP/1.1\r\n")


async def test_a_redirect_is_not_followed() -> None:
    asked: list[bytes] = []
    answer = b"HTTP/1.1 301 Moved\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"
    async with serving(answering(answer, asked=asked)) as port:
        assert await http(port) == PASSED
    assert len(asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 100 Continue\r\n\r\n" + status(200),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nrubbish",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort",
        status(200, b"x" * 1_000_000),
    ],
)
async def test_the_body_is_read_and_means_nothing(answer: bytes) -> None:
    async with serving(answering(answer)) as port:
        assert await http(port) == PASSED


async def test_a_body_without_end_does_not_undo_a_good_status() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with serving(endless) as port:
        assert await http(port) == PASSED
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"
    async with serving(answering(begun, then_hang=True)) as port:
        assert await http(port, timeout_s=HUNG_S) == PASSED


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"220 mail.example.com ESMTP\r\n",
        b"\x16\x03\x01\x00",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
        b"HTTP/1.1 two OK\r\n\r\n",
    ],
)
async def test_what_is_no_http_fails(answer: bytes) -> None:
    async with serving(answering(answer)) as port:
        assert await http(port) == failed(f"no HTTP answer on port {port}")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_no_answer_breaks_anything(answer: bytes) -> None:
    async def story() -> Outcome:
        async with serving(answering(b"HTTP/1.1 " + answer)) as port:
            return await http(port)

    assert asyncio.run(story()).passed in {True, False}


async def test_who_does_not_answer_in_time_fails() -> None:
    async with serving(hanging) as port:
        outcome = await in_time(ProbeKind.HTTP, port, HUNG_S)
        assert outcome == failed("no answer within 0.2 s")


async def test_who_closes_the_connection_fails() -> None:
    async with serving(closing) as port:
        assert (await http(port)).passed is False


@pytest.mark.parametrize("kind", [ProbeKind.HTTP, ProbeKind.TCP, ProbeKind.GRPC])
async def test_where_nobody_listens_the_connection_is_refused(kind: ProbeKind) -> None:
    with nobody() as port:
        assert await ask(kind, port) == failed(f"connection refused on port {port}")


# -- tcp -------------------------------------------------------------------------------------------


async def test_a_port_that_takes_connections_passes() -> None:
    async with serving(hanging) as port:
        assert await ask(ProbeKind.TCP, port) == PASSED


async def test_a_port_of_its_own_is_asked_instead_of_the_instances() -> None:
    with nobody() as other:
        async with serving(hanging) as port:
            assert await ask(ProbeKind.TCP, other, own_port=port) == PASSED


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as end:
            end.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
@pytest.mark.parametrize("kind", [ProbeKind.HTTP, ProbeKind.TCP])
async def test_who_listens_on_ipv6_alone_is_found(kind: ProbeKind) -> None:
    async with serving(answering(status(200)), "::1") as port:
        assert await ask(kind, port) == PASSED


async def test_who_takes_no_connections_any_more_fails_in_time() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for end in waiting:
            end.setblocking(False)
            assert end.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS
        outcome = await in_time(ProbeKind.TCP, port, HUNG_S)
        assert outcome == failed("no answer within 0.2 s")
        for end in waiting:
            end.close()


# In a network of its own, where a client's port is always one of two.
LONELY = """
import asyncio, fcntl, socket, struct
from formation_agent.probes import connect
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
    file.write("40000 40001")
async def refused():
    try:
        (await connect(40000)).close()
    except ConnectionRefusedError:
        return True
    return False
print(all([asyncio.run(refused()) for _ in range(50)]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network of its own")
async def test_a_socket_that_happens_to_connect_to_itself_is_not_taken_for_a_listener() -> None:
    process = await asyncio.create_subprocess_exec(
        "unshare", "--net", sys.executable, "-c", LONELY, stdout=subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    if process.returncode != 0 and not output:
        pytest.skip("no network namespace can be made here")
    assert output == b"True\n"


async def test_that_no_descriptor_is_free_here_says_nothing_about_the_process() -> None:
    async with serving(hanging) as port:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free(), hard))
        try:
            outcome = await ask(ProbeKind.TCP, port)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert outcome == Outcome(passed=None, reason="the agent cannot ask: Too many open files")


def lowest_free() -> int:
    fd = os.dup(0)
    os.close(fd)
    return fd


async def test_an_answer_that_came_while_we_were_held_up_is_not_counted_as_missing() -> None:
    async with serving(hanging) as port:
        asking = asyncio.create_task(http(port, timeout_s=HUNG_S))
        await asyncio.sleep(0.05)
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.8)"], check=True)  # noqa: ASYNC221
        outcome = await asking
    assert outcome.passed is None
    assert outcome.reason.startswith("the agent was held up for ")


async def test_probes_leave_no_descriptor_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with serving(hanging) as port:
        for kind in (ProbeKind.HTTP, ProbeKind.TCP):
            await ask(kind, port, timeout_s=0.05)
    with nobody() as port:
        for kind in (ProbeKind.HTTP, ProbeKind.TCP):
            await ask(kind, port)
    await eventually(lambda: len(os.listdir("/proc/self/fd")) == before)


# -- grpc ------------------------------------------------------------------------------------------


@asynccontextmanager
async def grpc_server(
    *, with_health: bool = True
) -> AsyncIterator[tuple[int, health.aio.HealthServicer]]:
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    if with_health:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port, servicer
    finally:
        await server.stop(None)


async def test_a_server_that_serves_passes_and_one_that_does_not_is_quoted() -> None:
    statuses = health_pb2.HealthCheckResponse
    async with grpc_server() as (port, servicer):
        await servicer.set("", statuses.SERVING)
        await servicer.set("mail", statuses.NOT_SERVING)
        assert await ask(ProbeKind.GRPC, port) == PASSED
        assert await ask(ProbeKind.GRPC, port, "mail") == failed("NOT_SERVING from mail")
        await servicer.set("mail", statuses.SERVING)
        assert await ask(ProbeKind.GRPC, port, "mail") == PASSED
        await servicer.set("", statuses.NOT_SERVING)
        assert await ask(ProbeKind.GRPC, port) == failed("NOT_SERVING")
        unknown = await ask(ProbeKind.GRPC, port, "other")
        assert unknown == failed(f"gRPC knows no service 'other' on port {port}")


async def test_a_server_without_the_health_service_fails() -> None:
    async with grpc_server(with_health=False) as (port, _):
        assert await ask(ProbeKind.GRPC, port) == failed(f"no grpc.health.v1.Health on port {port}")


async def test_what_is_no_grpc_fails_in_time() -> None:
    async with serving(answering(status(200))) as port:
        outcome = await ask(ProbeKind.GRPC, port, timeout_s=2.0)
        assert outcome.passed is False
    async with serving(hanging) as port:
        outcome = await in_time(ProbeKind.GRPC, port, HUNG_S)
        assert outcome == failed("no answer within 0.2 s")
