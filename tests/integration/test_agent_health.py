"""The real agent watches over real processes: probes, sd_notify, watchdogs, and what they use."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agent_program import AgentProgram
from eventually import eventually
from fake_coordinator import FakeCoordinator

from formation.model import (
    Assignment,
    InstanceState,
    Probe,
    ProbeKind,
    ProcessType,
    Release,
    Slot,
)
from formation.runtime import new_id

# Unlike any other's on this machine: processes are known, and killed, by these.
U1, U2 = new_id(), new_id()
HEALTHY, STARTING, UNREADY = InstanceState.HEALTHY, InstanceState.STARTING, InstanceState.UNREADY
RESTARTING = InstanceState.RESTARTING

# Answers 200 while the file is there.
SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.exists(sys.argv[1]) else 503)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

STUBBORN = "trap '' TERM; while :; do sleep 0.1; done"
# Its end takes long enough to be seen.
SLOW: dict[str, Any] = {"stop_grace_s": 0.5}


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[FakeCoordinator]:
    async with FakeCoordinator(f"unix:{tmp_path / 'c.sock'}") as running:
        yield running


@pytest.fixture
async def agent(tmp_path: Path, coordinator: FakeCoordinator) -> AsyncIterator[AgentProgram]:
    argv = ("--coordinator", coordinator.address, "--name", "b", "--verbose")
    async with AgentProgram(tmp_path, *argv) as running:
        yield running


async def run(
    coordinator: FakeCoordinator, command: str, uids: tuple[str, ...] = (U1,), **spec: Any
) -> None:
    fields = {"stop_grace_s": 0.0, "ready_after_s": 0.0, **spec}
    release = Release(
        app="shop",
        number=1,
        types=(ProcessType(name="web", command=command, **fields),),
        env={"PATH": os.environ["PATH"]},
        workdir="/",
    )
    stays = [
        Assignment(uid=uid, slot=Slot("shop", "web", ordinal), release=1)
        for ordinal, uid in enumerate(uids, 1)
    ]
    await coordinator.assign(*stays, releases=[release])


def script(directory: Path, text: str, name: str = "app.py") -> Path:
    path = directory / name
    path.write_text(text)
    return path


async def told(coordinator: FakeCoordinator, uid: str, text: str) -> None:
    await eventually(lambda: uid in coordinator.table and coordinator.table[uid].told == text)


# -- probes ----------------------------------------------------------------------------------------


async def test_a_failing_readiness_only_marks_and_a_passing_one_takes_the_mark_away(
    coordinator: FakeCoordinator, agent: AgentProgram, tmp_path: Path
) -> None:
    flag, app = tmp_path / "ready", script(tmp_path, SERVER)
    quick = Probe(kind=ProbeKind.HTTP, target="/health", period_s=0.05, failures=2, timeout_s=5.0)
    await run(coordinator, f"{sys.executable} {app} {flag}", readiness=quick)
    starting = "not ready yet: HTTP 503 from /health"
    await eventually(lambda: starting in {s.reason for s in coordinator.history})
    assert coordinator.table[U1].state is STARTING
    flag.touch()
    pid = (await coordinator.sees(U1, HEALTHY)).pid
    flag.unlink()
    unready = await coordinator.sees(U1, UNREADY)
    assert unready.reason == "not ready: HTTP 503 from /health"
    flag.touch()
    again = await coordinator.sees(U1, HEALTHY)
    assert (again.pid, again.attempt, again.reason) == (pid, 1, "")


async def test_a_failing_liveness_restarts_and_its_command_runs_as_a_part_of_its_instance(
    coordinator: FakeCoordinator, agent: AgentProgram, tmp_path: Path
) -> None:
    dead, seen = tmp_path / "dead", tmp_path / "seen"
    check = f"echo $PS $FORMATION_INSTANCE >{seen}; cat /proc/self/cgroup >{seen}.cgroup; "
    check += f"test ! -e {dead} || {{ echo it is stuck >&2; exit 4; }}"
    alive = Probe(kind=ProbeKind.EXEC, target=check, period_s=0.05, failures=2, timeout_s=10.0)
    await run(coordinator, STUBBORN, liveness=alive, start_grace_s=0.0, **SLOW)
    pid = (await coordinator.sees(U1, HEALTHY)).pid
    await eventually(lambda: seen.exists() and seen.read_text() == f"web.1 {U1}\n")
    cgroup = Path(f"/proc/{pid}/cgroup").read_text()
    await eventually(lambda: Path(f"{seen}.cgroup").read_text() == cgroup)
    dead.touch()
    await eventually(lambda: RESTARTING in {s.state for s in coordinator.history})
    why = {s.reason for s in coordinator.history if s.state is RESTARTING}
    assert why == {"not alive: exit 4: it is stuck"}
    dead.unlink()
    after = await coordinator.sees(U1, HEALTHY)
    assert after.attempt >= 2
    assert after.pid != pid


async def test_a_command_that_hangs_is_killed_and_no_probe_outlives_its_instance(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    hangs = Probe(kind=ProbeKind.EXEC, target="sleep 2000 & sleep 2000", timeout_s=0.1)
    await run(coordinator, "sleep 1000", readiness=hangs, start_grace_s=600.0)
    late = "not ready yet: no answer within 0.1 s"
    await eventually(lambda: late in {s.reason for s in coordinator.history})
    await coordinator.assign()
    await coordinator.sees_gone(U1)
    await eventually(lambda: not agent.children(), what="no process is left")


# -- sd_notify -------------------------------------------------------------------------------------

TALKER = """
import os, signal, socket, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
end.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
assert os.environ["WATCHDOG_USEC"] == "300000"
end.send(b"STATUS=warming up")
end.send(b"READY=1\\nSTATUS=serving")
for _ in range(10):
    time.sleep(0.05)
    end.send(b"WATCHDOG=1")
time.sleep(1000)
"""


async def test_ready_status_and_a_watchdog_that_starves(
    coordinator: FakeCoordinator, agent: AgentProgram, tmp_path: Path
) -> None:
    app = script(tmp_path, TALKER)
    await run(coordinator, f"{sys.executable} {app}", notify=True, **SLOW, watchdog_s=0.3)
    await coordinator.sees(U1, HEALTHY)
    await told(coordinator, U1, "serving")
    await eventually(lambda: RESTARTING in {s.state for s in coordinator.history})
    (why,) = {s.reason for s in coordinator.history if s.state is RESTARTING}
    assert why == "not alive: said no WATCHDOG=1 for 0.3 s"
    assert (await coordinator.sees(U1, HEALTHY, attempt=2)).attempt == 2


async def test_who_was_ready_stays_ready_over_a_brains_death_and_is_still_heard(
    coordinator: FakeCoordinator, agent: AgentProgram, tmp_path: Path
) -> None:
    more = tmp_path / "more"
    app = script(
        tmp_path,
        "import os, socket, sys, time\n"
        "end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "end.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])\n"
        "end.send(b'READY=1\\nSTATUS=first')\n"
        f"while not os.path.exists({str(more)!r}): time.sleep(0.02)\n"
        "end.send(b'STATUS=second')\n"
        "time.sleep(1000)\n",
    )
    await run(coordinator, f"{sys.executable} {app}", notify=True, start_grace_s=600.0)
    pid = (await coordinator.sees(U1, HEALTHY)).pid
    await told(coordinator, U1, "first")
    await asyncio.sleep(1.0)  # the journal is written within half a second
    (await agent.brain()).kill()
    await eventually(lambda: len(coordinator.hellos) == 2)
    after = await coordinator.sees(U1, HEALTHY)
    assert (after.pid, after.attempt) == (pid, 1)
    more.touch()
    await told(coordinator, U1, "second")


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="systemd-notify is not here")
async def test_a_shell_script_speaks_with_systemds_own_client(
    coordinator: FakeCoordinator, agent: AgentProgram
) -> None:
    command = "systemd-notify --status='loading 3 of 4'; systemd-notify --ready; sleep 1000"
    await run(coordinator, command, notify=True)
    await coordinator.sees(U1, HEALTHY)
    await told(coordinator, U1, "loading 3 of 4")
    assert coordinator.table[U1].attempt == 1


# -- usage -----------------------------------------------------------------------------------------


async def test_what_instances_use_is_told_when_asked(
    coordinator: FakeCoordinator, agent: AgentProgram, tmp_path: Path
) -> None:
    flag = tmp_path / "go"
    app = script(
        tmp_path,
        "import os, subprocess, sys, time\n"
        "files = [open('/dev/null') for _ in range(20)]\n"
        "helper = subprocess.Popen(['sleep', '1000'])\n"
        "memory = b'x' * 40_000_000\n"
        "if os.environ['PS'] == 'web.1':\n"
        "    while time.process_time() < 0.5: pass\n"
        "    print('y' * 999, flush=True)\n"
        f"open({str(flag)!r} + os.environ['PS'], 'w').close()\n"
        "time.sleep(1000)\n",
    )
    await run(coordinator, f"{sys.executable} {app}", (U1, U2))
    await eventually(lambda: all(Path(f"{flag}web.{n}").exists() for n in (1, 2)), deadline_s=30)
    log = agent.state_dir / "logs" / "shop" / "web.1.log"
    await eventually(lambda: log.exists() and log.stat().st_size > 1000)
    usages = await coordinator.sample_usage("r1", "shop")
    assert set(usages) == {U1, U2}
    busy, idle = usages[U1], usages[U2]
    assert busy.cpu_s > 0.4 > idle.cpu_s
    assert busy.cpu_share > idle.cpu_share >= 0.0
    for usage in (busy, idle):
        assert 40e6 < usage.memory_bytes < 120e6
        assert usage.processes == 2
        assert usage.files >= 26  # twenty of ours, and the standard ones of both
    assert (busy.log_bytes, idle.log_bytes) == (1000, 0)
    assert busy.log_bytes_per_s > 0.0
    assert await coordinator.sample_usage("r2", "another") == {}
