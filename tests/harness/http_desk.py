"""An HTTP server in threads of the test's own process, for tests that do not run a loop: it tells
what it is told to tell, and keeps what it is given."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HttpDesk:
    """`text` None: requests are taken and never answered."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.status, self.text = 200, "0"
        self.hangs = threading.Event()
        self.posted: list[tuple[dict[str, str], bytes]] = []
        self.ending = threading.Event()

    def types(self) -> list[str]:
        return [self.body(n)["type"] for n in range(len(self.posted))]

    def body(self, number: int) -> Any:
        return json.loads(self.posted[number][1])


@contextmanager
def http_desk() -> Iterator[HttpDesk]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            desk.posted.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self._answer()

        def _answer(self) -> None:
            if desk.hangs.is_set():
                desk.ending.wait()
                return
            body = desk.text.encode()
            self.send_response(desk.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    desk = HttpDesk(f"http://127.0.0.1:{server.server_address[1]}/x")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield desk
    finally:
        desk.ending.set()
        server.shutdown()
        thread.join()
        server.server_close()
