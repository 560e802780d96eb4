"""`formctl top` at a cluster that lives, while its coordinator is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dev import Dev
from eventually import eventually
from screen import terminal

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hello() -> Iterator[Dev]:
    with Dev(ROOT / "examples" / "hello", "--agents", "2", "-m", "web=2,clock=1") as dev:
        dev.wait_line("ready: ")
        yield dev


def coordinator_of(dev: Dev) -> int:
    found = psutil.Process(dev.process.pid).children(recursive=True)
    return next(p.pid for p in found if "formation_coordinator" in p.cmdline())


async def test_what_is_seen_is_what_runs_also_when_a_coordinator_was_killed(hello: Dev) -> None:
    words = (str(hello.formctl_path), "top")
    async with terminal(words, hello.environment(), str(hello.project)) as screen:
        await screen.shows("3 instances: 3 healthy", "hello/web.2", "hello/clock.1", "2 hosts")
        # Its usage, as the agents tell it.
        await screen.shows("MiB")
        screen.press("/", "web.2", "enter", "enter")
        await screen.shows("command", "where it would go now")
        screen.press("q", "l")
        await screen.shows("logs of hello/web.2", "web.2 listens on port")
        screen.press("q", "s", "3", "enter")
        await screen.shows("start   web.3", "scale hello web=3? y/n")
        os.kill(coordinator_of(hello), signal.SIGKILL)
        await screen.shows("not live, trying again")
        screen.press("n")
        await screen.hides("not live")
        screen.press("s", "3", "enter")
        await screen.shows("scale hello web=3? y/n")
        screen.press("y")
        await screen.shows("4 instances: 4 healthy")
        screen.press("r", "y")
        await screen.shows("restarting web.2")
        screen.press("4")
        await screen.shows("instance.healthy", "app.scaled")
        screen.press("3")
        await screen.shows("web=3", "everywhere")
        screen.press("q")
        assert await screen.ended() == 0


async def test_without_a_terminal_the_same_is_printed_once(hello: Dev) -> None:
    await eventually(lambda: "healthy" in hello.formctl("ps").stdout)
    assert "hello/clock.1" in hello.formctl("top").stdout
    assert "ready" in hello.formctl("top", "--view", "hosts").stdout
    assert "hello" in hello.formctl("top", "--view", "apps", "--sort", "healthy").stdout
    assert "instance." in hello.formctl("top", "--view", "events").stdout
