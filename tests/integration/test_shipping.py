"""Log lines on their way to real receivers: killed and back, slow, refusing, and what is said of
what is missing."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from eventually import eventually
from receivers import Received, datagrams, otlp, server_for, stream
from running import free_port

from formation.model import Slot
from formation.runtime import now_ms
from formation_agent import shipping
from formation_agent.logs import Logs
from formation_agent.shipping import Shipper, shippers
from formation_agent.shipping_targets import parse
from formation_agent.statedir import RefusedError

WEB_1 = Slot("shop", "web", 1)
DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off as it is, in less time."""
    monkeypatch.setattr(shipping, "BACK_OFF_S", 0.02)
    monkeypatch.setattr(shipping, "BACK_OFF_MAX_S", 0.1)
    monkeypatch.setattr(shipping, "REMEMBER_EVERY_S", 0.0)


class Rig:
    """A log room that ships; the test writes the lines."""

    def __init__(self, logs: Logs, shipper: Shipper) -> None:
        self.logs, self.shipper = logs, shipper
        self._out = -1

    async def say(self, *lines: bytes) -> None:
        if self._out < 0:
            out, self._out = os.pipe()
            self.logs.attach(WEB_1, out, -1)
        # It may fill the pipe, which this loop reads.
        await asyncio.to_thread(os.write, self._out, b"".join(line + b"\n" for line in lines))

    def close(self) -> None:
        if self._out >= 0:
            os.close(self._out)
        self.logs.close()


@asynccontextmanager
async def shipped(
    directory: Path, target: str, *, header_file: str = "", ca_file: str = "",
    max_bytes: int = 1 << 20, files: int = 5, begun: bool = True,
) -> AsyncIterator[Rig]:  # fmt: skip
    directory.mkdir(exist_ok=True)
    logs = Logs(directory / "logs", max_bytes=max_bytes, files=files, host="a")
    (made,) = shippers(
        [parse(target)], logs, directory, header_file=header_file, ca_file=ca_file,
        now_us=lambda: now_ms() * 1000,
    )  # fmt: skip
    task = asyncio.create_task(made.run())
    rig = Rig(logs, made)
    if begun:
        await eventually((directory / "shipping").exists, what="it follows")
    try:
        yield rig
    finally:
        rig.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(received: Received, text: bytes) -> None:
    await eventually(
        lambda: any(text in found for found in received.texts), deadline_s=DEADLINE_S,
        what=f"{text!r} arrives",
    )  # fmt: skip


async def test_journald_gets_every_byte_and_long_lines_by_a_file_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with (
        datagrams(path, journal=True) as received,
        shipped(tmp_path, f"journald:{path}") as rig,
    ):
        long = b"x" * 65536
        await rig.say(b"hello", b"bin\x00\xff\x1b[2J")
        await rig.say(long)
        await rig.say(b"last")
        await until(received, b"last")
        assert received.texts == [b"hello", b"bin\x00\xff\x1b[2J", long, b"last"]
        assert received.fields[0][b"FORMATION_INSTANCE"] == b"web.1"
        assert rig.shipper.shipped.up
        assert rig.shipper.shipped.lines == 4


async def test_a_line_that_no_datagram_holds_goes_by_a_sealed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unix datagrams can be 200 kB here: a smaller send buffer makes a line too long."""
    import socket as sockets

    real = sockets.socket.connect

    def connect(self: sockets.socket, address: object) -> None:
        self.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 4608)
        real(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr("formation_agent.sinks.socket.socket.connect", connect)
    path = tmp_path / "journal"
    async with (
        datagrams(path, journal=True) as received,
        shipped(tmp_path, f"journald:{path}") as rig,
    ):
        await rig.say(b"y" * 60_000, b"last")
        await until(received, b"last")
        assert received.texts == [b"y" * 60_000, b"last"]
        assert received.by_file == 1


async def test_syslog_goes_by_a_unix_socket_and_by_udp(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with datagrams(path) as received, shipped(tmp_path, f"syslog+unix:{path}") as rig:
        await rig.say(b"hello", b"z" * 20_000)
        await until(received, b"zzz")
        assert received.texts[0].startswith(b"<14>1 ")
        assert len(received.texts[1]) <= 8192
    async with (
        datagrams(None) as received,
        shipped(tmp_path / "udp", f"syslog+udp://{received.address}") as rig,
    ):
        await rig.say(b"over udp")
        await until(received, b"over udp")


async def test_a_tcp_receiver_that_is_killed_and_back_gets_all_that_was_written_meanwhile(
    tmp_path: Path,
) -> None:
    port = free_port()
    async with shipped(tmp_path, f"syslog+tcp://127.0.0.1:{port}") as rig:
        async with stream(port) as received:
            await rig.say(b"before")
            await until(received, b"before")
        await rig.say(b"while it was away")
        await eventually(lambda: not rig.shipper.shipped.up, what="the loss is noticed")
        await rig.say(*(b"waits %d" % n for n in range(100)))
        async with stream(port) as again:
            await until(again, b"waits 99")
            texts = b"\n".join(again.texts)
            assert all(b"waits %d" % n in texts for n in range(100))
            assert b"while it was away" in texts
        assert rig.shipper.shipped.failures >= 1


async def test_tls_is_checked_against_the_authority_that_was_given(tmp_path: Path) -> None:
    server, ca_file = server_for("localhost", tmp_path / "good")
    _, other = server_for("localhost", tmp_path / "other")
    async with stream(tls=server) as received:
        port = received.address.rpartition(":")[2]
        good = f"syslog+tls://localhost:{port}"
        async with shipped(tmp_path / "a", good, ca_file=str(ca_file)) as rig:
            await rig.say(b"over tls")
            await until(received, b"over tls")
        target = f"syslog+tls://{received.address}"
        # Of another authority, and for another name than this address.
        for name, to, by in (("b", good, other), ("c", target, ca_file)):
            async with shipped(tmp_path / name, to, ca_file=str(by)) as rig:
                await rig.say(b"never")
                failing = rig.shipper.shipped
                await eventually(lambda: failing.failures > 1, what="it is refused")  # noqa: B023
        assert len(received.texts) == 1
    with pytest.raises(RefusedError, match="--log-ca-file /nowhere: cannot be read"):
        async with shipped(tmp_path / "y", target, ca_file="/nowhere", begun=False):
            pass


async def test_a_slow_receiver_holds_up_nobody_and_is_told_how_much_it_missed(
    tmp_path: Path,
) -> None:
    async with stream() as received:
        target = f"syslog+tcp://{received.address}"
        async with shipped(tmp_path, target, max_bytes=1 << 16, files=2) as rig:
            await rig.say(b"0 first")
            await until(received, b"first")
            received.reading.clear()
            # Far more than sockets hold; each write returns, so the instance never waits.
            for start in range(1, 200_001, 500):
                await rig.say(*(b"%d %s" % (n, b"x" * 80) for n in range(start, start + 500)))
                await asyncio.sleep(0)
            await eventually(lambda: rig.logs.read_bytes(WEB_1) > 200_000 * 80)
            received.reading.set()
            await rig.say(b"200001 end")
            await until(received, b"200001 end")
            texts = [text.split(b"] ", 1)[1] for text in received.texts]
            gaps = [text for text in texts if b"[formation]" in text]
            numbers = [int(text.split()[0]) for text in texts if text not in gaps]
            assert gaps
            assert numbers == sorted(set(numbers))
            missing = sum(int(gap.split()[1].replace(b",", b"")) for gap in gaps)
            assert len(numbers) + missing == 200_002
            assert rig.shipper.shipped.missing == missing


async def test_otlp_gets_headers_of_a_private_file_and_what_it_cannot_take_now_again_later(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "headers"
    secret.touch(mode=0o600)
    secret.write_text("Authorization: Bearer t0ken\n")
    async with otlp() as received:
        received.answers = [503, 429]
        target = f"otlp+http://{received.address}"
        async with shipped(tmp_path, target, header_file=str(secret)) as rig:
            await rig.say(b"hello", "schön".encode())
            await until(received, "schön".encode())
            assert received.texts == [b"hello", "schön".encode()]
            assert {item["Authorization"] for item in received.headers} == {"Bearer t0ken"}
            assert rig.shipper.shipped.failures == 2


async def test_what_otlp_refuses_is_counted_and_said_before_the_next_line(tmp_path: Path) -> None:
    async with otlp() as received:
        received.answers = [400]
        async with shipped(tmp_path, f"otlp+http://{received.address}") as rig:
            await rig.say(b"bad one", b"bad two")
            await eventually(lambda: rig.shipper.shipped.refused == 2)
            await rig.say(b"good")
            await until(received, b"good")
            assert received.texts == [b"[formation] 2 lines before this one were refused", b"good"]


async def test_a_restart_of_the_agent_goes_on_where_it_was(tmp_path: Path) -> None:
    async with otlp() as received:
        target = f"otlp+http://{received.address}"
        async with shipped(tmp_path, target) as rig:
            await rig.say(b"one", b"two")
            await until(received, b"two")
        # Written while nobody ships.
        logs = Logs(tmp_path / "logs", max_bytes=1 << 20, files=5, host="a")
        for slot in (WEB_1, Slot("shop", "web", 2)):
            out, end = os.pipe()
            logs.attach(slot, out, -1)
            os.write(end, b"meanwhile\n")
            os.close(end)
            assert await logs.drained(slot, DEADLINE_S)
        logs.close()
        async with shipped(tmp_path, target) as rig:
            await rig.say(b"three")
            await until(received, b"three")
        assert sorted(received.texts) == sorted(
            [b"one", b"two", b"meanwhile", b"meanwhile", b"three"]
        )


async def test_what_it_wrote_down_may_be_rubbish(tmp_path: Path) -> None:
    async with otlp() as received:
        target = f"otlp+http://{received.address}"
        async with shipped(tmp_path, target) as rig:
            await rig.say(b"one")
            await until(received, b"one")
        (path,) = (tmp_path / "shipping").glob("*.json")
        for rubbish in (b"", b"{", b"[]", b'{"since_us": "x", "seen": 3}', b"\xff" * 100):
            path.write_bytes(rubbish)
            async with shipped(tmp_path, target) as rig:
                await asyncio.sleep(0)
        assert received.texts == [b"one"]


async def test_a_disk_that_is_full_for_what_it_writes_down_stops_no_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shipping").symlink_to("/dev/full")
    async with (
        otlp() as received,
        shipped(tmp_path, f"otlp+http://{received.address}", begun=False) as rig,
    ):
        await eventually(lambda: "a restart would send lines again" in caplog.text)
        await rig.say(b"on its way")
        await until(received, b"on its way")


def rsyslogd() -> str:
    found = shutil.which("rsyslogd", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip("no rsyslog: apt install rsyslog")
    return found


async def test_a_real_rsyslog_reads_every_part_of_it(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "out"
    config = tmp_path / "rsyslog.conf"
    config.write_text(
        'module(load="imtcp")\n'
        f'input(type="imtcp" address="127.0.0.1" port="{port}")\n'
        'template(name="t" type="string" string="%app-name%|%procid%|%msgid%|%syslogseverity%|'
        '%structured-data%|%msg%\\n")\n'
        f'action(type="omfile" file="{out}" template="t")\n'
    )
    program = await asyncio.create_subprocess_exec(
        rsyslogd(), "-n", "-f", str(config), "-i", str(tmp_path / "pid"),
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with shipped(tmp_path, f"syslog+tcp://127.0.0.1:{port}") as rig:
            await rig.say(b"hello", b"two\x1b[31m \xff", b"x" * 5000)

            def arrived() -> bool:
                return out.exists() and out.read_text().count("\n") == 3

            await eventually(arrived, deadline_s=DEADLINE_S, what="rsyslog writes it")
        first, second, third = out.read_text().splitlines()
        data = '[formation@32473 app="shop" type="web" instance="web.1" host="a"]'
        assert first == f"shop|web.1|stdout|6|{data}|hello"
        assert second.endswith("|two\\x1b[31m \\xff")
        assert third.endswith("|" + "x" * 5000)
    finally:
        program.terminate()
        await program.wait()
