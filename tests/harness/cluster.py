"""A cluster of the real programs for end-to-end tests, and the real formctl to drive it.

Every program is started by its installed console script in its own session, ended by pid, and
`close` fails the test when anything that it started is left.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
from formctl_forks import run_formctl
from leftovers import Leftovers

BIN = Path(sys.executable).parent
DEADLINE_S = 30.0
LISTENS_S = 5.0  # without etcd it may never
T = TypeVar("T")


def _port_ranges() -> Iterator[str]:
    """All hosts of these tests are one machine, where two would take the same port at the same
    moment: each agent has ports of its own, also among those of other test processes."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first, count = 20_000 + 1_500 * (worker % 6), 100
    for low in itertools.cycle(range(first, first + 1_500, count)):
        yield f"{low}-{low + count - 1}"


_PORT_RANGES = _port_ranges()


class Cluster:
    """Use as a context manager. Sockets are in a short private directory, so paths fit."""

    def __init__(self, *, etcd: str = "embedded") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fmn-"))
        self.etcd = etcd
        self.programs: dict[str, subprocess.Popen[bytes]] = {}
        self.coordinators: dict[str, str] = {}
        self._leftovers = Leftovers()
        self._port_ranges: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        left = self.close()
        assert error[0] is not None or not left, f"left behind: {left}"

    @staticmethod
    def port_ranges() -> Iterator[str]:
        """One for each agent that somebody else starts."""
        return _PORT_RANGES

    # ------------------------------------------------------------------ programs

    def environment(self) -> dict[str, str]:
        """Nothing of the developer's own settings reaches the programs."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("FORMATION_")}
        runtime = self.directory / "run"
        runtime.mkdir(mode=0o700, exist_ok=True)
        return {
            **kept,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "XDG_RUNTIME_DIR": str(runtime),
            "XDG_CONFIG_HOME": str(runtime),
            "HOME": str(self.directory),
        }

    def start(self, name: str, *argv: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self.command(name, str(BIN / argv[0]), *argv[1:]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                cwd=self.directory,
                start_new_session=True,
            )
        self.programs[name] = process
        return process

    def command(self, name: str, *argv: str) -> list[str]:
        """What starts this program of ours."""
        return [*argv]

    def start_coordinator(self, name: str = "c1", *flags: str) -> subprocess.Popen[bytes]:
        address = f"unix:{self.directory / name}.sock"
        self.coordinators[name] = address
        data = ["--data-dir", str(self.directory / "etcd")] if self.etcd == "embedded" else []
        return self.start(
            name,
            "formation-coordinator",
            *("--id", name, "--listen", address, "--etcd", self.etcd, *data, *flags),
        )

    def start_agent(self, name: str, *flags: str) -> subprocess.Popen[bytes]:
        """Once the coordinators listen: an agent that is too early waits before it asks again."""
        for coordinator in self.coordinators.keys() & self.programs.keys():
            self._until_it_listens(coordinator)
        if name not in self._port_ranges:
            self._port_ranges[name] = next(_PORT_RANGES)
        addresses = ",".join(self.coordinators.values())
        state_dir = str(self.directory / f"state-{name}")
        return self.start(
            name,
            "formation-agent",
            *("--name", name, "--coordinator", addresses, "--state-dir", state_dir),
            *("--allow-user", "*", "--port-range", self._port_ranges[name], *flags),
        )

    def _until_it_listens(self, name: str) -> None:
        ends_s = time.monotonic() + LISTENS_S
        while time.monotonic() < ends_s and self.programs[name].poll() is None:
            if " listens on " in self.log(name):
                return
            time.sleep(0.02)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End one program and wait for it."""
        self._note_descendants()
        process = self.programs.pop(name)
        process.send_signal(how)
        process.wait(timeout=DEADLINE_S)

    def brain_of(self, agent: str) -> int:
        """The brain's pid: the agent's child that runs formation_agent.brain; 0 between two."""
        for child in psutil.Process(self.programs[agent].pid).children():
            try:
                if any("formation_agent.brain" in word for word in child.cmdline()):
                    return int(child.pid)
            except psutil.Error:
                continue
        return 0

    # ------------------------------------------------------------------ formctl

    def formctl(
        self, *words: str, cwd: Path | None = None, check: bool = True, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        environment = self.environment()
        environment["FORMATION_COORDINATOR"] = ",".join(self.coordinators.values())
        raw = run_formctl(words, cwd=cwd or self.directory, env=environment, timeout_s=timeout_s)
        done = subprocess.CompletedProcess(
            raw.args, raw.returncode, raw.stdout.decode(), raw.stderr.decode()
        )
        if check and done.returncode != 0:
            logs = "\n".join(f"--- {name}\n{self.log(name)[-2000:]}" for name in self.programs)
            said = f"exit {done.returncode}\n{done.stdout}{done.stderr}{logs}"
            raise AssertionError(f"formctl {' '.join(words)}: {said}")
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.formctl(*words, "-o", "json").stdout)

    def json_lines(self, *words: str) -> list[dict[str, Any]]:
        shown = self.formctl(*words, "-o", "json").stdout
        return [json.loads(line) for line in shown.splitlines()]

    def ps(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json("ps")
        return found

    def healthy(self) -> dict[str, dict[str, Any]]:
        """slot → its row, for the healthy and wanted ones."""
        return {
            f"{row['type']}.{row['ordinal']}": row
            for row in self.ps()
            if row["state"] == "healthy" and not row["surplus"] and not row["host_silent"]
        }

    def app(self, files: Mapping[str, str], name: str = "shop") -> Path:
        """A project directory with these files."""
        path = self.directory / name
        path.mkdir(exist_ok=True)
        for relative, text in files.items():
            (path / relative).write_text(text)
        return path

    def wait(
        self, condition: Callable[[], T], *, deadline_s: float = DEADLINE_S, what: str = ""
    ) -> T:
        """The first truthy result; a failing formctl counts as not yet."""
        ends_s = time.monotonic() + deadline_s
        last: object = None
        while time.monotonic() < ends_s:
            try:
                result = condition()
                if result:
                    return result
                last = result
            except AssertionError as error:
                last = error
            time.sleep(0.05)
        raise AssertionError(f"not within {deadline_s:g} s: {what or condition}; last: {last}")

    def start_and_wait(self, agents: int) -> str:
        """One coordinator and so many agents, ready; gives the coordinator's address."""
        self.start_coordinator()
        for index in range(agents):
            self.start_agent(f"h{index + 1}")
        self.wait_hosts(agents)
        return self.coordinators["c1"]

    def wait_hosts(self, count: int) -> None:
        self.wait(
            lambda: sum(row["state"] == "ready" for row in self.json("hosts")) == count,
            what=f"{count} hosts ready",
        )

    # ------------------------------------------------------------------ the end

    def _note_descendants(self) -> None:
        for process in self.programs.values():
            self._leftovers.note(process.pid)

    def close(self) -> list[str]:
        """Stop agents, then coordinators; gives what is still running and ends it."""
        self._note_descendants()
        for names in self.order_of_stop():
            self._stop(names)
        left = self._leftovers.running()
        self._leftovers.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        return left

    def order_of_stop(self) -> list[list[str]]:
        agents = [name for name in self.programs if name not in self.coordinators]
        return [agents, [name for name in self.programs if name in self.coordinators]]

    def _stop(self, names: Sequence[str]) -> None:
        stopping = [self.programs.pop(name) for name in names]
        for process in stopping:
            process.send_signal(signal.SIGTERM)
        for process in stopping:
            try:
                process.wait(timeout=DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
