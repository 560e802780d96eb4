"""The real `formation-agent` as a child of the test: keeper, brain and all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from eventually import eventually

from formation_agent import cgroups, journal

# Tests run as whoever runs them, often root.
OPEN = ("--allow-user", "*")
PROGRAM = Path(sys.executable).with_name("formation-agent")
# Somebody without any privilege, as users of `formation-agent` on their own account are.
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
_PYTHON = Path(sys.executable).resolve()
needs_nobody = pytest.mark.skipif(
    os.geteuid() != 0
    or not all(above.stat().st_mode & stat.S_IXOTH for above in (_PYTHON, *_PYTHON.parents)),
    reason="needs root, and a Python that lies where others may go, to run it as nobody",
)


class AgentProgram:
    """`async with AgentProgram(directory, "--name", "b") as agent:`; nothing of it survives."""

    def __init__(
        self,
        directory: Path,
        *argv: str,
        before: tuple[str, ...] = (),
        rails: tuple[str, ...] = OPEN,
        program: Path = PROGRAM,
    ) -> None:
        """`before`: a command that executes the rest of its words, such as setpriv."""
        self.state_dir = directory / "state"
        self.output = directory / "agent.log"
        self.argv = (*before, str(program), "--state-dir", str(self.state_dir), *rails, *argv)
        self.process: subprocess.Popen[bytes] | None = None
        self._seen: dict[int, psutil.Process] = {}

    async def __aenter__(self) -> AgentProgram:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.destroy()

    def start(self) -> None:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def descendants(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        if self.process is not None and self.process.poll() is None:
            found = psutil.Process(self.pid).children(recursive=True)
        self._seen.update((process.pid, process) for process in found)
        return found

    async def brain(self) -> psutil.Process:
        """The brain that runs now."""
        return (await eventually(lambda: list(filter(_is_brain, self.descendants()))))[0]

    def children(self) -> list[psutil.Process]:
        """What runs here for the cluster."""
        return [p for p in self.descendants() if not _is_brain(p)]

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def ended(self, deadline_s: float = 20.0) -> int:
        """Its exit code."""
        process = self.process
        assert process is not None
        await eventually(
            lambda: process.poll() is not None, deadline_s=deadline_s, what=f"its end\n{self.text}"
        )
        assert process.returncode is not None
        return process.returncode

    async def destroy(self) -> None:
        self.descendants()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            await self.ended()
        await asyncio.to_thread(self._remove_cgroups)
        for process in self._seen.values():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                process.kill()
        await eventually(lambda: not self.alive(), what="the end of all processes")

    def _remove_cgroups(self) -> None:
        """Those of an agent whose brain cannot do it, since a test has killed or stopped it."""
        # First whether it runs: its number may be anybody's by now.
        brains = [p for p in self._seen.values() if runs(p) and _is_brain(p)]
        psutil.wait_procs(brains, timeout=2.0)
        own, _ = cgroups.own()
        agent_id = journal.load(self.state_dir, "").memory.agent_id
        if own and agent_id:
            path = f"{own}/formation-{cgroups.safe_name(agent_id)}"
            assert cgroups.kill_and_remove(path, 20.0)

    def alive(self) -> list[psutil.Process]:
        """Everything that was ever seen below this agent and still runs."""
        return [p for p in self._seen.values() if runs(p)]


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_brain(process: psutil.Process) -> bool:
    try:
        return "formation_agent.brain" in process.cmdline()
    except psutil.Error:
        return False
