"""Events as lines for people."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from formctl.renderevents import is_about, line


@dataclass
class Event:
    what: str
    subject: str
    text: str
    host: str = ""
    app: str = ""
    at_ms: int = 1_700_000_000_000


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (Event("instance.healthy", "shop/web.1", "healthy", "a"), "shop/web.1  healthy on a"),
        (Event("host.silent", "a", "does not answer", "a"), "host a  does not answer"),
        (Event("app.scaled", "shop", "web: 1 -> 2"), "app shop  web: 1 -> 2"),
        (Event("cluster.leader", "c1", "leads"), "coordinator c1  leads"),
    ],
)
def test_a_line_says_whom_what_and_where(event: Event, shown: str) -> None:
    assert line(event, colour=False).split("  ", 1)[1] == shown


def test_good_and_bad_have_a_colour_and_hostile_texts_have_no_power() -> None:
    bad = Event("instance.backoff", "shop/web.1", "exit \x1b[2J1", "a")
    assert "\x1b[31m" in line(bad, colour=True)
    assert "\x1b" not in line(bad, colour=False)
    assert "\x1b[2J" not in line(bad, colour=True)
    assert "\x1b[32m" in line(Event("app.arrived", "shop", "v2 runs everywhere"), colour=True)


def test_a_word_chooses_a_kind_or_one_event() -> None:
    assert is_about("host.silent", "")
    assert is_about("host.silent", "host")
    assert is_about("host.silent", "host.silent")
    assert not is_about("host.silent", "hos")
    assert not is_about("instance.healthy", "host")
