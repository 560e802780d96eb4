"""An HTTP server that can say how it is: 200 from /health, or 503 while the file `broken` exists."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        broken = self.path == "/health" and os.path.exists("broken")
        self.send_response(503 if broken else 200)
        self.end_headers()
        self.wfile.write(f"{os.environ['PS']} is {'broken' if broken else 'fine'}\n".encode())

    def log_request(self, code="-", size="-"):
        if self.path != "/health":
            super().log_request(code, size)


ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
