"""What a process may say by sd_notify, who is believed, and that nothing sent does any harm."""

from __future__ import annotations

import array
import asyncio
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from eventually import eventually
from hypothesis import given
from hypothesis import strategies as st

from formation_agent.notify import TEXT_MAX, Belonging, Message, NotifySocket, parse, readable


class Listener:
    """A socket as the keeper makes them, and what was heard on it."""

    def __init__(self, *, uid: str = "u1", pid: int = 0) -> None:
        self.address = f"\0formation-test/{os.urandom(16).hex()}"
        end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        end.bind(self.address)
        self.heard: list[Message] = []
        self.refused: list[str] = []
        self.socket = NotifySocket(
            end.detach(),
            Belonging(uid=uid, pid=pid or os.getpid()),
            self.heard.append,
            self.refused.append,
        )

    def client(self) -> socket.socket:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        end.connect(self.address)
        return end

    def send(self, *datagrams: bytes) -> None:
        with self.client() as end:
            for datagram in datagrams:
                end.send(datagram)

    async def run(self, *argv: str, env: dict[str, str] | None = None) -> int:
        """A program that may speak."""
        variables = {**os.environ, "NOTIFY_SOCKET": "@" + self.address[1:], **(env or {})}
        process = await asyncio.create_subprocess_exec(
            *argv, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return await asyncio.wait_for(process.wait(), 30)


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    made = Listener()
    yield made
    made.socket.close()


def started(*argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, start_new_session=True, env=env)


def sender(datagram: str) -> tuple[str, ...]:
    """A program that says it, and lives until it was read."""
    script = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])\n"
        "reader, writer = os.pipe()\n"
        "socket.send_fds(s, [sys.argv[1].encode()], [writer])\n"
        "os.close(writer); os.read(reader, 1)\n"
    )
    return sys.executable, "-c", script, datagram


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("datagram", "message"),
    [
        (b"READY=1", Message(ready=True)),
        (b"READY=1\nSTATUS=serving\n", Message(ready=True, status="serving")),
        (b"READY=0", Message()),
        (b"READY=1=1", Message()),
        (b"RELOADING=1\nMONOTONIC_USEC=123", Message(reloading=True)),
        (b"STOPPING=1", Message(stopping=True)),
        (b"WATCHDOG=1", Message(alive=True)),
        (b"WATCHDOG=trigger", Message(given_up=True)),
        (b"WATCHDOG_USEC=1500000", Message(watchdog_s=1.5)),
        (b"WATCHDOG_USEC=0", Message()),
        (b"WATCHDOG_USEC=-1", Message()),
        (b"WATCHDOG_USEC=" + b"9" * 40, Message()),
        (b"EXTEND_TIMEOUT_USEC=20000000", Message(extend_s=20.0)),
        (b"EXTEND_TIMEOUT_USEC= 5", Message()),
        ("EXTEND_TIMEOUT_USEC=٣".encode(), Message()),
        (b"MAINPID=4711", Message(main_pid=True)),
        (b"STATUS=", Message(status="")),
        (b"STATUS=a\nSTATUS=b", Message(status="b")),
        (b"FDSTORE=1\nFDNAME=x\nBARRIER=1\nERRNO=2\nX_OWN=1", Message()),
        (b"", Message()),
        (b"no equals sign", Message()),
        (b"=\n=\n\0=\xff", Message()),
    ],
)
def test_every_word_means_what_the_protocol_says(datagram: bytes, message: Message) -> None:
    assert parse(datagram) == message


@given(st.binary(max_size=300))
def test_rubbish_means_nothing_and_raises_nothing(datagram: bytes) -> None:
    said = parse(b"X" + datagram.replace(b"\n", b""))
    assert said == Message()
    status = parse(b"STATUS=" + datagram).status
    assert status is not None
    assert status.isprintable()
    assert len(status) <= TEXT_MAX


def test_a_text_for_people_has_no_control_characters_and_an_end() -> None:
    assert readable(b"\x1b[31mred\x1b[0m\ttab\rreturn", TEXT_MAX) == "[31mred [0m tab return"
    assert readable("schön ✓".encode(), TEXT_MAX) == "schön ✓"
    assert readable(b"\xff\xfe", TEXT_MAX) == "��"
    assert readable("a\u202eb".encode(), TEXT_MAX) == "a b"  # would turn the direction of reading
    long = readable("ü".encode() * 10_000, TEXT_MAX)
    assert long == "ü" * (TEXT_MAX - 1) + "…"


# -- who is believed -------------------------------------------------------------------------------


async def test_the_main_process_is_heard_in_order(listener: Listener) -> None:
    listener.send(b"STATUS=1", b"STATUS=2", b"READY=1")
    await eventually(lambda: len(listener.heard) == 3)
    assert listener.heard == [
        Message(status="1"),
        Message(status="2"),
        Message(ready=True),
    ]


async def test_a_descendant_is_heard_also_from_a_session_of_its_own(listener: Listener) -> None:
    assert await listener.run(*sender("STATUS=child")) == 0
    assert await listener.run("setsid", "-w", *sender("STATUS=setsid")) == 0
    assert [message.status for message in listener.heard] == ["child", "setsid"]


async def test_an_orphan_is_known_by_its_mark_and_a_stranger_is_not() -> None:
    main = started("sleep", "1000")
    mine, other = Listener(uid="u7", pid=main.pid), Listener(uid="u8", pid=main.pid)
    try:
        for listener in (mine, other):
            for text in ("STATUS=a", "STATUS=b"):
                await listener.run(*sender(text), env={"FORMATION_INSTANCE": "u7"})
        assert [message.status for message in mine.heard] == ["a", "b"]
        assert (other.heard, other.socket.dropped) == ([], 2)
        assert other.refused == [
            "a message was not sent by a process of this instance, or it has ended"
        ]
    finally:
        mine.socket.close()
        other.socket.close()
        main.kill()
        main.wait()


async def test_an_orphan_without_its_mark_is_known_by_its_session() -> None:
    listener = Listener(uid="u7", pid=1 << 30)
    say = " ".join(map(shlex.quote, sender("STATUS=orphan")))
    name = f"NOTIFY_SOCKET=@{listener.address[1:]}"
    main = started("sh", "-c", f"(env -i {name} {say} &) ; exec sleep 1000")
    listener.socket._belonging = Belonging(uid="u7", pid=main.pid)
    try:
        await eventually(lambda: listener.heard or listener.refused)
        assert [message.status for message in listener.heard] == ["orphan"]
    finally:
        listener.socket.close()
        main.kill()
        main.wait()


def own_cgroup() -> Path | None:
    """Where this process is in version 2, if a cgroup can be made there."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point, kind = line.split()[4], line.partition(" - ")[2].split()[0]
        if kind == "cgroup2":
            path = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
            here = Path(point + path)
            return here if os.access(here, os.W_OK) else None
    return None


async def test_a_process_of_the_cgroup_is_heard_whatever_else_it_is() -> None:
    here = own_cgroup()
    if here is None:
        pytest.skip("no cgroup v2 that we may write to")
    group = here / f"test-{os.urandom(6).hex()}"
    group.mkdir()
    enter = f"echo $$ > {group}/cgroup.procs && exec "
    main = started("sh", "-c", enter + "sleep 1000")
    listener = Listener(uid="another", pid=main.pid)
    try:
        await eventually(lambda: (group / "cgroup.procs").read_text().split() == [str(main.pid)])
        speak = ("sh", "-c", enter + '"$@"', "-")
        assert await listener.run(*speak, *sender("STATUS=inside")) == 0
        await listener.run(*sender("STATUS=outside"))
        assert [message.status for message in listener.heard] == ["inside"]
    finally:
        listener.socket.close()
        main.kill()
        main.wait()
        await eventually(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


# -- harm ------------------------------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_every_descriptor_that_comes_along_is_closed(listener: Listener) -> None:
    before = open_files()
    with listener.client() as client:
        many = array.array("i", [client.fileno()] * 253)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)]
        for text in (b"FDSTORE=1", b"STATUS=x", b"", b"\0" * 4000):
            client.sendmsg([text], rights)
    await eventually(lambda: len(listener.heard) == 4)
    assert open_files() == before


async def test_a_barrier_is_passed_when_all_before_it_was_heard(listener: Listener) -> None:
    reader, writer = os.pipe()
    with listener.client() as client:
        client.send(b"STATUS=before")
        socket.send_fds(client, [b"BARRIER=1"], [writer])
    os.close(writer)
    assert await asyncio.wait_for(asyncio.to_thread(os.read, reader, 1), 10) == b""
    assert listener.heard[0].status == "before"
    os.close(reader)


async def test_what_is_too_large_is_dropped_and_said_once(listener: Listener) -> None:
    listener.send(b"STATUS=" + b"x" * 65_000, b"STATUS=" + b"x" * 4090, b"STATUS=small")
    await eventually(lambda: len(listener.heard) == 1)
    assert listener.heard[0].status == "small"
    assert listener.socket.dropped == 2
    assert listener.refused == ["a message was larger than 4096 bytes"]


FLOOD = """
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
while True:
    s.send(b"STATUS=" + os.urandom(100))
"""


async def test_a_flood_waits_in_its_sender_and_the_loop_has_time_for_others(
    listener: Listener,
) -> None:
    variables = {**os.environ, "NOTIFY_SOCKET": "@" + listener.address[1:]}
    flood = started(sys.executable, "-c", FLOOD, env=variables)
    try:
        await eventually(lambda: len(listener.heard) > 0)
        loop = asyncio.get_running_loop()
        began_s, rounds, before = loop.time(), 0, len(listener.heard)
        while loop.time() < began_s + 0.5:
            await asyncio.sleep(0)
            rounds += 1
        heard, took_s = len(listener.heard) - before, loop.time() - began_s
    finally:
        flood.kill()
        flood.wait()
    assert heard <= 32 * (took_s / 0.05 + 2)
    assert rounds > 500


async def test_a_listener_that_is_closed_by_what_it_hears_hears_no_more() -> None:
    listener = Listener()
    heard: list[Message] = []

    def once(message: Message) -> None:
        heard.append(message)
        listener.socket.close()

    listener.socket._heard = once
    listener.send(b"STATUS=1", b"STATUS=2")
    await eventually(lambda: heard)
    await asyncio.sleep(0)
    assert heard == [Message(status="1")]


# -- real clients ----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="systemd-notify is not here")
async def test_systemds_own_client_is_heard_and_its_barrier_answered(listener: Listener) -> None:
    assert await listener.run("systemd-notify", "--ready", "--status=it runs") == 0
    assert Message(ready=True, status="it runs") in listener.heard
