"""The tutorial is typed in, line by line as it stands there, in an environment that is empty."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cluster import BIN, DEADLINE_S, Cluster
from leftovers import Leftovers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
CTRL_C, MORE = "^C", "..."
# What a person pastes: the line that was printed last with a token in it.
PASTED = re.compile(r"formation-agent join \S+ FORM1\S+")
# Errors that are shown, and so must come.
_FAILS = ("formctl: ", "curl: ")


@dataclass(frozen=True, slots=True)
class Step:
    """`terminal`: "" is the one in which everything else is typed."""

    terminal: str
    command: str
    shown: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class File:
    path: str
    text: str


def steps() -> list[Step | File]:
    found: list[Step | File] = []
    for language, title, text in _BLOCK.findall(PAGE.read_text()):
        if language == "console":
            found += of_console(title, text)
        elif title:
            found.append(File(title, text))
    return found


def of_console(terminal: str, text: str) -> list[Step]:
    found: list[Step] = []
    for line in text.splitlines():
        if line.startswith("$ ") or line == CTRL_C:
            found.append(Step(terminal, line.removeprefix("$ ")))
        else:
            found[-1].shown.append(line)
    return found


def shape(line: str) -> str:
    """Without what differs from run to run: times, numbers, ids, names of hosts and people."""
    line = line.replace(socket.gethostname(), "vm")
    line = re.sub(r"FORM1\S+", "TOKEN", line)
    line = re.sub(r"\b[0-9a-f]{12,16}\b", "ID", line)
    line = re.sub(r"\S+@vm\b", "WHO", line)
    line = re.sub(r"\d[\d.:-]*", "0", line)
    line = re.sub(r"\b[abc]\b", "H", line)
    return re.sub(r"\s+", " ", line).strip()


def differs(shown: list[str], printed: list[str]) -> str:
    """The first shown line that did not come, in order; "" when all did. `...` stands for any."""
    rest = iter(printed)
    for line in shown:
        wanted = shape(line.removesuffix(MORE))
        is_cut = line.endswith(MORE)
        if line == MORE or not wanted:
            continue
        if not any(shape(p).startswith(wanted) if is_cut else shape(p) == wanted for p in rest):
            return line
    return ""


class Desk:
    """Terminals of somebody who has installed formctl, and nothing else of ours."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fmn-"))
        self.cwd = self.directory
        self.open: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        self.leftovers = Leftovers()
        self._token = ""
        self._ranges = iter(Cluster.port_ranges())
        number = os.getpid()
        self._address = f"127.80.{(number >> 8) % 256}.{number % 256}"
        self.environment = {
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.directory / "home"),
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }
        if os.geteuid() == 0:
            self.environment["FORMATION_AGENT_ALLOW_USER"] = "*"
        for name in ("home", "run"):
            (self.directory / name).mkdir(mode=0o700)

    def do(self, step: Step | File) -> None:
        if isinstance(step, File):
            (self.directory / step.path).write_text(step.text)
        elif step.command == CTRL_C:
            self.interrupt(step)
        elif step.terminal:
            self.leave_running(step)
        else:
            self.type_in(step)

    def typed(self, command: str) -> str:
        """As it is on a machine where other tests run too."""
        if "127.0.0.1:5000" in command:
            code = "import json, sys; print(json.load(sys.stdin)[0]['port'])"
            asked = f'formctl ps -o json | python3 -c "{code}"'
            command = command.replace(":5000", f":{self._run(asked)[1][0]}")
        command = command.replace("127.0.0.1:7100", f"{self._address}:7100")
        command = re.sub(r"\d+-\d+$", lambda _: next(self._ranges), command)
        return PASTED.sub(self._token, command) if "FORM1" in command else command

    def _run(self, command: str) -> tuple[int, list[str]]:
        where = self.directory / "cwd"
        script = f'{command}\ncode=$?\npwd > "{where}"\nexit $code'
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.cwd, env=self.environment, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=DEADLINE_S,
        )  # fmt: skip
        self.cwd = Path(where.read_text().strip())
        return done.returncode, done.stdout.splitlines()

    def type_in(self, step: Step) -> None:
        command = self.typed(step.command)
        code, printed = self._run(command)
        told = f"$ {command}\n" + "\n".join(printed)
        should_fail = any(line.startswith(_FAILS) for line in step.shown)
        assert (code != 0) == should_fail, f"exit {code}: {told}"
        missing = differs(step.shown, printed)
        assert not missing, f"not printed: {missing}\n{told}"
        if not any(MORE in line for line in step.shown):
            assert len(step.shown) == len(printed), told
        self._token = next((line for line in printed if PASTED.fullmatch(line)), self._token)

    def leave_running(self, step: Step) -> None:
        log = self.directory / f"log-{len(self.open)}"
        words = ["bash", "-c", f"exec {self.typed(step.command)}"]
        with log.open("wb") as file:
            process = subprocess.Popen(
                words, cwd=self.cwd, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        self.open[step.terminal] = process, log
        self._until(step, log, process)

    def _until(self, step: Step, log: Path, process: subprocess.Popen[bytes]) -> None:
        ends_s = time.monotonic() + DEADLINE_S
        while missing := differs(step.shown, log.read_text().splitlines()):
            is_late = time.monotonic() > ends_s or process.poll() is not None
            assert not is_late, f"$ {step.command}: not printed: {missing}\n{log.read_text()}"
            time.sleep(0.05)

    def interrupt(self, step: Step) -> None:
        process, log = self.open.pop(step.terminal)
        self.leftovers.note(process.pid)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=DEADLINE_S)
        missing = differs(step.shown, log.read_text().splitlines())
        assert not missing, f"not printed after Ctrl-C: {missing}\n{log.read_text()}"

    def close(self) -> list[str]:
        """The last opened first: agents, then what they call."""
        for process, _ in reversed(self.open.values()):
            self.leftovers.note(process.pid)
            process.send_signal(signal.SIGINT)
            process.wait(timeout=DEADLINE_S)
        left = self.leftovers.running()
        self.leftovers.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        return left


@pytest.fixture
def desk() -> Iterator[Desk]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    made = Desk()
    try:
        yield made
    finally:
        left = made.close()
    assert not left


@pytest.mark.timeout(400)  # 40 s alone on two cores, and much more when others work there too
def test_every_line_of_the_tutorial_does_what_is_shown(desk: Desk) -> None:
    todo = steps()
    assert len(todo) > 30
    for step in todo:
        desk.do(step)
