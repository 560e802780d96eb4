"""What every contestant is to the measures, and the floor: a bare loop in C.

A contestant is made ready (files written, and what is up before an order comes is up), then
ordered to run its load, then told to end. What it runs is known by its exact words.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.supervision import processes

SOURCES = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`count` processes of `argv`.

    `logs`: what they write is to be kept, all of it in files that are not rotated away unless
    `rotated`. `merged`: into one place, where the contestant can do that.
    """

    argv: tuple[str, ...]
    count: int
    logs: bool = False
    rotated: bool = False
    merged: bool = False

    @property
    def command(self) -> str:
        return " ".join(self.argv)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The bench's own programs; `note` says what was to be done without."""

    spawn_loop: tuple[str, ...]
    line_writer: tuple[str, ...]
    note: str = ""

    @staticmethod
    def build(directory: Path) -> Tools:
        compiler = shutil.which("cc") or shutil.which("gcc")
        names = ("spawn_loop", "line_writer")
        if compiler is None:
            loop, writer = ([sys.executable, str(SOURCES / f"{name}.py")] for name in names)
            note = "no C compiler here: the bare loop and the writer of lines are in Python"
            return Tools(spawn_loop=tuple(loop), line_writer=tuple(writer), note=note)
        for name in names:
            source, program = SOURCES / f"{name}.c", directory / name
            subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
        loop_program, writer_program = (str(directory / name) for name in names)
        return Tools(spawn_loop=(loop_program,), line_writer=(writer_program,))


@dataclass(slots=True)
class Places:
    """Where peers are looked for: a virtual environment's programs first, then PATH."""

    venv: Path | None = None
    cache: dict[str, str | None] = field(default_factory=dict)

    def program(self, name: str) -> str | None:
        if name not in self.cache:
            own = str(self.venv / "bin") if self.venv else ""
            self.cache[name] = shutil.which(name, path=own) or shutil.which(name)
        return self.cache[name]


class Contestant(ABC):
    """One life of one supervisor, in a directory of its own.

    `process` is what is told to end. `restarts` and `merges`: whether it does that at all.
    What it writes for the load is in `logs`.
    """

    name: str
    get_it: str = ""
    program: str = ""
    restarts = True
    merges = False
    stop_signal = signal.SIGTERM
    line_prefix = b""  # a regular expression: what must stand before each line in its files
    is_up_before = False  # up when the order comes; else the order is its start
    boot_s = 0.0  # how long its own start took, when it is up before

    def __init__(self, directory: Path, load: Load, *, places: Places, tools: Tools) -> None:
        self.directory = directory
        self.load = load
        self.places = places
        self.tools = tools
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls, places: Places) -> bool:
        return bool(cls.program) and places.program(cls.program) is None

    @abstractmethod
    def prepare(self) -> None:
        """All that is done before an order can come."""

    @abstractmethod
    def order(self) -> None:
        """Run the load; returns at once."""

    def stop(self) -> None:
        os.kill(self.pid, self.stop_signal)

    def output_files(self) -> list[Path]:
        """Where the lines of the load are, in the end."""
        return sorted(self.directory.glob("logs/**/*"))

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def managers(self) -> list[int]:
        """Every process that is there for the load and is not the load."""
        everything = [self.pid, *processes.descendants(self.pid)]
        return [pid for pid in everything if not processes.runs(pid, self.load.argv)]

    def launch(
        self, argv: Sequence[str], *, output: str = "output.txt", input_pipe: bool = False
    ) -> subprocess.Popen[bytes]:
        """In the background, in its directory, with a session of its own."""
        with (self.directory / output).open("ab") as file:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if input_pipe else subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,
            )
        return self.process

    def close(self) -> None:
        """Nothing of it is left."""
        processes.end_all_below()
        if self.process is not None:
            self.process.wait()
            if self.process.stdin is not None:
                self.process.stdin.close()

    def said(self) -> str:
        """What it wrote, for when it failed."""
        path = self.directory / "output.txt"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""


class BareLoop(Contestant):
    """Spawns, and does nothing else that a supervisor does."""

    name = "bare posix_spawn loop"
    is_up_before = True

    def prepare(self) -> None:
        words = list(self.load.argv)
        words[0] = shutil.which(words[0]) or words[0]
        self.launch([*self.tools.spawn_loop, str(self.load.count), *words], input_pipe=True)

    def order(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(b"!")
        self.process.stdin.flush()

    def stop(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()


class BareCopy(Contestant):
    """`cat`: the lines of one process into a file, with nothing added."""

    name = "bare cat"

    def prepare(self) -> None:
        (self.directory / "logs").mkdir()

    def order(self) -> None:
        script = f"{self.load.command} | exec cat >logs/all"
        self.launch(["/bin/sh", "-c", script])
