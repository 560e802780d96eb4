"""A web type: answers with its uid, and ends when it is told to, after what it has begun."""

from __future__ import annotations

import http.server
import os
import signal
import socketserver
import threading

UID = os.environ["FORMATION_INSTANCE"].encode()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(UID)))
        self.end_headers()
        self.wfile.write(UID)

    def log_message(self, *_words: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    request_queue_size = 128


server = Server(("0.0.0.0", int(os.environ["PORT"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(poll_interval=0.05)
