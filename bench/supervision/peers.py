"""The peers, each set up as its own manual shows it; nothing is tuned but what the count needs."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import ClassVar

from bench.supervision.contestants import Contestant

_FILES_NEEDED = 65_536


class Supervisord(Contestant):
    name = "supervisord"
    get_it = "pip install supervisor"
    program = "supervisord"
    merges = True

    def prepare(self) -> None:
        logs = self.directory / "logs"
        logs.mkdir()
        target = "/dev/stdout" if self.load.merged else f"{logs}/%(process_num)d"
        (self.directory / "supervisord.conf").write_text(
            "[supervisord]\n"
            "nodaemon=true\n"
            f"logfile={self.directory}/supervisord.log\n"
            f"pidfile={self.directory}/supervisord.pid\n"
            f"childlogdir={self.directory}\n"
            f"minfds={min(_FILES_NEEDED, 64 + 8 * self.load.count)}\n"
            "[program:load]\n"
            f"command={self.load.command}\n"
            "process_name=%(process_num)d\n"
            f"numprocs={self.load.count}\n"
            f"stdout_logfile={target}\n"
            "stdout_logfile_maxbytes=0\n"
            f"stderr_logfile={'/dev/stderr' if self.load.merged else 'AUTO'}\n"
            "stderr_logfile_maxbytes=0\n"
        )

    def order(self) -> None:
        program = self.places.program(self.program) or self.program
        output = "logs/all" if self.load.merged else "output.txt"
        self.launch([program, "-c", f"{self.directory}/supervisord.conf"], output=output)


class Circus(Contestant):
    name = "circus"
    get_it = "pip install circus"
    program = "circusd"
    merges = True

    def prepare(self) -> None:
        logs = self.directory / "logs"
        logs.mkdir()
        # One file for all is what its stream writes when several processes share a watcher.
        (self.directory / "circus.ini").write_text(
            "[circus]\n"
            f"endpoint = ipc://{self.directory}/endpoint\n"
            f"pubsub_endpoint = ipc://{self.directory}/pubsub\n"
            "[watcher:load]\n"
            f"cmd = {self.load.command}\n"
            f"numprocesses = {self.load.count}\n"
            "copy_env = True\n"
            "stdout_stream.class = FileStream\n"
            f"stdout_stream.filename = {logs}/all\n"
        )

    def order(self) -> None:
        program = self.places.program(self.program) or self.program
        self.launch([program, "circus.ini"])


class Honcho(Contestant):
    name = "honcho"
    get_it = "pip install honcho"
    program = "honcho"
    restarts = False
    merges = True

    def prepare(self) -> None:
        (self.directory / "logs").mkdir()
        (self.directory / "Procfile").write_text(f"load: {self.load.command}\n")

    def order(self) -> None:
        program = self.places.program(self.program) or self.program
        argv = [program, "start", "--no-colour", "-c", f"load={self.load.count}"]
        self.launch(argv, output="logs/all" if self.load.logs else "output.txt")


class Foreman(Honcho):
    name = "foreman"
    get_it = "apt install ruby-foreman, or gem install foreman"
    program = "foreman"

    def order(self) -> None:
        program = self.places.program(self.program) or self.program
        argv = [program, "start", "-m", f"load={self.load.count}"]
        self.launch(argv, output="logs/all" if self.load.logs else "output.txt")


class _ServiceDirectories(Contestant):
    """runit and s6: a directory for each process, and one more process that logs for it."""

    log_command: ClassVar[str]

    def prepare(self) -> None:
        (self.directory / "logs").mkdir()
        for number in range(self.load.count):
            service = self.directory / "services" / f"{number:04d}"
            _script(service / "run", f"exec {self.load.command}")
            if self.load.logs:
                kept = self.directory / "logs" / f"{number:04d}"
                kept.mkdir()
                _script(service / "log" / "run", f"exec {self.log_command} {kept}")

    def output_files(self) -> list[Path]:
        return sorted(self.directory.glob("logs/*/current"))


class Runit(_ServiceDirectories):
    name = "runit"
    get_it = "apt install runit"
    program = "runsvdir"
    stop_signal = signal.SIGHUP  # after SIGTERM it would leave everything running
    log_command = "svlogd -ttt"

    def prepare(self) -> None:
        super().prepare()
        for kept in self.directory.glob("logs/*"):
            (kept / "config").write_text("s1000000000\n")

    def order(self) -> None:
        program = self.places.program(self.program) or self.program
        self.launch([program, "services"])


class S6(_ServiceDirectories):
    name = "s6"
    get_it = "apt install s6"
    program = "s6-svscan"
    log_command = "s6-log -b t s268435455"

    def order(self) -> None:
        program = self.places.program(self.program) or self.program
        count = 2 * self.load.count if self.load.logs else self.load.count
        self.launch([program, "-c", str(max(count, 8)), "services"])


def _script(path: Path, command: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{command}\n")
    os.chmod(path, 0o755)


PEERS: tuple[type[Contestant], ...] = (Supervisord, Circus, Honcho, Foreman, Runit, S6)
