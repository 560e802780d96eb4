"""The smallest WSGI app that shows where it runs."""

import os


def application(environ, start_response):
    body = f"hello from {os.environ.get('PS', '?')} pid {os.getpid()} {os.environ.get('GREETING', '')}\n"
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [body.encode()]
