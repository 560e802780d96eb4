"""A new leader stamps all silent hosts anew: that is no reason to count what they have again."""

from __future__ import annotations

import pytest
from worlds import app, host, release, stay, world

from formation_coordinator import book, counting
from formation_coordinator.world import HostEntry, World, restamp_silence


@pytest.fixture
def given() -> World:
    hosts = (host("a", stay("web.1")), host("b", stay("web.2"), silent_since_s=1.0))
    return world(*hosts, apps=app({"web": 2}), releases=(release("web"),))


def test_the_book_has_the_new_stamp_without_counting(
    given: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = book.Book()
    ours.look(given)

    def counted(self: book.Book, entry: HostEntry) -> None:
        raise AssertionError(f"{entry.name} was counted again")

    monkeypatch.setattr(book.Book, "_counted", counted)
    ours.look(restamp_silence(given, now_s=50.0))
    assert ours.entry(ours.rows["b"]).silent_since_s == 50.0


def test_lists_count_nothing_again(given: World, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counting.HealthyCounts()
    assert counts.of_app(given, "shop") == 1

    def counted(entry: HostEntry) -> None:
        raise AssertionError(f"{entry.name} was counted again")

    monkeypatch.setattr(counting, "_count", counted)
    now = restamp_silence(given, now_s=50.0)
    assert not [*counts.catch_up(now)]
    assert (counts.of_app(now, "shop"), counts.of_host(now, "a")) == (1, 1)
