"""One `formctl dev` from start to end: cluster up, app applied, output followed, everything down.

The order of the end is the point: agents first, while their children's last lines are still
shown; then the coordinator; then the run directory. Nothing of it survives, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

from formation import runtime
from formation.devclusters import DevCluster
from formation.gaps import Gap
from formation.quantities import show
from formctl.applying import request
from formctl.client import Client
from formctl.dev import answers, rundir
from formctl.dev.cluster import Cluster, wait_for_leftovers
from formctl.dev.console import Console
from formctl.dev.narrator import Exit, Narrator
from formctl.dev.plan import Plan
from formctl.errors import INTERRUPTED
from formctl.following import ALL_LINES, LogFeed, follow
from formctl.loglines import Line
from formctl.views import Instance, Update
from formctl.watching import Goal, Progress

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# While stopping: when to say who is waited for.
_PATIENCE_S = 5.0
# Lines are in flight for a moment after their processes have gone.
_QUIET_S = 0.15
_DRAIN_DEADLINE_S = 3.0
_TOLD_WITHIN_S = 0.5
# Servers that listen already should be told of before the hint what to do next.
_ANSWERS_FIRST_S = 0.3


class Stop:
    """The first request ends the session, the second one ends it at once."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self.urgent = asyncio.Event()

    def ask(self) -> None:
        (self.urgent if self.wanted.is_set() else self.wanted).set()

    def ask_once(self) -> None:
        self.wanted.set()

    def on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.ask)


async def run_dev(plan: Plan, console: Console) -> int:
    """The exit code. Raises CommandError when the cluster does not come up or breaks."""
    stop = Stop()
    stop.on_signals()
    console.on_gone = stop.ask_once
    project = plan.spec.directory
    run = rundir.acquire(project)
    try:
        rundir.remove_stale(keep=run.path)
        session = Session(plan, console, run, stop)
        return await session.run()
    finally:
        run.release()


class Session:
    def __init__(self, plan: Plan, console: Console, run: rundir.RunDirectory, stop: Stop) -> None:
        self._plan = plan
        self._console = console
        self._run = run
        self._stop = stop
        self._cluster = Cluster(run, plan, console.system)
        self._narrator = Narrator(plan.app, plan.foreman_port, plan.graces)
        self._exit: Exit | None = None
        self._revision = 0
        self._stopping_s = 0.0
        self._announcing: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        try:
            await self._until_stop()
        finally:
            self._say_stopping()
            await self._end()
        if self._stop.urgent.is_set():
            return INTERRUPTED
        return self._exit.code if self._exit else 0

    async def _until_stop(self) -> None:
        if not await self._unless_stopped(self._start()):
            return
        self._publish()
        if not await self._unless_stopped(self._apply()):
            return
        self._tasks = [
            asyncio.create_task(self._follow_logs()),
            asyncio.create_task(self._follow_instances()),
        ]
        stopped = asyncio.create_task(self._stop.wanted.wait())
        await asyncio.wait((stopped, *self._tasks), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in self._tasks:
            if task.done():
                task.result()

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """False when the user has changed their mind meanwhile."""
        doing = asyncio.create_task(work)
        stopped = asyncio.create_task(self._stop.wanted.wait())
        await asyncio.wait((doing, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if doing.done():
            doing.result()
            return True
        doing.cancel()
        await asyncio.wait((doing,))
        return False

    async def _start(self) -> None:
        await wait_for_leftovers(self._run.path, self._console.system)
        self._console.system(f"starting {self._plan.agents} agent(s) and a coordinator…")
        await self._cluster.start()

    def _publish(self) -> None:
        self._run.publish(
            DevCluster(
                project=os.path.realpath(self._plan.spec.directory),
                app=self._plan.app,
                coordinator=self._cluster.target.addresses[0],
                started_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
        )

    async def _apply(self) -> None:
        plan = self._plan
        async with Client(self._cluster.target, notice=_in_silence) as client:
            wanted = request(plan.app, plan.spec, dict(plan.quantities), "formctl dev")
            response = await client.change(lambda stub: stub.Apply, wanted)
        self._revision = response.revision

    async def _follow_logs(self) -> None:
        feed = LogFeed(
            self._write,
            self._console.system,
            tail_lines=ALL_LINES,
            started_us=runtime.now_ms() * 1000,
        )
        async with Client(self._cluster.target, notice=_in_silence) as client:
            await follow(client, feed, app=self._plan.app, live=True)

    def _write(self, lines: list[Line]) -> None:
        """At the end agents go because they shall, and take no lines along."""
        stops = self._stop.wanted.is_set()
        self._console.lines([line for line in lines if not (stops and line.gap is Gap.HOST_LOST)])

    async def _follow_instances(self) -> None:
        """A client of its own: each reconnects by itself."""
        goal = Goal(app=self._plan.app, wanted=self._plan.quantities, whole=True)
        progress: Progress | None = Progress(goal, started_s=runtime.monotonic_s())
        async with Client(self._cluster.target, notice=_in_silence) as client:
            updates = client.watch(self._plan.app, self._revision)
            async with contextlib.aclosing(updates):
                async for update in updates:
                    self._tell(update)
                    if progress and self._arrived(progress, update):
                        self._announcing = asyncio.create_task(self._say_ready())
                        progress = None

    def _arrived(self, progress: Progress, update: Update) -> bool:
        progress.feed(update, now_s=runtime.monotonic_s(), now_ms=runtime.now_ms())
        return progress.is_done

    def _tell(self, update: Update) -> None:
        told = self._narrator.feed(update, now_ms=runtime.now_ms())
        for line in told.lines:
            self._console.system(line)
        if self._stop.wanted.is_set():
            return
        for ended in told.exits:
            if self._plan.exit_on == "any" or (self._plan.exit_on == "failure" and ended.code):
                self._exit = ended
                self._stop.ask_once()
                return

    async def _say_ready(self) -> None:
        """What answers at once is told before the hint, the rest as it comes."""
        self._console.system(f"ready: {show(self._plan.quantities)}")
        async with asyncio.TaskGroup() as group:
            probes = [
                group.create_task(self._say_answer(instance))
                for instance in self._narrator.table.of_app(self._plan.app)
                if instance.slot.type == "web" and instance.status.port
            ]
            if probes:
                await asyncio.wait(probes, timeout=_ANSWERS_FIRST_S)
            self._console.system(f"in a second terminal: {', '.join(self._plan.suggestions)}")

    async def _say_answer(self, instance: Instance) -> None:
        self._console.system(await answers.sentence(instance.slot.short, instance.status.port))

    def _say_stopping(self) -> None:
        self._stopping_s = runtime.monotonic_s()
        self._narrator.stops()
        cause = f"{self._exit.slot} ended with code {self._exit.code}, " if self._exit else ""
        self._console.system(f"{cause}stopping… (Ctrl-C again to kill)")

    async def _end(self) -> None:
        """Every step is tried, whatever the ones before did."""
        reporter = asyncio.create_task(self._report_slow())
        helpers = [reporter, self._announcing] if self._announcing else [reporter]
        if self._announcing:
            self._announcing.cancel()
        try:
            await self._cluster.stop_agents(self._stop.urgent)
        finally:
            reporter.cancel()
            await self._drain()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*helpers, *self._tasks, return_exceptions=True)
            # The agents have gone, so nothing runs any more, whatever was reported last.
            for line in self._narrator.end(now_ms=runtime.now_ms()):
                self._console.system(line)
            await self._cluster.stop_coordinator(self._stop.urgent)
            self._console.system("stopped")

    async def _report_slow(self) -> None:
        """ "Never ending" needs a name: who is it that does not stop?"""
        while True:
            await asyncio.sleep(_PATIENCE_S)
            stopping_for_s = runtime.monotonic_s() - self._stopping_s
            if running := self._narrator.running(stopping_for_s):
                self._console.system(f"still waiting for {', '.join(running)}")

    async def _drain(self) -> None:
        """Until no line has come for a moment, and all have told how they ended."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + _DRAIN_DEADLINE_S
        told_by_s = loop.time() + _TOLD_WITHIN_S
        seen = -1
        while self._tasks and loop.time() < deadline_s:
            is_quiet = seen == self._console.lines_written
            if is_quiet and (not self._narrator.running() or loop.time() >= told_by_s):
                return
            seen = self._console.lines_written
            await asyncio.sleep(_QUIET_S)


def _in_silence(_: str) -> None:
    """A coordinator that dies is told by whoever starts it again, not by each that calls it."""
