"""What the supervisor needs of the rooms beside it. Interfaces only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from formation.model import ProcessType, Slot
from formation_agent import processes
from formation_agent.launch import Launch


class Children(Protocol):
    """What is needed of `processes.Processes`."""

    def spawn(
        self,
        key: str,
        *,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        options: processes.SpawnOptions,
    ) -> None: ...
    def signal(self, key: str, signum: int, *, whole_group: bool = True) -> None: ...
    def forget(self, key: str) -> None: ...
    def living(self, key: str) -> tuple[processes.Living, ...]: ...
    def events(self) -> AsyncIterator[processes.Event]: ...
    def lease(self, until_s: float) -> None: ...

    lease_until_s: float


class LogRoom(Protocol):
    """What is needed of `logs.Logs`."""

    def attach(self, slot: Slot, stdout_fd: int, stderr_fd: int) -> None: ...
    def close_pipes(self, slot: Slot) -> None: ...
    def note(self, slot: Slot, text: str) -> None: ...


class Health(Protocol):
    """What is needed of `health.Health`: it watches over processes, and tells what it finds as
    events of the machine, for uid and attempt."""

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
        """A process has started, or one of an earlier brain was found.

        `launch`: how it was started; None when that is not known (it is only stopped).
        `notify_fd` (-1: none) is the watcher's from here on. `ready`: it is known to have been
        ready. A type with `notify` says READY=1 first; its readiness probe counts from then on.
        """

    def relax(self, uid: str) -> None:
        """It is being ended: no probe and no watchdog from now on; what it says is still heard.

        Also called for what is not watched.
        """

    def unwatch(self, uid: str) -> None:
        """Its tree is gone. Also called for what is not watched."""
