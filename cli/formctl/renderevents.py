"""Events as people see them, one line each. Pure."""

from __future__ import annotations

from typing import Protocol

from formctl.render import local_time
from formctl.tables import printable

_RESET = "\x1b[0m"
_CODES = {"good": "32", "bad": "31", "": ""}
_GOOD = frozenset(
    {
        "instance.healthy", "instance.finished", "host.connected", "app.arrived", "run.finished",
        "cluster.resumed",
    }
)  # fmt: skip
_BAD = frozenset(
    {
        "instance.backoff", "instance.failed", "instance.unready", "host.silent",
        "host.complains", "app.undone", "run.failed", "run.lost", "cluster.held",
    }
)  # fmt: skip


# What is not plain from a name alone.
_NAMED = {"host": "host", "cluster": "coordinator", "app": "app", "run": "run"}


class Event(Protocol):
    """As the protocol has it."""

    at_ms: int
    what: str
    subject: str
    app: str
    host: str
    text: str


def is_about(what: str, word: str) -> bool:
    """`host` is every event of hosts, `host.silent` just that."""
    return not word or what == word or what.startswith(f"{word}.")


def kind_of(what: str) -> str:
    """good, bad, or "" for what is neither."""
    return "good" if what in _GOOD else "bad" if what in _BAD else ""


def line(event: Event, *, colour: bool) -> str:
    kind = event.what.partition(".")[0]
    where = f" on {event.host}" if event.host and kind != "host" else ""
    text = f"{printable(event.text)}{printable(where)}"
    subject = f"{_NAMED[kind]} {event.subject}" if kind in _NAMED else event.subject
    code = _CODES[kind_of(event.what)]
    shown = f"\x1b[{code}m{text}{_RESET}" if colour and code else text
    return f"{local_time(event.at_ms)}  {printable(subject)}  {shown}"
