"""How long the map is remembered, and what it costs."""

from __future__ import annotations

from itertools import pairwise

from formation_coordinator.web.album import (
    BEHIND_BYTES_MAX,
    KEPT_MS,
    PART_BYTES,
    PART_MS,
    Album,
)


def filled(
    album: Album, changes: int, *, every_ms: int, data: bytes = b"x", from_ms: int = 0
) -> int:
    """As the shell does it; gives when it was last told something."""
    at_ms = from_ms
    for _ in range(changes):
        at_ms += every_ms
        album.add(at_ms, data)
        if album.wants_picture(at_ms):
            album.begin(at_ms, b"picture %d" % album.number)
    return at_ms


def test_whoever_is_a_little_behind_gets_what_is_new() -> None:
    album = Album()
    filled(album, 5, every_ms=10)
    assert album.after(5) == ()
    assert [change.number for change in album.after(3) or ()] == [4, 5]
    assert [change.number for change in album.after(0) or ()] == [1, 2, 3, 4, 5]
    assert album.after(6) is None
    assert album.after(-1) is None


def test_whoever_is_far_behind_has_to_look_anew() -> None:
    album = Album()
    filled(album, 4, every_ms=10, data=bytes(BEHIND_BYTES_MAX // 2))
    assert album.after(0) is None
    assert [change.number for change in album.after(2) or ()] == [3, 4]


def test_one_change_larger_than_all_that_is_kept_is_still_told() -> None:
    album = Album()
    filled(album, 2, every_ms=10, data=bytes(2 * BEHIND_BYTES_MAX))
    assert [change.number for change in album.after(1) or ()] == [2]


def test_the_past_is_a_picture_and_what_came_after_it() -> None:
    album = Album()
    last_ms = filled(album, 10, every_ms=PART_MS // 4)
    found = album.past(last_ms)
    assert found is not None
    part, until_ms = found
    assert part.at_ms <= last_ms
    assert until_ms is None
    earlier = album.past(part.at_ms - 1)
    assert earlier is not None
    assert earlier[1] == part.at_ms
    numbers = [change.number for change in earlier[0].changes]
    assert numbers == list(range(earlier[0].number + 1, part.number + 1))


def test_what_was_before_we_looked_is_the_oldest_that_we_know() -> None:
    album = Album()
    assert album.past(5) is None
    assert album.since_ms == 0
    filled(album, 3, every_ms=1, from_ms=1_000)
    found = album.past(5)
    assert found is not None
    assert found[0].at_ms == album.since_ms == 1_001


def test_what_is_older_than_an_hour_is_forgotten() -> None:
    album = Album()
    last_ms = filled(album, 200, every_ms=KEPT_MS // 50)
    assert last_ms - KEPT_MS - 2 * PART_MS <= album.since_ms <= last_ms - KEPT_MS + PART_MS


def test_however_much_changes_it_stays_within_its_bytes() -> None:
    album = Album(bytes_max=4 * PART_BYTES)
    filled(album, 3_000, every_ms=200, data=bytes(20_000))
    assert album.bytes <= 4 * PART_BYTES + 20_000
    assert album.past(0) is not None
    starts = [part.number for part in album._parts]
    assert all(a < b for a, b in pairwise(starts))
