"""From an assignment to what the keeper needs: argv, environment, directory, options, port.

Looks at the disk and the machine's users (is the program there?), starts nothing.
"""

from __future__ import annotations

import functools
import logging
import os
import resource
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from formation.model import Ability, Assignment, Limits, ProcessType, Release, Slot
from formation.running import spec_of
from formation.secrets import missing, needed
from formation_agent import command
from formation_agent.buildplan import build_environment, build_type, code_name
from formation_agent.codedirs import CodeDirs
from formation_agent.environment import Surroundings, instance_environment, type_environment
from formation_agent.guardrails import OPEN, Guardrails, objection
from formation_agent.happenings import Sandbox
from formation_agent.ports import Port, PortError, Ports
from formation_agent.processes import Contained, SpawnOptions, User
from formation_agent.secretfiles import NOWHERE, NoPlaceError, SecretFiles
from formation_agent.users import Account, NoAccount, account, name_of

# What one instance takes here: two pipes, its pidfd, its log file, and one for a reader of that
# or its notify socket.
_FILES_EACH = 5
# For sessions, the journal and what a start takes for a moment.
_FILES_ELSE = 64
# What was found out about a type holds for a burst of starts, and no longer: users, programs and
# directories change.
_PLAN_HOLDS_S = 2.0
_PLANS_MAX = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """`moved_from`: the port that this slot should have had, or 0. `notes`: what the type asked
    for and does not get here, for people."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: str
    port: int
    options: SpawnOptions
    moved_from: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Powers:
    """What can be enforced on this host; `inability`: what cannot and why, for people."""

    abilities: tuple[Ability, ...] = ()
    inability: str = ""


def powers_of(contained: Contained, *, is_root: bool) -> Powers:
    """`is_root`: the agent is, so it may run processes as somebody else."""
    found: list[Ability] = []
    if contained.path:
        found.append(Ability.CGROUP)
        found += [item for item in _CONTROLLED if item.value in contained.controllers]
    problems = [contained.problem] if contained.problem else []
    if is_root:
        found.append(Ability.USER)
    else:
        problems.append("cannot switch users: not root")
    return Powers(abilities=tuple(found), inability="; ".join(problems))


class LaunchError(Exception):
    """The instance cannot be started; the message is its status's reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What all instances of one type of one release share."""

    spec: ProcessType
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: str
    options: SpawnOptions
    notes: tuple[str, ...]
    in_files: Mapping[str, str] = field(repr=False)


_CONTROLLED = (Ability.CPU, Ability.MEMORY, Ability.PIDS)
# Frozen, so that everybody may have the same.
_NONE = Powers()
_command = functools.lru_cache(maxsize=1024)(command.plan)


class Launcher:
    """`files_max`: how many files this agent may have open; None is no limit. `now_s`: a clock
    that never goes back."""

    def __init__(
        self,
        around: Surroundings,
        ports: Ports,
        files_max: int | None = None,
        powers: Powers = _NONE,
        rails: Guardrails = OPEN,
        files: SecretFiles = NOWHERE,
        sandbox: Sandbox | None = None,
        now_s: Callable[[], float] = time.monotonic,
        code: CodeDirs | None = None,
    ) -> None:
        self._around = around
        self.files, self._sandbox, self._code = files, sandbox, code
        self._files_max = files_max
        self._powers = powers
        self._rails = rails
        self._now_s = now_s
        self._plans: dict[tuple[str, int, str], tuple[_Plan, float]] = {}
        self._said: set[tuple[str, str, tuple[str, ...]]] = set()
        self.ports = ports

    def prepare(
        self, assignment: Assignment, release: Release | None, *, running: int = 0
    ) -> Launch:
        """Takes a port for the slot. `running`: process trees beside it. Raises `LaunchError`."""
        if self._files_max is not None:
            needed = _FILES_ELSE + _FILES_EACH * (running + 1)
            if needed > self._files_max:
                raise LaunchError(f"too many open files: raise LimitNOFILE (now {self._files_max})")
        spec = spec_of(release, assignment)
        if release is None or spec is None:
            raise LaunchError(f"v{assignment.release} is not known here")
        plan = self._planned(release, spec)
        try:
            port = self._port(assignment, release, spec)
            self.files.place(assignment.uid, plan.in_files, plan.options.user)
        except (PortError, NoPlaceError) as error:
            raise LaunchError(str(error)) from error
        return self._launch(plan, assignment, port)

    def recall(self, assignment: Assignment, release: Release | None, port: int) -> Launch | None:
        """How a process that runs already would be started now; takes nothing. None: not known."""
        spec = spec_of(release, assignment)
        if release is None or spec is None:
            return None
        try:
            plan = self._planned(release, spec)
        except LaunchError:
            return None
        return self._launch(plan, assignment, Port(number=port))

    def _launch(self, plan: _Plan, assignment: Assignment, port: Port) -> Launch:
        env = instance_environment(plan.env, assignment, port.number)
        return Launch(
            argv=plan.argv,
            env={**env, **self.files.variables(assignment.uid, plan.in_files)},
            cwd=plan.cwd,
            port=port.number,
            options=plan.options,
            moved_from=port.moved_from or 0,
            notes=plan.notes,
        )

    def _port(self, assignment: Assignment, release: Release, spec: ProcessType) -> Port:
        if spec.port:
            return self.ports.take_fixed(assignment.slot, spec.port)
        index = next((i for i, item in enumerate(release.types) if item.name == spec.name), None)
        return self.ports.take(assignment.slot, len(release.types) if index is None else index)

    def _planned(self, release: Release, spec: ProcessType) -> _Plan:
        name, now_s = (release.app, release.number, spec.name), self._now_s()
        plan, until_s = self._plans.get(name, (None, 0.0))
        # Usually the same object; a run's is made anew each time.
        same = plan is not None and (plan.spec is spec or plan.spec == spec)
        if plan is None or not same or until_s <= now_s:
            plan = self._plan(release, spec)
            if len(self._plans) >= _PLANS_MAX:
                self._plans.clear()
            self._plans[name] = plan, now_s + _PLAN_HOLDS_S
        return plan

    def _plan(self, release: Release, spec: ProcessType) -> _Plan:
        notes = self._notes(release, spec)
        _check_secrets(release, spec)
        who = self._who(spec)
        env = type_environment(self._around, release, spec, who.env)
        base = self._code_of(release) if release.artifact else release.workdir or env["HOME"]
        cwd = os.path.join(base, spec.workdir) if spec.workdir else base
        planned = _command(spec.command)
        _check(planned, env["PATH"], cwd)
        return _Plan(
            spec=spec,
            argv=planned.argv,
            env=env,
            cwd=cwd,
            options=self._options(spec, who, self._within(release)),
            notes=notes,
            in_files={name: release.secrets[name].value for name in spec.secret_files},
        )

    def _options(self, spec: ProcessType, who: Account, within: tuple[str, ...]) -> SpawnOptions:
        return SpawnOptions(
            umask=spec.umask if spec.umask >= 0 else None,
            user=who.user,
            rlimits=_rlimits(spec.limits),
            nice=spec.nice,
            limits=_enforced(spec.limits, self._powers.abilities),
            notify=spec.notify or spec.watchdog_s > 0,
            fence_s=spec.stop_grace_s if spec.exclusive else None,
            within=within,
            sandbox=self._sandbox,
        )

    def building(self, release: Release, uid: str, slot: Slot) -> Launch:
        """How its build is run in what was unpacked of it. Raises `LaunchError`."""
        assert self._code is not None
        spec, cwd = build_type(release), str(self._code.path(release.app, code_name(release)))
        who = self._who(spec)
        env = type_environment(self._around, release, spec, who.env)
        planned = _command(spec.command)
        _check(planned, env["PATH"], cwd)
        allowed, sandbox = self._rails.directories, self._sandbox
        options = replace(
            self._options(spec, who, (*allowed, cwd) if allowed else ()),
            sandbox=sandbox and replace(sandbox, writable=(*sandbox.writable, cwd)),
        )
        return Launch(
            argv=planned.argv,
            env=build_environment(env, uid, slot.short),
            cwd=cwd,
            port=0,
            options=options,
        )

    def _code_of(self, release: Release) -> str:
        """Where it was unpacked to. Raises `LaunchError` when it is gone."""
        name = release.app, code_name(release)
        if self._code is None or not self._code.is_here(*name):
            raise LaunchError("its code is gone from this host: it is fetched again")
        return str(self._code.path(*name))

    def _within(self, release: Release) -> tuple[str, ...]:
        """What we have unpacked ourselves may run wherever else nothing may."""
        allowed = self._rails.directories
        return (*allowed, self._code_of(release)) if allowed and release.artifact else allowed

    def _who(self, spec: ProcessType) -> Account:
        """Raises `LaunchError` for whom there is not, or this machine does not allow."""
        uid, gid = os.geteuid(), os.getegid()
        user = spec.user or self._rails.default_user
        try:
            found = account(user, spec.group, our_uid=uid, our_gid=gid)
        except NoAccount as error:
            raise LaunchError(str(error)) from error
        runs_as = found.user or User(uid=uid, gid=gid, groups=(), name=name_of(uid))
        gids = {runs_as.gid, *runs_as.groups}
        wrong = objection(self._rails, name=runs_as.name, uid=runs_as.uid, gids=gids)
        if wrong:
            raise LaunchError(wrong)
        return found

    def _notes(self, release: Release, spec: ProcessType) -> tuple[str, ...]:
        """What is started without. Raises `LaunchError` for what the type requires."""
        missing = [item for item in spec.requires if item not in self._powers.abilities]
        why = f" ({self._powers.inability})" if self._powers.inability else ""
        if missing:
            raise LaunchError(f"requires {_listed(missing)}, which this host cannot enforce{why}")
        without = [item for item in _asked(spec.limits) if item not in self._powers.abilities]
        if not without:
            return ()
        notes = (f"runs without its limit of {_listed(without)}, which this host lacks{why}",)
        self._say(release.app, spec.name, notes)
        return notes

    def _say(self, app: str, type_name: str, notes: tuple[str, ...]) -> None:
        if (app, type_name, notes) not in self._said:
            self._said.add((app, type_name, notes))
            for note in notes:
                log.warning("%s/%s %s", app, type_name, note)


def _check_secrets(release: Release, spec: ProcessType) -> None:
    """Raises `LaunchError` for what is not there: a process that does without fails later, and
    says less."""
    absent = missing(spec, release.secrets)
    if absent:
        raise LaunchError(f"secret {absent[0]} is not set: formctl secret set {absent[0]}")
    for name in sorted(needed(spec, release.secrets)):
        if not release.secrets[name].value:
            raise LaunchError(
                f"secret {name} came without its value, since no coordinator has its key: "
                f"give them the key, or set it again: formctl secret set {name}"
            )


def _asked(limits: Limits) -> Mapping[Ability, tuple[str, float]]:
    """Limits of the tree by what enforces them: name and number, as the keeper takes them."""
    asked = {
        Ability.CPU: ("cpus", limits.cpus),
        Ability.MEMORY: ("memory_bytes", limits.memory_bytes),
        Ability.PIDS: ("pids", limits.pids),
    }
    return {ability: limit for ability, limit in asked.items() if limit[1]}


def _enforced(limits: Limits, abilities: Collection[Ability]) -> dict[str, float]:
    return dict(limit for ability, limit in _asked(limits).items() if ability in abilities)


def _rlimits(limits: Limits) -> dict[str, tuple[int, int]]:
    for name in limits.rlimits:
        if not hasattr(resource, f"RLIMIT_{name.upper()}"):
            raise LaunchError(f"rlimit {name} is not known on this host: take it out of the type")
    return {name: (value, value) for name, value in limits.rlimits.items()}


def _listed(abilities: Collection[Ability]) -> str:
    return " and ".join(ability.value for ability in abilities)


def _check(planned: command.Command, path: str, cwd: str) -> None:
    """A shell would only exit 127: say it better, before it starts. Raises `LaunchError`."""
    program = planned.program
    if program is None or program == planned.argv[0] or not os.path.isdir(cwd):
        return  # the keeper looks for these itself
    if command.find_program(program, path, cwd, _is_executable) is None:
        raise LaunchError(f"command not found: {program}")


def _is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
