"""The keeper as the first process of a container: it is init, too."""

from __future__ import annotations

import functools
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from eventually import eventually
from keeper_rig import Brain, KeeperRig, keeper_rig

CONTAINER = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child=KILL")


def can_be_first() -> bool:
    try:
        words = [*CONTAINER, "true"]
        return subprocess.run(words, capture_output=True, timeout=20, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not can_be_first(), reason="needs unshare and the right to make a PID namespace (root)"
)


@pytest.fixture
async def rig() -> AsyncIterator[KeeperRig]:
    """`rig.keeper` is unshare, which ends as its child ends."""
    async with keeper_rig(CONTAINER) as container:
        yield container


def keeper_of(rig: KeeperRig) -> psutil.Process:
    return psutil.Process(rig.pid).children()[0]


def zombies(rig: KeeperRig) -> int:
    below = keeper_of(rig).children(recursive=True)
    return sum(process.status() == psutil.STATUS_ZOMBIE for process in below)


def terminated(brain: Brain, times: int) -> bool:
    return [event["event"] for event in brain.events].count("Terminate") == times


async def started(rig: KeeperRig, brain: Brain, key: str, *argv: str) -> int:
    rig.spawn(brain, key, *argv)
    return int((await brain.event("Started", key))["pid"])


async def test_it_reaps_what_was_left_to_it_and_was_never_its_own(rig: KeeperRig) -> None:
    brain = await rig.brain()
    status = Path(f"/proc/{keeper_of(rig).pid}/status").read_text()
    assert status.partition("NSpid:")[2].split()[1] == "1"
    gate = rig.directory / "gate"
    # Twenty that left their session and their parent, and end together.
    script = (
        'for i in $(seq 20); do (setsid sh -c "echo up; while [ ! -e $0 ]; do sleep 0.05; done" &);'
        " done; exec sleep 1000"
    )
    await started(rig, brain, "a:1", "sh", "-c", script, str(gate))
    await brain.until(lambda: brain.output["a:1", "stdout"].count(b"up\n") == 20)

    def strangers() -> list[psutil.Process]:
        return [p for p in keeper_of(rig).children() if p.name() == "sh"]

    # Its own is a sh, too, until it has become the sleep.
    await eventually(lambda: len(strangers()) == 20)
    those = strangers()
    gate.touch()
    await eventually(lambda: not any(process.is_running() for process in those))
    assert zombies(rig) == 0


async def test_it_ends_in_order_when_asked_to(rig: KeeperRig) -> None:
    brain = await rig.brain()
    await started(rig, brain, "a:1", "sleep", "1000")
    keeper_of(rig).send_signal(signal.SIGTERM)
    assert not (await brain.event("Terminate"))["urgent"]
    brain.tell("signal", "a:1", signum=signal.SIGTERM)
    assert (await brain.event("Exited", "a:1"))["signal"] == signal.SIGTERM
    brain.tell("bye")
    brain.tell("exit", code=0)
    assert await rig.exit_code() == 0


async def test_it_ends_at_once_when_asked_for_the_third_time(rig: KeeperRig) -> None:
    brain = await rig.brain()
    await started(rig, brain, "a:1", "sh", "-c", 'trap "" TERM INT; sleep 1000')
    for count in range(1, 3):
        keeper_of(rig).send_signal(signal.SIGINT)
        await brain.until(functools.partial(terminated, brain, count))
    keeper_of(rig).send_signal(signal.SIGINT)
    assert await rig.exit_code() == 128 + signal.SIGINT


async def test_it_re_executes_itself_like_any_other(rig: KeeperRig) -> None:
    brain = await rig.brain()
    pid = await started(rig, brain, "a:1", "sleep", "1000")
    keeper_of(rig).send_signal(signal.SIGHUP)
    await brain.event("Reload")
    brain.tell("exit", code=0)
    brain = await rig.brain()
    assert brain.children["a:1"]["pid"] == pid
    brain.tell("signal", "a:1", signum=signal.SIGKILL)
    await brain.event("Exited", "a:1")
    assert zombies(rig) == 0


async def test_nothing_outlives_it(rig: KeeperRig) -> None:
    brain = await rig.brain()
    await started(rig, brain, "a:1", "sh", "-c", "setsid sleep 1000 & sleep 1000")
    inside = keeper_of(rig).children(recursive=True)
    keeper_of(rig).kill()
    await rig.exit_code()
    await eventually(lambda: not any(process.is_running() for process in inside))
