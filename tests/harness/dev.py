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
from typing import Any, TypeVar

import psutil

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
        self._seen: dict[int, float] = {}

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
            left = self.left_running()
            assert error[0] is not None or not left, f"left behind: {left}"
        finally:
            for process in self._still_running():
                process.kill()
            self.process.wait(timeout=DEADLINE_S)
            assert self.process.stdout is not None
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
        self.note_descendants()
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

    # ------------------------------------------------------------------ what is left

    def note_descendants(self) -> None:
        """Remember every process of ours, by pid and start time."""
        try:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self._seen[child.pid] = child.create_time()
        except psutil.NoSuchProcess:
            pass

    def left_running(self) -> list[str]:
        """What still runs a moment after the end: the kernel needs one to tear things down."""
        ends_s = time.monotonic() + 5.0
        while (left := self._still_running()) and time.monotonic() < ends_s:
            time.sleep(0.02)
        return [describe(process) for process in left]

    def _still_running(self) -> list[psutil.Process]:
        found = []
        for pid, created_s in self._seen.items():
            try:
                process = psutil.Process(pid)
                if process.create_time() == created_s and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found


def describe(process: psutil.Process) -> str:
    try:
        words: Any = process.cmdline()
    except psutil.Error:
        words = ["?"]
    return f"{process.pid} {' '.join(words)[:100]}"
