"""Commands that people run beside the instances of this host: which may, and which are there.

Told by the supervisor what runs, as `health` is, so that a command starts as its instance was
started and ends when that does. See docs/design/exec.md.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from formation.execflow import COMMAND_CHARS_MAX
from formation.model import ProcessType
from formation_agent import command, link, streams
from formation_agent.children import EXEC_MARK
from formation_agent.execrun import ExecRun
from formation_agent.happenings import Event, SpawnOptions
from formation_agent.launch import Launch
from formation_agent.processes import PROBE

RUNS_MAX = 64
# Of one instance: who may run commands beside it takes no other one's place.
RUNS_EACH_MAX = 16
_TERMINAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_TERMINAL_DEFAULT = "xterm"


class Children(Protocol):
    """What is needed of `processes.Processes`."""

    knows: frozenset[str]

    def spawn(
        self,
        key: str,
        *,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        options: SpawnOptions,
        on_event: Callable[[Event], None],
    ) -> None: ...
    def signal(self, key: str, signum: int, *, whole_group: bool = True) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """`terminal`: its name and size, or None for pipes."""

    uid: str
    command: str
    terminal: tuple[str, int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Host:
    """A process beside which something may run."""

    key: str
    launch: Launch | None


class ExecRefused(Exception):
    """It does not begin; one line."""


class Execs:
    """`allowed`: the machine's owner lets people run commands here."""

    def __init__(self, children: Children, *, allowed: bool) -> None:
        self._children, self._allowed = children, allowed
        self._hosts: dict[str, _Host] = {}  # by uid, those that run and shall go on
        self._runs: dict[str, tuple[str, ExecRun]] = {}  # by key, with the uid
        self._numbers = itertools.count(1)

    # -- what the supervisor tells -----------------------------------------------------------------

    def watch(
        self,
        uid: str,
        attempt: int,
        spec: ProcessType,
        launch: Launch | None,
        pid: int,
        port: int,
        notify_fd: int,
        ready: bool,
    ) -> None:
        """See `rooms.Health`."""
        self._hosts[uid] = _Host(key=f"{uid}:{attempt}", launch=launch)

    def relax(self, uid: str) -> None:
        """It is being ended: what runs beside it ends now, and nothing begins any more."""
        if self._hosts.pop(uid, None) is None:
            return
        for of, run in [*self._runs.values()]:
            if of == uid:
                run.end("its instance ends")

    def unwatch(self, uid: str) -> None:
        """Its process is gone."""
        self.relax(uid)

    # -- what people ask for -----------------------------------------------------------------------

    def begin(self, wanted: Wanted) -> ExecRun:
        """Whether it could be started is told by its events. Raises `ExecRefused`."""
        launch, key = self._place_for(wanted)
        try:
            ours = (
                streams.pipes()
                if wanted.terminal is None
                else streams.terminal(*wanted.terminal[1:])
            )
        except OSError as error:
            raise ExecRefused(f"no terminal or pipe can be made: {error.strerror}") from error
        name = f"{PROBE}exec:{wanted.uid}:{os.getpid()}.{next(self._numbers)}"
        run = ExecRun(name, ours, self._children, lambda: self._forget(name))
        self._runs[name] = wanted.uid, run
        self._children.spawn(
            name,
            argv=command.plan(wanted.command).argv,
            env={**launch.env, EXEC_MARK: name, **_terminal_variables(wanted)},
            cwd=launch.cwd,
            options=replace(
                launch.options,
                notify=False,
                limits={},
                fence_s=None,
                join=key,
                streams=ours.theirs,
                terminal=ours.is_terminal,
            ),
            on_event=run.hear,
        )
        return run

    def _place_for(self, wanted: Wanted) -> tuple[Launch, str]:
        host = self._hosts.get(wanted.uid)
        if not self._allowed:
            raise ExecRefused("this machine's owner forbids it (formation-agent --no-exec)")
        if host is None:
            raise ExecRefused("its instance does not run any more")
        if host.launch is None:
            raise ExecRefused("how its instance was started is not known: formctl restart it")
        if link.STREAMS not in self._children.knows:
            raise ExecRefused("the keeper is older than its brain: formation-agent reexec")
        if len(self._runs) >= RUNS_MAX:
            raise ExecRefused(f"{RUNS_MAX} commands run beside instances here already")
        if sum(of == wanted.uid for of, _ in self._runs.values()) >= RUNS_EACH_MAX:
            raise ExecRefused(f"{RUNS_EACH_MAX} commands run beside this instance already")
        if not wanted.command.strip() or len(wanted.command) > COMMAND_CHARS_MAX:
            raise ExecRefused("the command is empty or too long")
        return host.launch, host.key

    def _forget(self, name: str) -> None:
        self._runs.pop(name, None)

    def close(self) -> None:
        """This brain ends."""
        for _, run in self._runs.values():
            run.stop_timers()


def _terminal_variables(wanted: Wanted) -> dict[str, str]:
    if wanted.terminal is None:
        return {}
    name = wanted.terminal[0]
    return {"TERM": name if _TERMINAL_NAME.fullmatch(name) else _TERMINAL_DEFAULT}
