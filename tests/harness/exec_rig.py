"""A small cluster, and commands that people run beside its instances, with the real programs."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import psutil
from cluster import BIN, Cluster
from leftovers import alive
from terminal import Terminal

IS_ROOT = os.geteuid() == 0
PROJECT = {
    "formation.toml": f"""
app = "shop"
workdir = "/tmp"
[env]
COLOUR = "blue"
[types.web]
command = "sleep 1000"
quantity = 2
umask = "0027"
nice = 3
limits.nofile = 512
{'user = "nobody"' if IS_ROOT else ""}
[types.once]
command = "sh -c 'read line; exit 4'"
restart = "never"
quantity = 1
[types.idle]
command = "sleep 1000"
quantity = 0
""",
}
# Beside the instance, a whole family that does not want to end.
FAMILY = "trap '' HUP TERM; nohup sleep 7{n} & (setsid nohup sleep 7{n} &) ; echo began; sleep 7{n}"


def started(cluster: Cluster, *flags: str) -> Cluster:
    cluster.start_coordinator()
    cluster.start_agent("a", *flags)
    cluster.wait_hosts(1)
    cluster.app(PROJECT)
    cluster.formctl("apply", "shop", "--no-wait")
    cluster.wait(lambda: len(cluster.healthy()) == 2, what="two of web")
    return cluster


def environ(cluster: Cluster) -> dict[str, str]:
    addresses = ",".join(cluster.coordinators.values())
    return {**cluster.environment(), "FORMATION_COORDINATOR": addresses}


def execute(
    cluster: Cluster, *words: str, stdin: bytes = b"", code: int = 0
) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [str(BIN / "formctl"), "exec", *words],
        check=False,
        input=stdin,
        capture_output=True,
        timeout=60,
        cwd=cluster.directory,
        env=environ(cluster),
    )
    assert done.returncode == code, (done.returncode, done.stdout[-500:], done.stderr)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def begun(cluster: Cluster, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(BIN / "formctl"), "exec", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cluster.directory,
        env=environ(cluster),
    )


def terminal(cluster: Cluster, *words: str, size: tuple[int, int] = (24, 80)) -> Terminal:
    path = str(BIN / "formctl")
    return Terminal([path, "exec", *words], environ(cluster), cluster.directory, size=size)


def pids_of(cluster: Cluster, words: str) -> set[int]:
    """Everything below the agent with just this command line."""
    found = set()
    for process in psutil.Process(cluster.programs["a"].pid).children(recursive=True):
        try:
            if " ".join(process.cmdline()) == words:
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


def all_gone(cluster: Cluster, pids: set[int]) -> None:
    cluster.wait(lambda: not any(map(alive, pids)), what=f"{pids} gone")


def family(cluster: Cluster, number: str, count: int = 3) -> set[int]:
    def whole() -> set[int]:
        found = pids_of(cluster, f"sleep 7{number}")
        return found if len(found) == count else set()

    return cluster.wait(whole)


def execs_in_history(cluster: Cluster) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = cluster.json("history", "shop")
    return [row for row in rows if row["action"] == "exec"]
