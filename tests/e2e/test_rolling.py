"""A rolling update of an HTTP server under constant load, behind a tiny proxy: nobody notices."""

from __future__ import annotations

import http.client
import json
import socket
import socketserver
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from cluster import BIN, Cluster

SERVER = """\
import http.server, os, signal, socketserver, threading, time

asked_s = time.monotonic()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    def do_GET(self):
        global asked_s
        asked_s = time.monotonic()
        body = os.environ["VERSION"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = False
    request_queue_size = 128

server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)

def end():
    # Whoever still comes is answered; when nobody has come for a second, nobody will.
    while time.monotonic() - asked_s < 1:
        time.sleep(0.05)
    server.shutdown()

signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=end).start())
server.serve_forever(poll_interval=0.05)
server.server_close()
"""
MANIFEST = """\
app = "shop"
[types.web]
command = "python3 server.py"
quantity = 3
ready.http = "/"
rollout.healthy = "500ms"
stop.grace = "60s"
"""


class Proxy(socketserver.ThreadingTCPServer):
    """Hands each connection to one of those that are healthy; where nobody listens any more nothing
    was sent, and the next one gets it, as with any balancer."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, ports: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.ports, self._next = ports, 0

    def connect(self) -> socket.socket:
        for _ in range(10):
            self._next += 1
            now = self.ports
            try:
                return socket.create_connection(("127.0.0.1", now[self._next % len(now)]), 10)
            except ConnectionRefusedError:
                continue
        raise ConnectionRefusedError("nobody listens")


class _Relay(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        asked = self.request.recv(65_536)
        with self.server.connect() as upstream:
            upstream.sendall(asked)
            while answer := upstream.recv(65_536):
                self.request.sendall(answer)


class Watch(threading.Thread):
    """Keeps the proxy right, by `formctl ps --watch`; `fewest`: that were there at any time."""

    def __init__(self, cluster: Cluster, proxy: Proxy) -> None:
        super().__init__(daemon=True)
        environment = {**cluster.environment(), "FORMATION_COORDINATOR": cluster.coordinators["c1"]}
        words = [str(BIN / "formctl"), "ps", "--watch", "-o", "json"]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, env=environment, cwd=cluster.directory
        )
        self._proxy, self.fewest = proxy, len(proxy.ports)

    def run(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            rows = json.loads(line)
            now = [
                row["port"]
                for row in rows
                if row["state"] == "healthy" and not (row["surplus"] or row["host_silent"])
            ]
            self.fewest = min(self.fewest, len(now))
            self._proxy.ports = now or self._proxy.ports

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Load(threading.Thread):
    """One client that asks again and again, and counts what it hears."""

    def __init__(self, port: int, stop: threading.Event) -> None:
        super().__init__()
        self._port, self._stop_event = port, stop
        self.heard: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._stop_event.is_set():
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
                connection.request("GET", "/")
                self.heard[connection.getresponse().read().decode()] += 1
                connection.close()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        made.start_coordinator()
        for name in "ab":
            made.start_agent(name)
        made.wait_hosts(2)
        made.app({"formation.toml": MANIFEST, "server.py": SERVER, ".env": "VERSION=one\n"})
        made.formctl("apply", "shop")
        yield made


def test_no_request_fails_while_a_new_release_replaces_every_instance(cluster: Cluster) -> None:
    proxy = Proxy([row["port"] for row in cluster.healthy().values()])
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    watch, stop = Watch(cluster, proxy), threading.Event()
    clients = [Load(proxy.server_address[1], stop) for _ in range(4)]
    for thread in (watch, *clients):
        thread.start()
    try:
        (cluster.directory / "shop" / ".env").write_text("VERSION=two\n")
        cluster.formctl("apply", "shop")
        assert cluster.json("rollout")["phase"] == "done"
    finally:
        stop.set()
        for client in clients:
            client.join()
        watch.end()
        proxy.shutdown()
        proxy.server_close()
    heard = sum((client.heard for client in clients), Counter[str]())
    failures = [failure for client in clients for failure in client.failures]
    assert failures == [], heard
    assert set(heard) == {"one", "two"}
    assert watch.fewest == 3, "never fewer than were there before"
