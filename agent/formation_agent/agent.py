"""The brain's program: puts the rooms together, runs them, ends in order.

Started by the keeper, which restarts it when it dies; the children live on in between. Exit code
0: finished, 1: went wrong, 2: cannot run like this (settings, a second agent, a name taken), 70:
its event loop hung (`watchdog`).
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import random
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from formation import __version__
from formation.credentials import CredentialError
from formation.memory import AgentMemory
from formation.model import HostStatus
from formation.names import HOST_NAME
from formation.runtime import complain, hide, new_id, now_ms, setup_logging
from formation.settings import ConfigError
from formation_agent import facts, link, machine, takeover
from formation_agent import journal as journals
from formation_agent.buildrun import Builds
from formation_agent.codedirs import CodeDirs
from formation_agent.codefetch import Fetcher
from formation_agent.coderoom import CodeRoom
from formation_agent.config import AgentConfig, load
from formation_agent.endings import NameTaken
from formation_agent.environment import Surroundings
from formation_agent.execs import Execs
from formation_agent.guardrails import Guardrails
from formation_agent.happenings import Sandbox
from formation_agent.health import Health
from formation_agent.journal import Journal, JournalError
from formation_agent.launch import Launcher, Powers, powers_of
from formation_agent.logs import Logs
from formation_agent.membership import Membership
from formation_agent.ports import Ports
from formation_agent.probe_exec import ExecProbes
from formation_agent.probes import ProbeRuns
from formation_agent.processes import KeeperGone, KeeperTooNew, Processes, kill_leftovers
from formation_agent.secretfiles import place_for
from formation_agent.session import JOINED_LOOK_S, Session
from formation_agent.statedir import (
    LOCK_NAME,
    RefusedError,
    default_state_dir,
    prepare_state_dir,
    release_dir,
)
from formation_agent.supervisor import Supervisor
from formation_agent.usage import UsageSampler
from formation_agent.watchdog import Watchdog
from formation_agent.watchers import Watchers

if TYPE_CHECKING:
    from formation_agent.scraping import Scraping
    from formation_agent.shipping import Shipper

# A coordinator that does not take our goodbye in this time finds out by itself.
GOODBYE_WITHIN_S = 2.0
# A reader that is slow does not keep the machine from ending.
LAST_LINES_WITHIN_S = 1.0
_EXIT_FAILED, _EXIT_REFUSED = 1, 2
_FILES_SOON = 8192

log = logging.getLogger(__name__)


class _Finished(Exception):
    """Everything has stopped and was said: the way out of the task group."""


class _Reload(Exception):
    """The keeper re-executes itself: the other way out."""


def main() -> int:
    # Terminals and service managers talk to the keeper; it tells us, in its order.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        config = load(sys.argv[1:], os.environ, lambda path: Path(path).read_text("utf-8"))
        setup_logging("formation-agent", verbose=config.verbose)
        if takeover.CHECK_VARIABLE in os.environ:
            return 0  # everything is there, and these settings can be read
        gc.freeze()  # what was imported stays: no collection need look at it again
        hide()
        _widen_descriptor_table()
        return asyncio.run(_run(config))
    except ConfigError as error:
        return _refuse(*error.problems)
    except (RefusedError, JournalError, KeeperTooNew) as error:
        return _refuse(str(error))
    except KeeperGone as error:
        log.error("%s", error)  # noqa: TRY400  its traceback says nothing
        return _EXIT_FAILED


def _widen_descriptor_table() -> None:
    """While there is one thread. Later each doubling of the kernel's table would wait for all cpus
    to come by, some 15 ms, in the middle of a burst of starts."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_SOON if soft == resource.RLIM_INFINITY else min(soft, _FILES_SOON)
    os.close(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, wanted - 1))


def _refuse(*problems: str) -> int:
    complain("formation-agent", *problems)
    return _EXIT_REFUSED


async def _run(config: AgentConfig) -> int:
    processes = await Processes.connect(_keeper_fd())
    try:
        state_dir = prepare_state_dir(config.state_dir or default_state_dir())
        await _lock(processes, state_dir)
        agent = await _agent(config, state_dir, processes)
        await agent.run()
    finally:
        processes.close()
    return 0


def _keeper_fd() -> int:
    number = os.environ.pop(link.KEEPER_FD_VARIABLE, "")
    if not number.isdigit():
        raise RefusedError("this is a part of formation-agent: start that instead")
    return int(number)


async def _lock(processes: Processes, state_dir: Path) -> None:
    try:
        holder = await processes.lock(str(state_dir / LOCK_NAME))
    except OSError as error:
        raise RefusedError(f"{state_dir / LOCK_NAME}: {error.strerror}") from error
    if holder is not None:
        raise RefusedError(
            f"already running on {state_dir} ({holder}); stop it or choose another --state-dir"
        )


async def _agent(config: AgentConfig, state_dir: Path, processes: Processes) -> Agent:
    opened = journals.load(state_dir, new_id())
    if opened.problem:
        log.error("%s", opened.problem)
    if not processes.children:
        await _end_leftovers(opened.memory)
    contained = await processes.contain(
        opened.memory.agent_id, new_privileges=config.new_privileges
    )
    powers = powers_of(contained, is_root=os.geteuid() == 0)
    if powers.inability:
        log.info("not everything can be limited here: %s", powers.inability)
    return Agent(config, state_dir, processes, Journal(state_dir, opened.memory), powers)


async def _end_leftovers(memory: AgentMemory) -> None:
    known = [(memory.boot_id, item.pid, item.start_ticks) for item in memory.tries.values()]
    running = [identity for identity in known if identity[1]]
    killed = await asyncio.to_thread(kill_leftovers, memory.agent_id, running)
    if killed:
        log.warning("killed %d processes that an agent killed before had left behind", len(killed))


class Agent:
    """The rooms of one brain."""

    def __init__(
        self,
        config: AgentConfig,
        state_dir: Path,
        processes: Processes,
        journal: Journal,
        powers: Powers,
    ) -> None:
        self._config = config
        self._powers = powers
        self._membership = Membership(
            state_dir,
            config.coordinators,
            insecure=config.insecure,
            cluster_id=journal.memory.cluster_id,
            now_ms=now_ms,
            ping_every_s=config.ping_every_s,
        )
        self._name = self._chosen_name()
        self._processes = processes
        self._journal = journal
        self._logs = Logs(
            state_dir / "logs",
            max_bytes=config.log_bytes_max,
            files=config.log_files,
            host=self._name,
        )
        self._health = Health(
            report=self._report, ask=ProbeRuns(ExecProbes(processes)).ask, jitter=random.random
        )
        self._execs = Execs(processes, allowed=not config.no_exec)
        dirs = CodeDirs(release_dir(config.release_dir, state_dir))
        launcher = self._launcher(dirs)
        self._code = CodeRoom(
            dirs=dirs,
            fetcher=Fetcher(
                state_dir / "artifacts",
                addresses=lambda: self._session.coordinators,
                dial=self._membership.artifacts,
            ),
            builder=Builds(processes, launcher, self._logs, new_id),
            wanted=lambda: journal.memory.releases,
            jitter=random.random,
        )
        self._supervisor = Supervisor(
            children=processes,
            logs=self._logs,
            health=Watchers(self._execs, self._health),
            launcher=launcher,
            journal=journal,
            jitter=random.random,
            code=self._code,
        )
        self._session = Session(
            supervisor=self._supervisor,
            journal=journal,
            logs=self._logs,
            execs=self._execs,
            usage=UsageSampler(
                running=self._supervisor.running,
                log_bytes=self._logs.read_bytes,
                keeper_pid=os.getppid(),
            ),
            addresses=self._membership.addresses,
            dial=self._membership.dialled,
            explain=self._membership.explain,
            learn=self._membership.learn,
            describe=self._describe,
            moved=self._tell_status,
        )
        self._shippers = _shippers(config, self._logs, state_dir)
        self._scraping = self._made_scraping()
        self._told = ""

    def _launcher(self, code: CodeDirs) -> Launcher:
        """Raises `RefusedError`."""
        config, mounts = self._config, Path("/proc/self/mounts").read_text()
        return Launcher(
            self._surroundings(),
            Ports(config.ports, config.foreman_ports),
            _files_max(),
            self._powers,
            Guardrails(
                users=config.users,
                default_user=config.default_user,
                directories=config.directories,
            ),
            place_for(self._journal.memory.agent_id, os.environ, mounts),
            _sandbox(config),
            code=code,
        )

    def _chosen_name(self) -> str:
        """As the certificate says: for others we cannot speak. Raises `RefusedError`."""
        try:
            found = self._membership.credential()
        except CredentialError as error:
            raise RefusedError(str(error)) from error
        if found is None:
            return self._config.name or _usable(facts.host_name())
        joined = found.seen.identity.name
        if self._config.name not in ("", joined):
            raise RefusedError(
                f"--name {self._config.name}: this host has joined its cluster as {joined}; leave "
                "--name out, or join again with a token for that name"
            )
        return joined

    def _made_scraping(self) -> Scraping | None:
        """Raises `RefusedError`."""
        if not self._config.metrics:
            return None
        from formation_agent.metrics import Metrics
        from formation_agent.scraping import Scraping
        from formation_agent.sighting import look

        parts = (self._name, self._session, self._supervisor, self._logs, self._shippers)
        return Scraping(self._config, Metrics(lambda: look(*parts)).text)

    async def run(self) -> None:
        """Until everything was asked to end and has. Raises `RefusedError` or `KeeperGone`."""
        # When processes run here they go on, whoever has taken the port meanwhile.
        begins = self._scraping is not None and not self._processes.children
        server = await self._scraping.begin() if self._scraping and begins else None
        self._journal.touch()
        self._supervisor.start(self._processes.children)
        self._told = self._status()
        self._processes.ready(self._told)
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(Watchdog().run())
                group.create_task(self._journal.run())
                group.create_task(self._supervisor.run())
                group.create_task(self._health.run())
                group.create_task(self._code.run())
                group.create_task(self._session.run())
                if self._scraping is not None:
                    group.create_task(self._scraping.run(server))
                for shipper in self._shippers:
                    group.create_task(shipper.run())
                session = self._session
                group.create_task(self._membership.run(lambda: session.reached, session.renewed))
                group.create_task(self._end_when_asked())
                group.create_task(self._go_when_asked())
                group.create_task(self._go_when_renamed())
        except* _Finished:
            pass
        except* _Reload:
            await self._hand_over()
        except* NameTaken as taken:
            failure = RefusedError(str(taken.exceptions[0]))
        except* KeeperGone as gone:
            failure = KeeperGone(str(gone.exceptions[0]))
        finally:
            self._execs.close()
            self._health.close()
            self._logs.close()
            self._journal.close()
        if failure is not None:
            raise failure

    def _report(self, uid: str, attempt: int, event: machine.Event) -> None:
        self._supervisor.report(uid, attempt, event)

    async def _end_when_asked(self) -> None:
        await self._supervisor.terminate.wait()
        log.info("stopping everything on this host")
        await self._supervisor.stop_all()
        await self._session.deliver_logs(LAST_LINES_WITHIN_S)
        self._session.goodbye()
        try:
            await self._remember_the_end()
        except JournalError as error:
            log.warning("%s", error)
        self._processes.bye()
        raise _Finished

    async def _go_when_asked(self) -> None:
        await self._supervisor.reload.wait()
        raise _Reload

    async def _go_when_renamed(self) -> None:
        """Somebody has joined this host under another name than the one that we started with."""
        while True:
            joined = self._membership.name()
            if joined and joined != self._name:
                log.info("this host is called %s from now on", joined)
                raise _Reload
            await asyncio.sleep(JOINED_LOOK_S)

    async def _hand_over(self) -> None:
        """The next brain goes on where this one ends. Nobody changes anything here any more."""
        try:
            await self._journal.flush()
        except JournalError as error:
            log.warning("%s", error)
        self._logs.close()
        self._processes.again()

    def _tell_status(self) -> None:
        status = self._status()
        if status != self._told:
            self._told = status
            self._processes.status(status)

    def _status(self) -> str:
        """For `systemctl status`."""
        count = len(self._journal.memory.assigned)
        return f"{count} instance{'' if count == 1 else 's'}, {self._session.where}"

    async def _remember_the_end(self) -> None:
        try:
            async with asyncio.timeout(GOODBYE_WITHIN_S):
                await self._session.left.wait()
        except TimeoutError:
            log.warning("no coordinator took the goodbye")
            await self._journal.flush()
        else:
            # They will be run elsewhere: a later start of this agent must not bring them back.
            await self._supervisor.forget_orders()

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            environ=dict(os.environ),
            host=self._name,
            agent_id=self._journal.memory.agent_id,
            inherit=self._config.inherit_env,
        )

    async def _describe(self, coordinator: str) -> HostStatus:
        return HostStatus(
            host=self._name,
            agent_id=self._journal.memory.agent_id,
            boot_id=facts.boot_id(),
            agent_version=__version__,
            capacity=facts.capacity(self._config.instances_max),
            labels=self._config.labels,
            address=self._config.address or await facts.local_address(coordinator),
            abilities=tuple(self._powers.abilities),
            inability=self._powers.inability,
        )


def _sandbox(config: AgentConfig) -> Sandbox | None:
    """Raises `RefusedError` where it cannot be had: nothing shall run without it."""
    made = Sandbox(
        private_tmp=config.private_tmp,
        read_only=config.read_only_system,
        writable=config.writable,
    )
    if made.writable and not made.read_only:
        raise RefusedError("--writable-dir means nothing without --read-only-system")
    if made == Sandbox():
        return None
    if os.geteuid() != 0:
        raise RefusedError("--private-tmp and --read-only-system need an agent that is root")
    for path in made.writable:
        if not os.path.isdir(path):
            raise RefusedError(f"--writable-dir {path}: there is no such directory")
    return made


def _shippers(config: AgentConfig, logs: Logs, state_dir: Path) -> Sequence[Shipper]:
    """Raises `RefusedError`."""
    if not config.log_to:
        return ()
    from formation_agent.shipping import shippers  # TLS and HTTP, which most agents never need

    return shippers(
        config.log_to,
        logs,
        state_dir,
        header_file=config.log_header_file,
        ca_file=config.log_ca_file,
        now_us=lambda: now_ms() * 1000,
    )


def _files_max() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else limit


def _usable(host_name: str) -> str:
    if not HOST_NAME.fullmatch(host_name):
        raise RefusedError(f"this machine's name {host_name!r} is of no use here; give --name")
    return host_name
