"""Several rooms that watch over processes, told by the supervisor as one."""

from __future__ import annotations

from formation.model import ProcessType
from formation_agent.launch import Launch
from formation_agent.rooms import Health


class Watchers:
    """See `rooms.Health`. `health` comes last: it takes `notify_fd` over."""

    def __init__(self, *rooms: Health) -> None:
        self._rooms = rooms

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
        for room in self._rooms:
            room.watch(uid, attempt, spec, launch, pid, port, notify_fd, ready)

    def relax(self, uid: str) -> None:
        for room in self._rooms:
            room.relax(uid)

    def unwatch(self, uid: str) -> None:
        for room in self._rooms:
            room.unwatch(uid)
