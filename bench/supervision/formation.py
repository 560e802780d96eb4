"""Formation's agent as a contestant: the real program, keeper and brain, as a user gets it.

Its coordinator is the tests' fake one, in a thread of the bench: it says what shall run and takes
the reports. The agent's logs are kept as by default, but for the log measures' one large file.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from bench.supervision import processes
from bench.supervision.contestants import Contestant

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "harness"))
from fake_coordinator import FakeCoordinator

from formation import wire
from formation.model import Assignment, Assignments, ProcessType, Release, Slot
from formation.v1 import agent_pb2 as pb
from formation_agent import cgroups, journal

T = TypeVar("T")
_PROGRAM = Path(sys.executable).with_name("formation-agent")
_APP, _TYPE = "bench", "load"
_READY_WITHIN_S = 30.0


class Coordinator:
    """A fake coordinator with an event loop of its own; called from the bench's thread."""

    def __init__(self, address: str) -> None:
        self.fake = FakeCoordinator(address)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.do(self.fake.start())

    def do(self, action: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(_READY_WITHIN_S)

    def close(self) -> None:
        self.do(self.fake.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Formation(Contestant):
    name = "formation"
    is_up_before = True
    line_prefix = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z O "

    state: Path
    coordinator: Coordinator | None = None
    message: pb.CoordinatorMessage

    def prepare(self) -> None:
        self.state = self.directory / "state"
        self.coordinator = Coordinator(f"unix:{self.directory}/coordinator")
        began_s = time.perf_counter()
        self.start_agent()
        self.boot_s = time.perf_counter() - began_s
        self.message = self._assign(self.load.count)

    def start_agent(self) -> None:
        """Returns when it has a session."""
        assert self.coordinator is not None
        fake = self.coordinator.fake
        before = len(fake.hellos)
        argv = [str(_PROGRAM), "--state-dir", str(self.state), "--name", "bench"]
        argv += ["--coordinator", fake.address, "--allow-user", "*"]
        if self.load.logs and not self.load.rotated:
            argv += ["--log-max-bytes", "1000MiB"]
        self.launch(argv)
        _until(lambda: len(fake.hellos) > before, f"the agent's hello\n{self.said()}")

    def order(self) -> None:
        assert self.coordinator is not None
        self.coordinator.do(self.coordinator.fake.say(self.message))

    def grow(self, count: int) -> None:
        """`count` in all."""
        self.message = self._assign(count)
        self.order()

    def _assign(self, count: int) -> pb.CoordinatorMessage:
        assert self.coordinator is not None
        fake = self.coordinator.fake
        spec = ProcessType(name=_TYPE, command=self.load.command, ready_after_s=0)
        release = Release(app=_APP, number=1, types=(spec,), workdir="/")
        instances = tuple(
            Assignment(uid=f"{number:012d}", slot=Slot(_APP, _TYPE, number), release=1)
            for number in range(1, count + 1)
        )
        order = Assignments(
            complete=True,
            epoch=fake.epoch,
            applies_to=fake.generation,
            results_in=fake.generation + 1,
            instances=instances,
            releases=(release,),
        )
        fake.generation += 1
        return pb.CoordinatorMessage(assignments=wire.assignments_to_pb(order))

    def brain(self) -> int:
        """The brain's pid."""
        below = processes.descendants(self.pid)
        return next(pid for pid in below if "formation_agent.brain" in processes.arguments(pid))

    def output_files(self) -> list[Path]:
        return sorted(self.state.glob("logs/*/*"))

    # -- what its coordinator gets -----------------------------------------------------------------

    def follow(self) -> None:
        """The lines of all instances, merged, from now on, as `formctl logs -f` has them."""
        assert self.coordinator is not None
        fake = self.coordinator.fake
        self.coordinator.do(fake.open_logs("merged", tail_lines=0, follow=True))
        _until(lambda: "merged" in fake.pushes, "the beginning of its logs")

    def followed(self) -> list[bytes]:
        assert self.coordinator is not None
        return self.coordinator.fake.lines("merged")

    def followed_count(self) -> int:
        assert self.coordinator is not None
        pushes = self.coordinator.fake.pushes.get("merged", [])
        return sum(len(push.lines) for push in pushes)

    # -- ends that nobody asked for ----------------------------------------------------------------

    def kill_brain(self) -> None:
        """Returns when the next one has a session."""
        assert self.coordinator is not None
        fake = self.coordinator.fake
        before = len(fake.hellos)
        os.kill(self.brain(), signal.SIGKILL)
        _until(lambda: len(fake.hellos) > before, "the next brain's hello")

    def kill_both(self) -> int:
        """At the same moment, so that neither can do anything; how many children are left."""
        brain = self.brain()
        children = [pid for pid in processes.descendants(self.pid) if pid != brain]
        for pid in (self.pid, brain):
            os.kill(pid, signal.SIGSTOP)
        for pid in (self.pid, brain):
            os.kill(pid, signal.SIGKILL)
        processes.wait_for_end([self.pid, brain], _READY_WITHIN_S)
        return len(processes.alive(children))

    def close(self) -> None:
        super().close()
        self._remove_cgroups()
        if self.coordinator is not None:
            self.coordinator.close()
            self.coordinator = None

    def _remove_cgroups(self) -> None:
        """Killed, it leaves that to its next start, and thousands of them slow all others down."""
        own, _ = cgroups.own()
        agent_id = journal.load(self.state, "").memory.agent_id
        if own and agent_id:
            path = f"{own}/formation-{cgroups.safe_name(agent_id)}"
            cgroups.kill_and_remove(path, _READY_WITHIN_S)


def _until(condition: Any, what: str) -> None:
    ends_s = time.monotonic() + _READY_WITHIN_S
    while not condition():
        if time.monotonic() > ends_s:
            raise processes.TooSlowError(f"not within {_READY_WITHIN_S:g} s: {what}")
        time.sleep(0.005)
