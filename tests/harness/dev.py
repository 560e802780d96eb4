"""A running `formctl dev`, its output as it comes, and the formctl of a second terminal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from leftovers import Leftovers

BIN = Path(sys.executable).parent
DEADLINE_S = 30.0
T = TypeVar("T")


class Dev:
    """`with Dev(project) as dev:` — started; ended with SIGINT and checked for leftovers."""

    def __init__(self, project: Path, *flags: str, bin_dir: Path = BIN) -> None:
        self.project = project
        self.flags = flags
        self.formctl_path = bin_dir / "formctl"
        self.directory = Path(tempfile.mkdtemp(prefix="fmn-"))
        self.lines: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self.leftovers = Leftovers()

    def environment(self) -> Mapping[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("FORMATION_")}
        path = f"{self.formctl_path.parent}:{BIN}:{os.environ['PATH']}"
        return {**kept, "XDG_RUNTIME_DIR": str(self.directory), "PATH": path}

    def __enter__(self) -> Dev:
        self._process = subprocess.Popen(
            [str(self.formctl_path), "dev", str(self.project), *self.flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self.process.poll() is None:
                self.interrupt()
            left = self.leftovers.running()
            assert error[0] is not None or not left, f"left behind: {left}"
        finally:
            self.leftovers.kill()
            self.process.wait(timeout=DEADLINE_S)
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))

    def text(self) -> str:
        return "\n".join(self.lines)

    def interrupt(self) -> int:
        """Ctrl-C, as the terminal sends it to formctl alone."""
        self.leftovers.note(self.process.pid)
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=DEADLINE_S)

    def wait_line(self, part: str) -> str:
        def found() -> str:
            assert self.process.poll() is None or part in self.text(), self.text()
            return next((line for line in self.lines if part in line), "")

        return self.wait(found, what=part)

    def wait(self, condition: Callable[[], T], *, what: str = "") -> T:
        ends_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < ends_s:
            result = condition()
            if result:
                return result
            time.sleep(0.02)
        raise AssertionError(f"not within {DEADLINE_S:g} s: {what or condition}\n{self.text()}")

    def formctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """In a second terminal, in the project's directory."""
        done = subprocess.run(
            [str(self.formctl_path), *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.project,
            env=dict(self.environment()),
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def get(self, port: int) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
            body: bytes = response.read()
            return body.decode()
