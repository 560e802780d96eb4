"""A real keeper with a fake brain that a test leads, and nothing of it left behind afterwards."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from formation.runtime import new_id
from formation_agent import cgroups
from formation_agent.processes import kill_leftovers

DEADLINE_S = 20.0
# With the right to read, since the interpreter may live in root's home, and no other.
_READ = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *_READ)
_RUN = (
    "import sys; from formation_agent.keeper import run; "
    "sys.exit(run(sys.argv[2:], silence_s=float(sys.argv[1])))"
)
_FAKE_BRAIN = str(Path(__file__).with_name("fake_brain.py"))

Event = dict[str, Any]


def inside(pid: int) -> Path:
    """/proc/PID of a keeper, for what it has open and was started with: for root's eyes alone."""
    if os.geteuid() != 0:
        pytest.skip("a keeper lets only root look into it")
    return Path(f"/proc/{pid}")


class Brain:
    """One connected fake brain: what it was told so far, and how to tell it something."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.events: list[Event] = []
        self.output: dict[tuple[str, str], bytes] = defaultdict(bytes)
        self.closed_streams: set[tuple[str, str]] = set()
        self._changed = asyncio.Condition()
        self.pid = 0
        self.children: dict[str, Event] = {}

    async def listen(self) -> None:
        while line := await self._reader.readline():
            event = json.loads(line)
            async with self._changed:
                self._note(event)
                self._changed.notify_all()

    def _note(self, event: Event) -> None:
        if event["event"] == "Connected":
            self.pid = event["pid"]
            self.children = {child["key"]: child for child in event["children"]}
        elif event["event"] == "Output":
            stream = (event["key"], event["stream"])
            data = base64.b64decode(event["data"])
            self.output[stream] += data
            if not data:
                self.closed_streams.add(stream)
        self.events.append(event)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(condition), DEADLINE_S)

    async def event(self, name: str, key: str | None = None) -> Event:
        """The first event of this name (and key), which may have come already."""

        def found() -> list[Event]:
            return [e for e in self.events if e["event"] == name and key in {None, e.get("key")}]

        await self.until(lambda: bool(found()))
        return found()[0]

    async def text(self, key: str, stream: str = "stdout") -> str:
        """All that a child wrote until it closed this stream."""
        await self.until(lambda: (key, stream) in self.closed_streams)
        return self.output[key, stream].decode()

    def tell(self, name: str, /, *args: Any, **fields: Any) -> None:
        line = json.dumps({"do": name, "with": {"args": args, **fields}}).encode()
        self._writer.write(line + b"\n")

    def close(self) -> None:
        self._writer.close()


class KeeperRig:
    def __init__(
        self, directory: Path, before: Sequence[str], silence_s: float, stderr: int | None
    ) -> None:
        self.agent_id = new_id()
        self.cgroups = ""
        self.directory = directory
        self._before = before
        self._silence_s = silence_s
        self._stderr = stderr
        self._brains: asyncio.Queue[Brain] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self.keeper: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.keeper.pid

    @property
    def said(self) -> str:
        """What the keeper wrote for people, unless `stderr` was given."""
        return (self.directory / "stderr").read_text()

    async def start(self) -> None:
        path = str(self.directory / "brain.sock")
        self._server = await asyncio.start_unix_server(self._on_brain, path, limit=1 << 24)
        os.chmod(path, 0o777)
        words = [str(self._silence_s), sys.executable, _FAKE_BRAIN, path]
        command = [*self._before, sys.executable, "-c", _RUN, *words]
        env = {**os.environ, "FORMATION_SECRET": "of the daemon"}
        with (self.directory / "stderr").open("wb") as said:
            stderr = said.fileno() if self._stderr is None else self._stderr
            self.keeper = subprocess.Popen(  # noqa: ASYNC220  returns at once
                command, env=env, stderr=stderr
            )

    async def _on_brain(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        brain = Brain(reader, writer)
        task = asyncio.create_task(brain.listen())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await brain.event("Connected")
        self._brains.put_nowait(brain)
        await asyncio.wait([task])
        brain.close()

    async def brain(self) -> Brain:
        """The next brain that the keeper starts."""
        return await asyncio.wait_for(self._brains.get(), DEADLINE_S)

    def env(self, key: str, **more: str) -> dict[str, str]:
        # Of one machine, also while several tests run: the dead man's switch goes by it.
        instance = f"{self.agent_id}-{key}"
        marks = {"FORMATION_AGENT": self.agent_id, "FORMATION_INSTANCE": instance}
        return {"PATH": "/usr/local/bin:/usr/bin:/bin", **marks, **more}

    def spawn(
        self,
        brain: Brain,
        key: str,
        *argv: str,
        cwd: str = "/",
        options: dict[str, Any] | None = None,
        **env: str,
    ) -> None:
        """`options` are the fields of SpawnOptions."""
        given = {"env": self.env(key, **env), "cwd": cwd, "options": options}
        brain.tell("spawn", key, argv=argv, **given)

    async def contain(self, brain: Brain) -> str:
        """The directory of this agent's cgroups. Skips the test where it can have none."""
        brain.tell("contain", name=self.agent_id)
        contained = await brain.event("Contained")
        if not contained["path"]:
            pytest.skip(contained["problem"])
        self.cgroups = str(contained["path"])
        return self.cgroups

    async def exit_code(self) -> int:
        waiting = asyncio.to_thread(self.keeper.wait, DEADLINE_S)
        return await waiting

    async def stop(self) -> None:
        self.keeper.kill()
        self.keeper.wait(DEADLINE_S)
        self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DEADLINE_S)  # brains end by their own switch
        await asyncio.to_thread(kill_leftovers, self.agent_id)
        if self.cgroups:
            assert await asyncio.to_thread(cgroups.kill_and_remove, self.cgroups, DEADLINE_S)


@asynccontextmanager
async def keeper_rig(
    before: Sequence[str] = (), *, silence_s: float = 10.0, stderr: int | None = None
) -> AsyncIterator[KeeperRig]:
    """`before`: words in front of the keeper's command line, such as NOBODY."""
    with tempfile.TemporaryDirectory(prefix="keeper-", dir="/tmp") as directory:
        os.chmod(directory, 0o777)
        rig = KeeperRig(Path(directory), before, silence_s, stderr)
        await rig.start()
        try:
            yield rig
        finally:
            await rig.stop()


async def gone(*pids: int) -> None:
    """Returns when none of these processes is left, not even as a zombie of somebody else's."""
    async with asyncio.timeout(DEADLINE_S):
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            readable = asyncio.Event()
            asyncio.get_running_loop().add_reader(pidfd, readable.set)
            await readable.wait()
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
