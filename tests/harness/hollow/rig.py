"""What `bench/cluster.py` measures: a real etcd, real coordinators, hollow hosts; and figures."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
from certified import Authority

from formation.names import PING_EVERY_S

HARNESS = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
DEADLINE_S = 600.0
_ETCD = re.compile(r"^(etcd_\w+)(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


# Set by who is told to end: then nothing is waited for any more.
told_to_end = threading.Event()


def free_ports(count: int) -> list[int]:
    """All different: each is held until the last one is found."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a program, between two looks; `memory_bytes` at the second one."""

    cpu_s: float
    memory_bytes: int


class Program:
    def __init__(self, directory: Path, name: str, argv: list[str], **more: Any) -> None:
        self.name, self.log = name, directory / f"{name}.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FORMATION_")}
        environment |= {"PYTHONPATH": str(HARNESS), "XDG_CONFIG_HOME": str(directory)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, stderr=log, env=environment, start_new_session=True, **more
            )
        self._seen = psutil.Process(self.process.pid)

    def cpu_s(self) -> float:
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    def memory_bytes(self) -> int:
        return int(self._seen.memory_info().rss)

    def lives(self) -> bool:
        """Raises with its last words when it has ended."""
        assert self.process.poll() is None, f"{self.name} ended: {self.log.read_text()[-2000:]}"
        return True

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Hollow(Program):
    """One process of hollow hosts."""

    def __init__(self, directory: Path, name: str, *flags: str) -> None:
        super().__init__(
            directory,
            name,
            [sys.executable, "-m", "hollow", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.name} ended: {self.log.read_text()[-2000:]}"
        return str(line)

    def _say(self, words: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()

    def until_ready(self) -> None:
        assert self._line() == "ready\n"

    def go(self) -> None:
        self._say()

    def told(self, words: str = "") -> dict[str, Any]:
        self._say(words)
        found: dict[str, Any] = json.loads(self._line())
        return found


class Rig:
    """`with Rig(…) as rig:`: etcd and coordinators run; hosts are added."""

    def __init__(
        self,
        *,
        coordinators: int = 1,
        tls: bool = True,
        start_s: float = 0.0,
        failing: float = 0.0,
        dials_per_s: float = 400.0,
        ping_every_s: float = PING_EVERY_S,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fmn-"))
        self.tls, self._dials_per_s = tls, dials_per_s
        self._start_s, self._failing = start_s, failing
        self._ping_every_s = ping_every_s
        self._count, self._ended_cpu_s = coordinators, 0.0
        self.coordinators: dict[str, Program] = {}
        self.addresses: dict[str, str] = {}
        self.hollow: list[Hollow] = []
        self.etcd: Program | None = None

    def __enter__(self) -> Self:
        self._start_etcd()
        for number in range(1, self._count + 1):
            self.start_coordinator(f"c{number}")
        return self

    def __exit__(self, *error: object) -> None:
        programs = [*self.hollow, *self.coordinators.values(), self.etcd]
        for program in programs:
            if program is not None:
                program.end(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start_etcd(self) -> None:
        from formation_coordinator.embedded import packaged_etcd

        binary = "/usr/bin/etcd" if os.access("/usr/bin/etcd", os.X_OK) else packaged_etcd()
        assert binary, "no etcd: apt install etcd-server"
        client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
        self.etcd_url = client
        self.etcd = Program(
            self.directory,
            "etcd",
            [str(binary), "--data-dir", str(self.directory / "data"), "--log-level", "error",
             "--listen-client-urls", client, "--advertise-client-urls", client,
             "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", f"default={peer}", "--auto-compaction-retention", "10m",
             "--quota-backend-bytes", str(8 << 30)],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        etcd = self.etcd
        _until(lambda: etcd.lives() and bool(self.etcd_figures()), "etcd answers")

    def start_coordinator(self, name: str) -> None:
        address = f"127.0.0.1:{free_ports(1)[0]}"
        flags = ["--listen", address, "--etcd", self.etcd_url]
        flags += ["--ping-every", str(self._ping_every_s)]
        if self.tls:
            flags += ["--identity-dir", str(self._identity(name))]
        else:
            flags += ["--id", name, "--insecure"]
        self.addresses[name] = address
        self.coordinators[name] = Program(
            self.directory, name, [str(BIN / "formation-coordinator"), *flags]
        )
        program = self.coordinators[name]
        _until(
            lambda: program.lives() and "ready: cluster" in program.log.read_text(),
            f"{name} is ready",
        )

    def _identity(self, name: str) -> Path:
        if not hasattr(self, "authority"):
            self.authority = Authority()
        return self.authority.coordinator(self.directory / f"identity-{name}", name)

    def add_hosts(self, count: int, processes: int) -> float:
        """Seconds from the first dial until all are connected. Machines are not switched on in the
        same millisecond, and two cores do both sides of every handshake."""
        addresses = ",".join(self.addresses.values())
        share = -(-count // processes)
        for first in range(0, count, share):
            flags = ["--hosts", str(min(share, count - first)), "--first", str(first)]
            flags += ["--coordinators", addresses, "--start-s", str(self._start_s)]
            flags += ["--failing", str(self._failing)]
            flags += ["--spread-s", str(count / self._dials_per_s)]
            flags += ["--ping-every", str(self._ping_every_s)]
            if self.tls:
                flags += ["--authority", str(self.directory / "identity-c1")]
            self.hollow.append(Hollow(self.directory, f"hollow{len(self.hollow)}", *flags))
        for hollow in self.hollow:
            hollow.until_ready()
        started_s = time.perf_counter()
        for hollow in self.hollow:
            hollow.go()
        _until(lambda: self.hosts()["connected"] >= count, f"{count} hosts are connected")
        return time.perf_counter() - started_s

    def drop_hosts(self, count: int) -> None:
        """They fall silent for good."""
        self.hollow[-1].told(f"drop {count}")

    def kill_coordinator(self, name: str) -> None:
        program = self.coordinators.pop(name)
        self._ended_cpu_s += program.cpu_s()
        program.end(signal.SIGKILL)
        self.addresses.pop(name)

    def hosts(self) -> dict[str, float]:
        """What all hollow hosts say, added up."""
        said = [hollow.told() for hollow in self.hollow]
        return {name: sum(item[name] for item in said) for name in (said[0] if said else ())}

    def etcd_figures(self) -> Mapping[str, float]:
        """Of its own metrics."""
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(self.etcd_url + "/metrics", timeout=5) as answer,
        ):
            return {name: float(value) for name, value in _ETCD.findall(answer.read().decode())}
        return {}

    def figures(self) -> dict[str, float]:
        """Counters that a phase is the difference of."""
        etcd, hosts = self.etcd_figures(), self.hosts()
        assert self.etcd is not None
        return {
            "etcd_puts": etcd.get(
                "etcd_debugging_mvcc_put_total", etcd.get("etcd_mvcc_put_total", 0)
            ),
            "etcd_transactions": etcd.get(
                "etcd_debugging_mvcc_txn_total", etcd.get("etcd_mvcc_txn_total", 0)
            ),
            "etcd_bytes_in": etcd["etcd_network_client_grpc_received_bytes_total"],
            "etcd_bytes_out": etcd["etcd_network_client_grpc_sent_bytes_total"],
            "etcd_cpu_s": self.etcd.cpu_s(),
            "coordinator_cpu_s": self._ended_cpu_s
            + sum(item.cpu_s() for item in self.coordinators.values()),
            "hosts_cpu_s": sum(item.cpu_s() for item in self.hollow),
            "messages_from_hosts": hosts.get("sent", 0),
            "bytes_from_hosts": hosts.get("sent_bytes", 0),
            "messages_to_hosts": hosts.get("received", 0),
            "bytes_to_hosts": hosts.get("received_bytes", 0),
        }

    def memory(self) -> dict[str, int]:
        assert self.etcd is not None
        programs = [*self.coordinators.values()]
        return {
            "coordinator_memory": max(item.memory_bytes() for item in programs),
            "etcd_memory": self.etcd.memory_bytes(),
            "hosts_memory": sum(item.memory_bytes() for item in self.hollow),
        }


def _until(condition: Any, what: str) -> None:
    ends_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends_s, f"not within {DEADLINE_S:g} s: {what}"
        if told_to_end.wait(0.05):
            raise SystemExit(1)
