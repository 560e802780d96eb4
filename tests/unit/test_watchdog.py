"""A loop that hangs ends its program, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import asyncio, os, signal, sys, time
from formation_agent.watchdog import Watchdog

async def main(what):
    watching = asyncio.create_task(Watchdog(limit_s=0.2).run())
    await asyncio.sleep(0)
    what()
    await asyncio.sleep(0.5)
    watching.cancel()

def hang_on_purpose():
    time.sleep(60)

def be_suspended():
    if os.fork() == 0:
        time.sleep(0.6)
        os.kill(os.getppid(), signal.SIGCONT)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGSTOP)

def nothing():
    pass

asyncio.run(main(globals()[sys.argv[1]]))
"""


def run(what: str, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, what],
        stderr=stderr,
        timeout=30,
        check=False,
    )


def test_a_loop_that_hangs_is_ended_and_says_where_it_was() -> None:
    ended = run("hang_on_purpose")
    assert ended.returncode == 70
    text = ended.stderr.decode()
    assert text.startswith("formation-agent: the event loop did not run for 0.2 s\n")
    assert "in hang_on_purpose" in text


def test_a_loop_that_runs_is_left_alone() -> None:
    assert run("nothing").returncode == 0


def test_a_program_that_was_suspended_is_not_stuck() -> None:
    assert run("be_suspended").returncode == 0


def test_a_loop_that_hangs_is_ended_though_nobody_reads_why() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    try:
        while True:
            os.write(write_end, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(write_end, True)
    try:
        assert run("hang_on_purpose", write_end).returncode == 70
    finally:
        os.close(read_end)
        os.close(write_end)
