"""What a service manager hears of a real keeper: sd_notify, watchdog, reload, stop."""

from __future__ import annotations

import asyncio
import configparser
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from eventually import eventually
from keeper_rig import Brain, KeeperRig, keeper_rig

from formation_agent.systemd import Manager

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "formation-agent.service"


class FakeManager:
    """The end of systemd: every datagram as a dict, in order."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        self._heard: list[dict[str, str]] = []

    @property
    def heard(self) -> list[dict[str, str]]:
        """All but the beats for the watchdog."""
        return [message for message in self.all if "WATCHDOG" not in message]

    @property
    def all(self) -> list[dict[str, str]]:
        while True:
            try:
                text = self._socket.recv(1 << 16).decode()
            except BlockingIOError:
                return self._heard
            self._heard.append(dict(line.split("=", 1) for line in text.splitlines()))

    async def hears(self, **fields: str) -> dict[str, str]:
        def found() -> list[dict[str, str]]:
            return [message for message in self.heard if fields.items() <= message.items()]

        return (await eventually(found, what=str(fields)))[0]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeManager]:
    with tempfile.TemporaryDirectory(prefix="sd-") as directory:
        path = f"{directory}/notify"
        if request.param == "path":
            fake, name = FakeManager(path), path
        else:
            fake, name = FakeManager(f"\0{path}"), f"@{path}"
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield fake
        fake.close()


async def started(rig: KeeperRig, brain: Brain, key: str, *argv: str) -> int:
    rig.spawn(brain, key, *argv)
    return int((await brain.event("Started", key))["pid"])


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_it_is_ready_when_the_brain_is_and_says_how_it_goes(manager: FakeManager) -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        pid = await started(rig, brain, "a:1", "sleep", "1000")
        assert manager.heard == []
        brain.tell("ready", status="1 instance,\nand more")
        await manager.hears(READY="1", STATUS="1 instance, and more")
        brain.tell("status", text="2 instances")
        await manager.hears(STATUS="2 instances")
        # The address is for the keeper alone: nobody else may speak for it.
        assert b"NOTIFY_SOCKET" not in environment(brain.pid) + environment(pid)


async def test_a_re_execution_is_a_reload(manager: FakeManager) -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        brain.tell("ready", status="up")
        await manager.hears(READY="1")
        rig.keeper.send_signal(signal.SIGHUP)
        reloading = await manager.hears(RELOADING="1")
        assert 0 <= time.monotonic() - int(reloading["MONOTONIC_USEC"]) / 1e6 < 20
        await brain.event("Reload")
        brain.tell("exit", code=0)
        brain = await rig.brain()
        assert manager.heard[-1] == reloading
        brain.tell("ready", status="up again")
        await manager.hears(READY="1", STATUS="up again")
        assert b"NOTIFY_SOCKET" not in environment(brain.pid)


async def test_a_refused_re_execution_is_a_reload_that_is_over(
    manager: FakeManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with keeper_rig() as rig:
        brain = await rig.brain()
        brain.tell("ready", status="up")
        await manager.hears(READY="1")
        (tmp_path / "formation_agent.py").write_text("broken\n")
        rig.keeper.send_signal(signal.SIGHUP)
        await manager.hears(RELOADING="1")
        await eventually(lambda: manager.heard[-1] == {"READY": "1", "STATUS": "up"})


async def test_a_stop_is_announced_and_asks_for_the_time_it_needs(manager: FakeManager) -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        brain.tell("ready", status="up")
        rig.keeper.send_signal(signal.SIGTERM)
        await manager.hears(STOPPING="1")
        await manager.hears(EXTEND_TIMEOUT_USEC="20000000")
        brain.tell("bye")
        brain.tell("exit", code=0)
        assert await rig.exit_code() == 0


async def test_the_watchdog_hears_from_a_loop_that_runs_and_from_no_other(
    manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    async with keeper_rig() as rig:
        brain = await rig.brain()

        def beats() -> int:
            return sum("WATCHDOG" in message for message in manager.all)

        await eventually(lambda: beats() >= 5)
        assert b"WATCHDOG" not in environment(brain.pid)
        rig.keeper.send_signal(signal.SIGSTOP)
        await eventually(lambda: Path(f"/proc/{rig.pid}/stat").read_text().split()[2] == "T")
        before = beats()
        await asyncio.sleep(0.3)  # that six beats do not come cannot be waited for otherwise
        assert beats() == before
        rig.keeper.send_signal(signal.SIGCONT)
        # Also after a re-execution, and while it ends.
        rig.keeper.send_signal(signal.SIGHUP)
        await brain.event("Reload")
        brain.tell("exit", code=0)
        brain = await rig.brain()
        before = beats()
        await eventually(lambda: beats() >= before + 3)
        await started(rig, brain, "a:1", "sh", "-c", 'trap "" TERM; sleep 1000')
        for _ in range(2):
            rig.keeper.send_signal(signal.SIGTERM)
        before = beats()
        await eventually(lambda: beats() >= before + 3)


async def test_another_processes_watchdog_is_not_ours(
    manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    async with keeper_rig() as rig:
        brain = await rig.brain()
        brain.tell("ready", status="up")
        await manager.hears(READY="1")
        assert len(manager.all) == 2  # the status, and that it is ready


async def test_a_manager_that_went_away_stops_nothing(manager: FakeManager) -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        manager.close()
        brain.tell("ready", status="up")
        assert await started(rig, brain, "a:1", "sleep", "1000")


def test_what_a_full_socket_does_not_take_is_said_later() -> None:
    with tempfile.TemporaryDirectory(prefix="sd-") as directory:
        fake = FakeManager(f"{directory}/notify")
        later: list[object] = []
        manager = Manager(
            {"NOTIFY_SOCKET": f"{directory}/notify"}, lambda _s, call: later.append(call)
        )
        count = 0
        while not later and count < 10_000:
            manager.status(f"{count}")
            count += 1
        assert later
        manager.ready()
        assert {"READY": "1", "STATUS": f"{count - 1}"} not in fake.all
        call = later.pop()
        assert callable(call)
        call()
        assert fake.all[-1] == {"READY": "1", "STATUS": f"{count - 1}"}
        manager.close()
        fake.close()


def test_without_a_manager_nothing_is_said_or_planned() -> None:
    later: list[float] = []
    environ = {"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000", "PATH": "/bin"}
    manager = Manager(environ, lambda delay_s, _call: later.append(delay_s))
    manager.beat()
    manager.ready()
    manager.stopping()
    assert (later, environ) == ([], {"PATH": "/bin"})


def test_the_example_unit_says_what_the_keeper_needs() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    service = dict(parser["Service"])
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert (service["Delegate"], service["KillMode"]) == ("yes", "mixed")
    program, _, settings = service["ExecStart"].partition(" ")
    assert service["ExecReload"] == f"{program} reexec {settings}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_example_unit_is_one_that_systemd_reads(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/formation-agent", "/bin/true"))
    words = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    complaints = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert complaints == []
