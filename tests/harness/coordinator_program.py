"""`formation-coordinator` run to its end, for its commands: init and join."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from cluster import BIN


async def program(home: Path, *words: str) -> tuple[int, str]:
    """Exit code and what it said on both outputs. People's own files go below `home`."""
    environ = {**os.environ, "XDG_CONFIG_HOME": str(home / "config")}
    process = await asyncio.create_subprocess_exec(
        str(BIN / "formation-coordinator"), *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environ,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()
