"""Log streams put in order: history merged, live lines at once, nothing twice after a reconnect."""

from __future__ import annotations

from formation.v1 import agent_pb2, control_pb2
from formctl.following import ALL_LINES, RESUME_LINES, LogFeed
from formctl.loglines import Line


def line(text: str, at_us: int, *, ordinal: int = 1, host: str = "a") -> agent_pb2.LogLine:
    return agent_pb2.LogLine(
        app="shop", type="web", ordinal=ordinal, host=host, at_us=at_us, text=text.encode()
    )


class Reader:
    """A feed and what it wrote."""

    def __init__(self, *, tail_lines: int = ALL_LINES, started_us: int = 0) -> None:
        self.texts: list[str] = []
        self.notices: list[str] = []
        self.feed = LogFeed(
            self._write, self.notices.append, tail_lines=tail_lines, started_us=started_us
        )

    def _write(self, lines: list[Line]) -> None:
        self.texts += [item.text.decode() for item in lines]

    def take(self, *lines: agent_pb2.LogLine, done: bool = False, notice: str = "") -> None:
        self.feed.take(control_pb2.LogsResponse(lines=lines, history_done=done, notice=notice))


def test_history_of_all_hosts_is_merged_by_time_before_live_lines() -> None:
    reader = Reader(tail_lines=3)
    assert reader.feed.open() == 3
    reader.take(line("a1", 10), line("a2", 30))
    reader.take(line("b1", 20, host="b"), line("b2", 40, host="b"))
    assert reader.texts == []
    reader.take(done=True)
    assert reader.texts == ["b1", "a2", "b2"]
    reader.take(line("late", 5))
    assert reader.texts[-1] == "late"


def test_a_history_that_never_ends_is_written_by_whoever_has_waited_enough() -> None:
    reader = Reader()
    reader.feed.open()
    reader.take(line("a", 1))
    reader.feed.end_history()
    reader.take(line("b", 2))
    assert reader.texts == ["a", "b"]


def test_after_a_reconnect_only_what_was_missed_is_written() -> None:
    reader = Reader()
    reader.feed.open()
    reader.take(done=True)
    reader.take(line("x", 10), line("x", 20), line("x", 20))
    assert reader.feed.open() == RESUME_LINES
    # Three lines were read at once and have one time: two of them have been written.
    again = [line("x", 10), line("x", 20), line("x", 20), line("new", 20), line("newer", 30)]
    reader.take(*again, done=True)
    assert reader.texts == ["x", "x", "x", "new", "newer"]


def test_after_a_reconnect_old_lines_of_who_was_quiet_are_not_news() -> None:
    reader = Reader(started_us=100)
    reader.feed.open()
    reader.take(done=True)
    reader.feed.open()
    reader.take(line("old", 90, ordinal=2), line("new", 110, ordinal=2), done=True)
    assert reader.texts == ["new"]


def test_two_reconnects_in_a_row_count_from_the_same_place() -> None:
    reader = Reader()
    reader.feed.open()
    reader.take(line("a", 10), done=True)
    reader.feed.open()
    reader.take(line("a", 10))
    reader.feed.open()
    reader.take(line("a", 10), line("b", 11), done=True)
    assert reader.texts == ["a", "b"]


def test_a_stream_that_broke_before_its_history_was_complete_starts_over() -> None:
    reader = Reader(tail_lines=2)
    reader.feed.open()
    reader.take(line("a", 10))
    assert reader.feed.open() == 2
    reader.take(line("a", 10), line("b", 20), done=True)
    assert reader.texts == ["a", "b"]


def test_notices_are_for_people_and_not_among_the_lines() -> None:
    reader = Reader()
    reader.feed.open()
    reader.take(notice="host b: session lost", done=True)
    assert (reader.notices, reader.texts) == (["host b: session lost"], [])
