"""A brain that does what a test tells it: commands and events as JSON lines on a Unix socket.

Run by a real keeper as `python fake_brain.py SOCKET`; `KeeperRig` is the other end.
"""

from __future__ import annotations

import array
import asyncio
import base64
import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from formation_agent.processes import (
    PROBE,
    Child,
    Event,
    Exited,
    KeeperGone,
    Processes,
    SpawnOptions,
    Started,
    User,
    describe_exit,
)
from formation_agent.takeover import CHECK_VARIABLE

KEEPER_GONE_CODE = 7


class FakeBrain:
    def __init__(self, processes: Processes, writer: asyncio.StreamWriter) -> None:
        self._processes = processes
        self._writer = writer
        self._locking: set[asyncio.Task[None]] = set()

    def tell(self, event: str, **fields: Any) -> None:
        self._writer.write(json.dumps({"event": event, **fields}).encode() + b"\n")

    def adopt(self, item: Child | Started) -> None:
        for stream, fd in (("stdout", item.stdout_fd), ("stderr", item.stderr_fd)):
            if fd >= 0:
                asyncio.get_running_loop().add_reader(fd, self._relay, item.key, stream, fd)
        if item.notify_fd >= 0:
            end = socket.socket(fileno=item.notify_fd)
            asyncio.get_running_loop().add_reader(end, self._relay_notice, item.key, end)

    def _relay_notice(self, key: str, end: socket.socket) -> None:
        data, ancillary, _, _ = end.recvmsg(4096, 100)
        sender = array.array("i", ancillary[0][2])[0]
        self.tell("Notified", key=key, data=data.decode(), sender=sender)

    def _relay(self, key: str, stream: str, fd: int) -> None:
        data = os.read(fd, 65536)
        if not data:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)
        self.tell("Output", key=key, stream=stream, data=base64.b64encode(data).decode())

    async def obey(self, reader: asyncio.StreamReader) -> None:
        acts: dict[str, Callable[..., Any]] = {
            "spawn": self._spawn,
            "living": self._tell_living,
            "signal": self._processes.signal,
            "forget": self._processes.forget,
            "bye": self._processes.bye,
            "ready": self._processes.ready,
            "status": self._processes.status,
            "again": self._processes.again,
            "exit": os._exit,
        }
        while line := await reader.readline():
            command = json.loads(line)
            name, fields = command["do"], command["with"]
            if name == "lock":
                self._locking.add(asyncio.create_task(self._lock(fields["path"])))
                await asyncio.sleep(0)  # so that it has asked before the next command
            elif name == "contain":
                self._locking.add(asyncio.create_task(self._contain(fields["name"])))
                await asyncio.sleep(0)
            elif name == "exit":
                os._exit(fields["code"])
            else:
                acts[name](*fields.pop("args", ()), **fields)

    async def _lock(self, path: str) -> None:
        try:
            self.tell("Locked", by=await self._processes.lock(path))
        except OSError as error:
            self.tell("LockFailed", errno=error.errno)

    async def _contain(self, name: str) -> None:
        self.tell("Contained", **asdict(await self._processes.contain(name)))

    def _spawn(self, key: str, *, options: dict[str, Any] | None = None, **fields: Any) -> None:
        given = options or {}
        user = User(**given["user"]) if "user" in given else None
        on_event = self.hear if key.startswith(PROBE) else None
        wanted = SpawnOptions(**{**given, "user": user})
        self._processes.spawn(key, options=wanted, on_event=on_event, **fields)

    def _tell_living(self, key: str) -> None:
        living = self._processes.living(key)
        self.tell("LivingOf", key=key, living=[asdict(process) for process in living])

    async def report(self) -> None:
        async for event in self._processes.events():
            self.hear(event)

    def hear(self, event: Event) -> None:
        if isinstance(event, Started):
            self.adopt(event)
        described = describe_exit(event) if isinstance(event, Exited) else ""
        self.tell(type(event).__name__, described=described, **asdict(event))


async def main(path: str) -> None:
    processes = await Processes.connect(int(os.environ["FORMATION_KEEPER_FD"]))
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
    brain = FakeBrain(processes, writer)
    children = [asdict(child) for child in processes.children]
    brain.tell("Connected", pid=os.getpid(), children=children)
    for child in processes.children:
        brain.adopt(child)
    obeying = asyncio.create_task(brain.obey(reader))
    try:
        await brain.report()
    except KeeperGone:
        brain.tell("KeeperGone")
        await writer.drain()
        os._exit(KEEPER_GONE_CODE)
    finally:
        obeying.cancel()


if __name__ == "__main__":
    if CHECK_VARIABLE in os.environ:
        sys.exit(0)
    asyncio.run(main(sys.argv[1]))
