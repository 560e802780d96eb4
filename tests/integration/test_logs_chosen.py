"""Of the lines of a host, those that somebody has chosen: by slot, time and text."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from log_reading import until

from formation.model import Slot
from formation_agent.logchoice import LogChoice
from formation_agent.logs import Logs, Place, Resume

WEB_1 = Slot("shop", "web", 1)


async def chosen(logs: Logs, choice: LogChoice, tail_lines: int = -1) -> list[bytes]:
    return [
        line.text
        async for batch in logs.read(choice, tail_lines=tail_lines, follow=False)
        for line in batch.lines
    ]


class Clock:
    """A second later with each line."""

    def __init__(self) -> None:
        self.now_us = 1_700_000_000_000_000

    def __call__(self) -> int:
        self.now_us += 1_000_000
        return self.now_us


def filled(directory: Path, lines: int, *, max_bytes: int = 10_000_000) -> tuple[Logs, Clock]:
    """web.1 with lines of our own, `line 0 even`, `line 1 odd`…, one a second."""
    clock = Clock()
    logs = Logs(directory, max_bytes=max_bytes, files=50, host="a", now_us=clock)
    for number in range(lines):
        logs.note(WEB_1, f"line {number} {'odd' if number % 2 else 'even'}")
    return logs, clock


async def test_the_last_lines_are_the_last_that_have_the_text(tmp_path: Path) -> None:
    logs, _ = filled(tmp_path, 5_000)
    found = await chosen(logs, LogChoice(text=b"odd"), tail_lines=2)
    assert found == [b"[formation] line 4997 odd", b"[formation] line 4999 odd"]
    assert len(await chosen(logs, LogChoice(text=b"odd"))) == 2_500
    assert await chosen(logs, LogChoice(text=b"odder"), tail_lines=5) == []
    assert await chosen(logs, LogChoice(text=b"odd"), tail_lines=0) == []


@pytest.mark.parametrize("max_bytes", [10_000_000, 20_000], ids=["one file", "many files"])
@pytest.mark.parametrize("seconds", [0, 1, 3, 700, 4_999, 6_000])
async def test_since_a_time_is_every_line_since_then_and_none_before(
    tmp_path: Path, max_bytes: int, seconds: int
) -> None:
    logs, clock = filled(tmp_path, 5_000, max_bytes=max_bytes)
    since_us = clock.now_us - (seconds - 1) * 1_000_000
    found = await chosen(logs, LogChoice(not_before_us=since_us))
    first = max(0, 5_000 - seconds)
    assert len(found) == 5_000 - first
    assert not found or found[0].startswith(b"[formation] line %d " % first)


async def test_what_is_chosen_is_followed_and_nothing_else(tmp_path: Path) -> None:
    logs, _ = filled(tmp_path, 10)
    choice = LogChoice(targets=(("web", 1), ("clock", 0)), text=b"odd")
    async with aclosing(logs.read(choice, tail_lines=1, follow=True)) as batches:
        seen = await until(batches, b"[formation] line 9 odd")
        for number in range(10, 20):
            logs.note(WEB_1, f"line {number} {'odd' if number % 2 else 'even'}")
        logs.note(Slot("shop", "web", 2), "odd but of another one")
        logs.note(Slot("shop", "clock", 7), "odd and of a type")
        seen += await until(batches, b"[formation] odd and of a type")
    texts = [line.text for line in seen]
    assert texts[0] == b"[formation] line 9 odd"
    assert b"[formation] odd but of another one" not in texts
    assert not [text for text in texts if b"even" in text]


async def test_a_reader_that_comes_back_misses_and_repeats_nothing_of_what_it_chose(
    tmp_path: Path,
) -> None:
    """Lines of one moment, of which only some were chosen."""
    logs = Logs(tmp_path, max_bytes=10_000, files=2, host="a", now_us=lambda: 1_700_000_000_000_000)
    for number in range(20):
        logs.note(WEB_1, f"line {number} {'odd' if number % 2 else 'even'}")
    resume = Resume(seen={WEB_1: Place(at_us=1_700_000_000_000_000, lines=8)})
    found = [
        line.text
        async for batch in logs.read(
            LogChoice(text=b"odd"), tail_lines=0, follow=False, resume=resume
        )
        for line in batch.lines
    ]
    assert found == [b"[formation] line 17 odd", b"[formation] line 19 odd"]


async def test_looking_through_much_for_little_leaves_the_loop_to_others(tmp_path: Path) -> None:
    logs, _ = filled(tmp_path, 30_000)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    try:
        assert await chosen(logs, LogChoice(text=b"line 29999"), tail_lines=1) != []
        assert turns > 10
        turns = 0
        assert len(await chosen(logs, LogChoice(text=b"line 29999"))) == 1
        assert turns > 10
    finally:
        counting.cancel()
