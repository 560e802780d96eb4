"""A list that is drawn again in its place."""

from __future__ import annotations

from formation.model import InstanceState, InstanceStatus, Slot
from formctl.views import Instance, Update
from formctl.watchframe import changes, frame


def instance(number: int, state: InstanceState = InstanceState.HEALTHY, told: str = "") -> Instance:
    status = InstanceStatus(
        uid=f"u{number}", slot=Slot("shop", "web", number), release=1, state=state, told=told
    )
    return Instance(status=status, host="a")


def shown(text: str) -> list[str]:
    return text.removeprefix("\x1b[H").removesuffix("\n\x1b[J").replace("\x1b[K", "").split("\n")


def test_what_fits_is_shown_as_it_is() -> None:
    drawn = frame("HEAD\none\ntwo", ["changed"], columns=80, rows=24)
    assert shown(drawn) == ["HEAD", "one", "two", "changed"]
    assert "\x1b[2J" not in drawn


def test_what_does_not_fit_is_counted_in_instances_and_the_last_row_stays_free() -> None:
    text = "\n".join(["HEAD", *(f"web.{n}\n    a long note" for n in range(30))])
    lines = shown(frame(text, [], columns=80, rows=10))
    assert len(lines) == 9
    assert lines[-1] == "and 26 more; formctl top scrolls"


def test_a_long_line_is_cut_with_its_colours() -> None:
    lines = shown(frame("\x1b[32m" + "x" * 50 + "\x1b[0m", [], columns=20, rows=10))
    assert lines == ["x" * 19 + "…"]
    assert shown(frame("\x1b[32mok\x1b[0m", [], columns=20, rows=10)) == ["\x1b[32mok\x1b[0m"]


def test_a_small_window_has_no_room_for_changes() -> None:
    assert "changed" not in frame("HEAD", ["changed"], columns=80, rows=4)


def test_what_changed_is_said_once_and_safely() -> None:
    before = {"u1": instance(1), "u2": instance(2)}
    backoff = instance(1, InstanceState.BACKOFF)
    update = Update(changed=(backoff, instance(2), instance(3, told="hi\x1b[2J")))
    assert changes(before, update, [instance(9)], now_ms=0) == [
        "web.9 has gone from a",
        "web.1 backoff on a",
        r"web.3 healthy on a: hi\x1b[2J",
    ]
    assert changes({}, update, [], now_ms=0) == []
