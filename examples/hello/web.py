"""Answers every request with the name of the instance that got it."""

import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = os.environ.get("PS", "web")
PORT = int(os.environ.get("PORT", "5000"))


class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"hello from {NAME}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *arguments):
        print(f"{self.address_string()} {format % arguments}", flush=True)


def stop(signum, frame):
    print(f"{NAME} stops", flush=True)
    sys.exit(0)


signal.signal(signal.SIGTERM, stop)
server = ThreadingHTTPServer(("", PORT), Hello)
print(f"{NAME} listens on port {PORT}", flush=True)
server.serve_forever()
