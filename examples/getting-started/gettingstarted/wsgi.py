"""The web process: gunicorn gettingstarted.wsgi"""

import json

from gettingstarted import VERSION, config


def page():
    words = " ".join([config.GREETING] * config.TIMES)
    return "text/plain; charset=utf-8", f"{words}! from {config.NAME}, version {VERSION}\n"


def health():
    return "application/json", json.dumps({"version": VERSION, "signed": config.IS_SIGNED}) + "\n"


PAGES = {"/": page, "/health": health}


def application(environ, start_response):
    found = PAGES.get(environ["PATH_INFO"])
    if found is None:
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"there is no such page\n"]
    kind, body = found()
    start_response("200 OK", [("Content-Type", kind)])
    return [body.encode()]
