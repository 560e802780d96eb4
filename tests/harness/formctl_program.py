"""The real formctl program in a project directory of its own, and what it printed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from formctl_forks import run_formctl

DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str
    raw: bytes

    def json(self) -> object:
        return json.loads(self.out)


class Formctl:
    """Runs it in a project directory of its own, with nothing of this machine's settings."""

    def __init__(self, project: Path, home: Path, address: str) -> None:
        self.project = project
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
            "XDG_RUNTIME_DIR": str(home),
            "FORMATION_COORDINATOR": address,
            "FORMATION_INSECURE": "1",  # the fake one is on plain TCP
        }

    def write(self, name: str, text: str) -> None:
        (self.project / name).write_text(text)

    async def start(self, *words: str, **environ: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "formctl", *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.project,
            env={name: text for name, text in {**self.environ, **environ}.items() if text},
        )

    async def __call__(self, *words: str, **environ: str) -> Done:
        env = {name: text for name, text in {**self.environ, **environ}.items() if text}
        raw = await asyncio.to_thread(
            run_formctl, words, cwd=self.project, env=env, timeout_s=DEADLINE_S
        )
        return done(raw.returncode, raw.stdout, raw.stderr)

    @asynccontextmanager
    async def running(self, *words: str) -> AsyncIterator[Running]:
        process = await self.start(*words)
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


class Running:
    """A formctl that stays: its lines as they come."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        raw = await asyncio.wait_for(self.process.stdout.readline(), DEADLINE_S)
        assert raw, "formctl ended"
        return raw.decode().rstrip("\n")

    async def end(self) -> Done:
        return await finished(self.process)


async def finished(process: asyncio.subprocess.Process) -> Done:
    try:
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return done(process.returncode, out, err)


def done(code: int, out: bytes, err: bytes) -> Done:
    assert b"Traceback" not in err, err.decode()
    return Done(code, out.decode(errors="replace"), err.decode(), out)
