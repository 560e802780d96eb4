"""A real HAProxy in front of an app, kept right by `formctl endpoints`, and requests that count."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import Self

from cluster import BIN, Cluster
from running import free_port

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin") or ""
RELOAD = Path(__file__).resolve().parents[2] / "deploy" / "haproxy" / "haproxy-reload"
# HTTP/1.1 with kept connections, and no manners at all: SIGTERM ends it in the middle of whatever
# it does. That no request is lost is not its merit.
SERVER = """\
import asyncio, os

ANSWER = os.environ["VERSION"].encode()
HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(ANSWER)

class Web(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.asked = transport, b""
    def data_received(self, data):
        self.asked += data
        while b"\\r\\n\\r\\n" in self.asked:
            self.asked = self.asked.partition(b"\\r\\n\\r\\n")[2]
            self.transport.write(HEAD + ANSWER)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Web, "127.0.0.1", int(os.environ["PORT"]), backlog=128)
    await server.serve_forever()

asyncio.run(main())
"""
# As docs/discovery.md says that it should be.
CONFIG = """\
global
    stats socket {directory}/haproxy.sock mode 600 level admin expose-fd listeners
    hard-stop-after 30s
    nbthread 1
    maxconn 500

defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 10s
    timeout http-keep-alive 30s
    option idle-close-on-response
    option redispatch 1
    retries 3
    retry-on conn-failure empty-response
    default-server inter 500ms fall 2 rise 1 observe layer4 error-limit 3 on-error mark-down

frontend all
    bind 127.0.0.1:{port}
    default_backend shop_web
"""


class Balancer:
    """HAProxy, and the `formctl endpoints --watch` that tells it who is there."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self.port = cluster, free_port()
        self.directory = cluster.directory / "haproxy"
        self.directory.mkdir()
        self.servers_file = self.directory / "shop.cfg"
        self.reloads = self.directory / "reloads"
        self.reloads.touch()
        self._programs: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        base = self.directory / "base.cfg"
        base.write_text(CONFIG.format(directory=self.directory, port=self.port))
        first = self._cluster.formctl("endpoints", "web", "-o", "haproxy").stdout
        self.servers_file.write_text(first)
        # -W: a master that starts another worker at SIGUSR2, and hands the listeners on.
        haproxy = self._start(HAPROXY, "-W", "-f", str(base), "-f", str(self.servers_file))
        self._cluster.wait(lambda: self.servers() is not None, what="HAProxy answers")
        tell = f"date +%s.%N >> {self.reloads}; {RELOAD} {haproxy.pid}"
        self._start(
            *(str(BIN / "formctl"), "endpoints", "web", "--watch", "-o", "haproxy"),
            *("--out", str(self.servers_file), "--run", f'sh -c "{tell}"'),
        )
        return self

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        environment = self._cluster.environment()
        environment["FORMATION_COORDINATOR"] = ",".join(self._cluster.coordinators.values())
        with (self.directory / f"{Path(words[0]).name}.log").open("ab") as log:
            program = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                cwd=self.directory,
            )  # fmt: skip
        self._programs.append(program)
        return program

    def __exit__(self, *_: object) -> None:
        for program in reversed(self._programs):
            program.send_signal(signal.SIGTERM)
        for program in self._programs:
            try:
                program.wait(timeout=10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()

    def seen(self) -> str:
        """All that could tell why it has not what it should."""
        files = [self.servers_file, self.reloads, *sorted(self.directory.glob("*.log"))]
        return f"{self.servers()}\n" + "\n".join(f"--{f.name}\n{f.read_text()}" for f in files)

    def servers(self) -> set[tuple[str, str]] | None:
        """(name, address:port) of those that HAProxy has now; None: it does not answer."""
        said = self.ask("show servers conn shop_web")
        if not said:
            return None
        rows = (line.split() for line in said.splitlines() if line and line[0] != "#")
        # "shop_web/web.1 2/1 127.0.0.1 20000 - …"
        return {(row[0].partition("/")[2], f"{row[2]}:{row[3]}") for row in rows if len(row) > 3}

    def ask(self, question: str) -> str:
        answer = b""
        try:
            with socket.socket(socket.AF_UNIX) as asked:
                asked.settimeout(5.0)
                asked.connect(str(self.directory / "haproxy.sock"))
                asked.sendall(f"{question}\n".encode())
                while part := asked.recv(65_536):
                    answer += part
        except OSError:
            return ""
        return answer.decode()

    def reload_times(self) -> list[float]:
        """Wall clock, of each that was asked for."""
        return (
            [float(line) for line in self.reloads.read_text().split()]
            if self.reloads.exists()
            else []
        )


class Load:
    """Clients that ask all the time: half of them on kept connections, half on a new one each."""

    def __init__(self, port: int, clients: int = 8, pause_s: float = 0.01) -> None:
        self._port, self._clients, self._pause_s = port, clients, pause_s
        self.phase = "before"
        self.heard: dict[str, Counter[str]] = {}
        self.failed: dict[str, list[str]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def failures(self, phase: str) -> list[str]:
        return self.failed.get(phase, [])

    def answers(self, phase: str) -> int:
        return sum(self.heard.get(phase, Counter()).values())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._client(kept=number % 2 == 0))

    async def _client(self, *, kept: bool) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._over.is_set():
            phase = self.phase
            try:
                async with asyncio.timeout(15.0):
                    connection = connection or await asyncio.open_connection(
                        "127.0.0.1", self._port
                    )
                    text, goes_on = await _asked(*connection, kept=kept)
                self.heard.setdefault(phase, Counter())[text] += 1
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                self.failed.setdefault(phase, []).append(f"{kept=} {error!r}")
                goes_on = False
            if connection and not goes_on:
                connection[1].close()
                connection = None
            await asyncio.sleep(self._pause_s)
        if connection:
            connection[1].close()


async def _asked(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, kept: bool
) -> tuple[str, bool]:
    """The answer's text, and whether the connection may be used again."""
    word = "keep-alive" if kept else "close"
    writer.write(f"GET / HTTP/1.1\r\nHost: shop\r\nConnection: {word}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    if " 200 " not in head.partition("\r\n")[0]:
        raise ValueError(head.partition("\r\n")[0])
    length = int(head.partition("content-length:")[2].partition("\r\n")[0])
    return (await reader.readexactly(length)).decode(), kept and "connection: close" not in head
