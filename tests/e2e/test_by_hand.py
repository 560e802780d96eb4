"""A cluster by hand, as the README's lines say, pasted as a person would: nothing else is done."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import BIN, Cluster
from etcd_server import EtcdServer
from store_backends import require_etcd

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("web-1", "web-2", "web-3")


def lines() -> list[str]:
    """The commands of the section's indented block, without its comments."""
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## A cluster by hand") : text.index("## How it works")]
    block = re.findall(r"^    ([^#\s].*)$", section, re.MULTILINE)
    return [line.split("   #")[0].strip() for line in block]


class ByHand(Cluster):
    """Each machine has directories of its own, as its own disk would."""

    machine = ""

    def environment(self) -> dict[str, str]:
        home = self.directory / (self.machine or "server")
        home.mkdir(exist_ok=True)
        found = {
            **super().environment(),
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "FORMATION_COORDINATOR_IDENTITY_DIR": str(home / "coordinator"),
        }
        if self.machine in HOSTS:
            found |= {
                "FORMATION_AGENT_STATE_DIR": str(home / "agent"),
                "FORMATION_AGENT_PORT_RANGE": self._ports(),
                "FORMATION_AGENT_NAME": self.machine,
                "FORMATION_AGENT_ALLOW_USER": "*",  # tests may run as root
            }
        return found

    def _ports(self) -> str:
        first = 21_000 + 100 * HOSTS.index(self.machine)
        return f"{first}-{first + 99}"

    def type_in(self, machine: str, line: str) -> str:
        """What it prints on stdout."""
        self.machine = machine
        program, *words = shlex.split(line)
        done = subprocess.run(
            [str(BIN / program), *words],
            env=self.environment(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{machine}$ {line}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def leave_running(self, machine: str, line: str) -> None:
        self.machine = machine
        self.start(machine, *shlex.split(line))


@pytest.fixture
def machines() -> Iterator[ByHand]:
    with EtcdServer(require_etcd("debian")) as etcd, ByHand(etcd=etcd.endpoint) as cluster:
        yield cluster


def own_address(number: int) -> str:
    """Of loopback, and no other process's."""
    pid = os.getpid()
    return f"127.{77 + number}.{(pid >> 8) % 256}.{pid % 256}"


def test_three_pasted_lines_are_three_hosts(machines: ByHand) -> None:
    address = own_address(0)
    init, serve, create, join, agent, login, apply, scale = [
        line.replace("10.0.0.1:7100", f"{address}:7100").replace(
            "http://10.0.0.1:2379", machines.etcd
        )
        for line in lines()
    ]
    assert join.startswith("formation-agent join")
    assert login.startswith("formctl login")
    machines.type_in("server", init)
    machines.leave_running("server", serve)
    wait_until_it_serves(machines)
    pasted = [machines.type_in("server", create) for _ in HOSTS]
    began_s = time.monotonic()
    for host, line in zip(HOSTS, pasted, strict=True):
        assert line.split()[:-1] == join.split()[:-1]
        assert "has joined cluster" in machines.type_in(host, line)
    joined_s = time.monotonic() - began_s
    for host in HOSTS:
        machines.leave_running(host, agent)
    # At the desk.
    said = machines.type_in("server", "formctl token create --role operator --name ann")
    assert said.split()[:-1] == login.split()[:-1]
    assert "you are operator ann" in machines.type_in("desk", said)
    wait_for_three(machines)
    (machines.directory / "Procfile").write_text("web: sleep 600\nworker: sleep 600\n")
    machines.type_in("desk", apply.replace("/srv/shop", str(machines.directory)) + " --app shop")
    machines.type_in("desk", scale)
    shown = machines.type_in("desk", "formctl ps")
    assert shown.count("healthy") == 8
    assert all(host in shown for host in HOSTS)
    assert "ann" in machines.type_in("desk", "formctl history")
    print(f"three lines: {joined_s:.2f} s")


def test_a_second_coordinator_joins_with_a_line_and_takes_over(machines: ByHand) -> None:
    first, second = f"{own_address(1)}:7100", f"{own_address(2)}:7100"
    machines.type_in("server", f"formation-coordinator init --advertise {first}")
    machines.leave_running(
        "server", f"formation-coordinator --listen {first} --etcd {machines.etcd}"
    )
    wait_until_it_serves(machines)
    pasted = machines.type_in("server", "formctl token create --role coordinator")
    assert "has joined cluster" in machines.type_in("second", f"{pasted} --id c2")
    machines.leave_running(
        "second", f"formation-coordinator --listen {second} --etcd {machines.etcd}"
    )
    wait_until_it_serves(machines, "second")
    # It signs, too: the first is gone before anybody has joined.
    machines.kill("server")
    create = f"formctl --coordinator {second} token create --role agent"
    machines.wait(lambda: machines.type_in("server", create), what="the second signs")
    joining = machines.type_in("server", create)
    assert second in joining
    assert "has joined cluster" in machines.type_in("web-1", joining)
    machines.leave_running("web-1", "formation-agent")
    hosts = f"formctl --coordinator {second} hosts"
    machines.wait(lambda: " ready " in machines.type_in("server", hosts), what="web-1 is ready")


def wait_until_it_serves(machines: ByHand, name: str = "server") -> None:
    machines.wait(lambda: "ready: cluster" in machines.log(name), what=f"{name} serves")


def wait_for_three(machines: ByHand) -> None:
    machines.wait(
        lambda: machines.type_in("desk", "formctl hosts").count(" ready ") == len(HOSTS),
        what="three hosts",
    )
