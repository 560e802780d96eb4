"""From an assignment to what the keeper needs: argv, environment, directory, port.

Looks at the disk (is the program there?), starts nothing.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from formation.model import Assignment, Release
from formation_agent import command
from formation_agent.environment import Surroundings, child_environment
from formation_agent.ports import Ports, PortsExhausted


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """`moved_from`: the port that this slot should have had, or 0."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    port: int
    moved_from: int = 0


# What one instance takes here: two pipes, its pidfd, its log file, and one for a reader of that.
_FILES_EACH = 5
# For sessions, the journal and what a start takes for a moment.
_FILES_ELSE = 64


class LaunchError(Exception):
    """The instance cannot be started; the message is its status's reason."""


_plan = functools.lru_cache(maxsize=1024)(command.plan)


class Launcher:
    """`files_max`: how many files this agent may have open; None is no limit."""

    def __init__(self, around: Surroundings, ports: Ports, files_max: int | None = None) -> None:
        self._around = around
        self._files_max = files_max
        self.ports = ports

    def prepare(
        self, assignment: Assignment, release: Release | None, *, running: int = 0
    ) -> Launch:
        """Takes a port for the slot. `running`: process trees beside it. Raises `LaunchError`."""
        if self._files_max is not None:
            needed = _FILES_ELSE + _FILES_EACH * (running + 1)
            if needed > self._files_max:
                raise LaunchError(f"too many open files: raise LimitNOFILE (now {self._files_max})")
        spec = release.type_named(assignment.slot.type) if release else None
        if release is None or spec is None:
            raise LaunchError(f"v{assignment.release} is not known here")
        try:
            port = self.ports.take(assignment.slot, release.types.index(spec))
        except PortsExhausted as error:
            raise LaunchError(str(error)) from error
        env = child_environment(self._around, release, assignment, port.number)
        cwd = release.workdir or env["HOME"]
        planned = _plan(spec.command)
        _check(planned, env["PATH"], cwd)
        return Launch(
            argv=planned.argv, env=env, cwd=cwd, port=port.number, moved_from=port.moved_from or 0
        )


def _check(planned: command.Command, path: str, cwd: str) -> None:
    """A shell would only exit 127: say it better, before it starts. Raises `LaunchError`."""
    program = planned.program
    if program is None or program == planned.argv[0] or not os.path.isdir(cwd):
        return  # the keeper looks for these itself
    if command.find_program(program, path, cwd, _is_executable) is None:
        raise LaunchError(f"command not found: {program}")


def _is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
