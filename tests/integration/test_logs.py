"""Real pipes and processes into the log room and out again."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest
from eventually import eventually
from log_reading import until

from formation.model import Slot
from formation_agent.logchoice import LogChoice
from formation_agent.logs import GAP_LINES_MAX, Line, Logs, Place, Resume

WEB_1, WEB_2 = Slot("shop", "web", 1), Slot("shop", "web", 2)
CLOCK = Slot("other", "clock", 1)
DEADLINE_S = 30.0


class Pipes:
    """Both ends of a child's outputs; the test writes."""

    def __init__(self, logs: Logs, slot: Slot) -> None:
        out, self.out = os.pipe()
        err, self.err = os.pipe()
        logs.attach(slot, out, err)

    def close(self) -> None:
        os.close(self.out)
        os.close(self.err)


@contextmanager
def room(directory: Path, *, max_bytes: int = 1 << 30, files: int = 5) -> Iterator[Logs]:
    logs = Logs(directory, max_bytes=max_bytes, files=files, host="host-a")
    try:
        yield logs
    finally:
        logs.close()


async def run(logs: Logs, slot: Slot, script: str) -> None:
    """A child whose pipes go straight to the room, until all of it is in the file."""
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    logs.attach(slot, out, err)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=out_end, stderr=err_end
    )
    os.close(out_end)
    os.close(err_end)
    assert await process.wait() == 0
    assert await logs.drained(slot, DEADLINE_S)


async def history(logs: Logs, slot: Slot = WEB_1, tail_lines: int = -1) -> list[Line]:
    lines: list[Line] = []
    done = []
    choice = LogChoice(app=slot.app, targets=((slot.type, slot.ordinal),))
    async for batch in logs.read(choice, tail_lines=tail_lines, follow=False):
        lines += batch.lines
        done.append(batch.history_done)
    assert done.count(True) == 1
    assert done[-1]
    return lines


def original(lines: list[Line], *, stderr: bool = False) -> bytes:
    """What the process wrote on that stream."""
    mine = [line for line in lines if line.stderr == stderr]
    return b"".join(line.text if line.partial else line.text + b"\n" for line in mine)


async def test_binary_output_comes_back_byte_for_byte(tmp_path: Path) -> None:
    data = bytes(range(256)) * 500 + b"\n" + b"\r\n\x0b\x0c\xe2\x80\xa8\xff\n" + b"end"
    script = f"import sys; sys.stdout.buffer.write(bytes(range(256)) * 500 + {data[128000:]!r})"
    with room(tmp_path) as logs:
        await run(logs, WEB_1, script)
        assert original(await history(logs)) == data


async def test_two_hundred_thousand_lines_come_back_byte_for_byte(tmp_path: Path) -> None:
    script = "import sys\nfor n in range(200_000): sys.stdout.write(f'line {n} of many\\n')"
    with room(tmp_path) as logs:
        await run(logs, WEB_1, script)
        expected = b"".join(b"line %d of many\n" % n for n in range(200_000))
        assert original(await history(logs)) == expected


async def test_ten_megabytes_without_a_newline_are_cut_and_come_back(tmp_path: Path) -> None:
    script = "import sys; sys.stdout.write('0123456789' * 1_000_000)"
    with room(tmp_path) as logs:
        await run(logs, WEB_1, script)
        lines = await history(logs)
        assert original(lines) == b"0123456789" * 1_000_000
        assert all(line.partial and len(line.text) <= 65536 for line in lines)
        assert len(lines) == -(-10_000_000 // 65536)


async def test_two_streams_keep_their_own_halves_of_lines(tmp_path: Path) -> None:
    script = (
        "import os\n"
        "for n in range(2000):\n"
        "    os.write(1, b'out %d ' % n); os.write(2, b'err %d ' % n)\n"
        "    os.write(1, b'.\\n'); os.write(2, b'.\\n')\n"
    )
    with room(tmp_path) as logs:
        await run(logs, WEB_1, script)
        lines = await history(logs)
        assert original(lines) == b"".join(b"out %d .\n" % n for n in range(2000))
        assert original(lines, stderr=True) == b"".join(b"err %d .\n" % n for n in range(2000))


async def test_a_last_line_without_a_newline_is_kept(tmp_path: Path) -> None:
    with room(tmp_path) as logs:
        await run(logs, WEB_1, "import sys; print('a'); sys.stdout.write('last words')")
        lines = await history(logs)
        assert [(line.text, line.partial) for line in lines] == [
            (b"a", False),
            (b"last words", True),
        ]
        raw = (tmp_path / "shop" / "web.1.log").read_bytes().splitlines()
        assert raw[1].endswith(b"Z OP last words")


async def test_all_of_many_rotated_files_is_history(tmp_path: Path) -> None:
    script = "for n in range(20_000): print('line', n)"
    with room(tmp_path, max_bytes=100_000, files=100) as logs:
        await run(logs, WEB_1, script)
        assert len(os.listdir(tmp_path / "shop")) > 5
        lines = await history(logs)
        assert original(lines) == b"".join(b"line %d\n" % n for n in range(20_000))
        assert [line.text for line in await history(logs, tail_lines=3)] == [
            b"line 19997",
            b"line 19998",
            b"line 19999",
        ]


async def test_a_follower_sees_every_line_once_over_rotations(tmp_path: Path) -> None:
    with room(tmp_path, max_bytes=5_000, files=50) as logs:
        pipes = Pipes(logs, WEB_1)
        os.write(pipes.out, b"before\n")
        seen: list[Line] = []
        async with aclosing(
            logs.read(LogChoice(app="shop"), tail_lines=-1, follow=True)
        ) as batches:
            seen += await until(batches, b"before")
            for number in range(1000):
                os.write(pipes.out, b"%d\n" % number)
                if number % 100 == 99:
                    seen += await until(batches, b"%d" % number)
        pipes.close()
        expected = [b"before", *(b"%d" % number for number in range(1000))]
        assert [line.text for line in seen] == expected


async def test_a_follower_gets_slots_that_appear_later_and_only_those_that_match(
    tmp_path: Path,
) -> None:
    with room(tmp_path) as logs:
        async with aclosing(
            logs.read(LogChoice(app="shop", targets=(("web", 0),)), tail_lines=0, follow=True)
        ) as batches:
            assert (await anext(batches)).history_done
            for slot in (CLOCK, WEB_2, WEB_1):
                pipes = Pipes(logs, slot)
                os.write(pipes.err, b"from %s\n" % str(slot).encode())
                pipes.close()
            lines = await until(batches, b"from shop/web.2")
            if len(lines) < 2:
                lines += await until(batches, b"from shop/web.1")
        assert {(line.slot, line.text, line.stderr, line.host) for line in lines} == {
            (WEB_1, b"from shop/web.1", True, "host-a"),
            (WEB_2, b"from shop/web.2", True, "host-a"),
        }


async def test_the_history_of_several_slots_is_in_the_order_of_time(tmp_path: Path) -> None:
    now_us = iter(range(1_000_000, 10_000_000, 1_000))
    logs = Logs(tmp_path, max_bytes=1 << 20, files=2, host="host-a", now_us=lambda: next(now_us))
    one, two = Pipes(logs, WEB_1), Pipes(logs, WEB_2)
    async with aclosing(logs.read(LogChoice(), tail_lines=0, follow=True)) as batches:
        for number in range(6):
            os.write((one if number % 2 else two).out, b"%d\n" % number)
            await until(batches, b"%d" % number)
    one.close()
    two.close()
    found = [
        line.text
        async for batch in logs.read(LogChoice(), tail_lines=2, follow=False)
        for line in batch.lines
    ]
    assert found == [b"2", b"3", b"4", b"5"]
    logs.close()


async def test_a_pipe_that_somebody_else_holds_is_read_and_let_go(tmp_path: Path) -> None:
    with room(tmp_path) as logs:
        pipes = Pipes(logs, WEB_1)
        os.write(pipes.out, b"in the pipe\nhalf")
        assert not await logs.drained(WEB_1, 0.01)
        os.write(pipes.out, b" a line")
        logs.close_pipes(WEB_1)
        assert await logs.drained(WEB_1, 0.01)
        assert [line.text for line in await history(logs)] == [b"in the pipe", b"half a line"]
        with pytest.raises(BrokenPipeError):
            os.write(pipes.out, b"too late")
        pipes.close()


async def test_the_next_process_of_a_slot_continues_its_file(tmp_path: Path) -> None:
    with room(tmp_path) as logs:
        for word in ("one", "two"):
            await run(logs, WEB_1, f"print({word!r})")
        logs.note(WEB_1, "a word\nof ours")
        texts = [line.text for line in await history(logs)]
        assert texts == [b"one", b"two", b"[formation] a word of ours"]
    with room(tmp_path) as logs:
        assert len(await history(logs)) == 3


async def test_a_slot_without_pipes_is_drained(tmp_path: Path) -> None:
    with room(tmp_path) as logs:
        logs.attach(WEB_1, -1, -1)
        assert await logs.drained(WEB_1, 0.0)
        assert await history(logs) == []


async def test_a_disk_that_takes_nothing_does_not_stop_the_child_and_is_told_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shop").mkdir()
    path = tmp_path / "shop" / "web.1.log"
    path.symlink_to("/dev/full")
    with room(tmp_path) as logs:
        pipes = Pipes(logs, WEB_1)
        await run(logs, WEB_2, "print('x')")
        size = await asyncio.to_thread(os.write, pipes.out, b"lost\n" * 1000)
        await eventually(lambda: caplog.records, what="a warning")
        path.unlink()
        os.write(pipes.out, b"kept\n")
        pipes.close()
        assert await logs.drained(WEB_1, DEADLINE_S)
        texts = [line.text for line in await history(logs)]
        assert texts == [b"[formation] dropped %d bytes: No space left on device" % size, b"kept"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """8 MB of a file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


DROPPED = r"\[formation\] dropped (\d+) bytes: No space left on device"


async def test_a_full_disk_drops_whole_lines_counts_them_and_ends_nobody(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 4_000_000)
    many = "import sys\nfor n in range(200_000): sys.stdout.write(f'{n:99}\\n')"
    with room(small_disk / "logs") as logs:
        await run(logs, WEB_1, many)  # 20 MB: all of it was taken, and the child ended well
        filler.unlink()
        await run(logs, WEB_1, "print('room again')")
        lines = await history(logs)
    numbers = [int(line.text) for line in lines if line.text.strip().isdigit()]
    assert numbers == list(range(len(numbers)))
    assert 10_000 < len(numbers) < 60_000
    *notes, last = (line.text.decode() for line in lines[len(numbers) :])
    assert last == "room again"
    # What was left on the disk took a note here and there.
    counts = [re.fullmatch(DROPPED, note) for note in notes]
    assert sum(int(count[1]) for count in counts if count) == (200_000 - len(numbers)) * 100
    assert len(counts) == len(caplog.records) < 50


async def test_a_full_disk_takes_the_newest_again_when_rotation_makes_room(
    small_disk: Path,
) -> None:
    script = "import sys\nfor n in range(300_000): sys.stdout.write(f'{n:99}\\n')"
    with room(small_disk / "logs", max_bytes=1_000_000, files=5) as logs:
        await run(logs, WEB_1, script)
        lines = await history(logs)
    assert int(lines[-1].text) == 299_999


async def test_plain_tools_read_and_follow_the_files(tmp_path: Path) -> None:
    path = tmp_path / "shop" / "web.1.log"
    with room(tmp_path) as logs:
        pipes = Pipes(logs, WEB_1)
        os.write(pipes.out, b"hello\n\x1b[31mred\x1b[0m\n")
        os.write(pipes.err, "schön\n".encode())
        await eventually(lambda: path.exists() and path.read_bytes().count(b"\n") == 3)
        grep = await output("grep", "-c", " E ", path)
        assert grep == b"1\n"
        cut = await output("cut", "-d ", "-f3-", path)
        assert cut.split(b"\n") == [b"hello", b"\x1b[31mred\x1b[0m", "schön".encode(), b""]
        tail = await asyncio.create_subprocess_exec(
            "tail", "-n1", "-F", path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert tail.stdout is not None
        assert (await tail.stdout.readline()).endswith(" E schön\n".encode())
        os.write(pipes.out, b"later\n")
        assert (await asyncio.wait_for(tail.stdout.readline(), DEADLINE_S)).endswith(b" O later\n")
        tail.kill()
        await tail.communicate()
        pipes.close()


async def output(*argv: str | Path) -> bytes:
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    text, _ = await process.communicate()
    return text


async def test_what_a_process_wrote_is_counted_until_its_pipes_end(tmp_path: Path) -> None:
    with room(tmp_path) as logs:
        assert logs.read_bytes(WEB_1) == 0
        pipes = Pipes(logs, WEB_1)
        os.write(pipes.out, b"x" * 1000)
        os.write(pipes.err, b"y" * 500)
        await eventually(lambda: logs.read_bytes(WEB_1) == 1500)
        assert logs.read_bytes(WEB_2) == 0
        pipes.close()
        assert await logs.drained(WEB_1, DEADLINE_S)
        assert logs.read_bytes(WEB_1) == 0
        pipes = Pipes(logs, WEB_1)
        os.write(pipes.out, b"z")
        await eventually(lambda: logs.read_bytes(WEB_1) == 1)
        pipes.close()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_half_a_million_lines_take_no_more_memory_than_a_few(tmp_path: Path) -> None:
    script = "import sys\nfor n in range({}): sys.stdout.write('x' * 99 + '\\n')"
    with room(tmp_path, max_bytes=1 << 20, files=3) as logs:
        await run(logs, WEB_1, script.format(100_000))
        before = resident_bytes()
        await run(logs, WEB_1, script.format(500_000))
        assert resident_bytes() < before + 5_000_000


async def test_finishing_the_room_ends_its_followers_when_they_have_all(tmp_path: Path) -> None:
    with room(tmp_path) as logs:
        pipes = {slot: Pipes(logs, slot) for slot in (WEB_1, WEB_2, CLOCK)}
        async with aclosing(logs.read(LogChoice(), tail_lines=-1, follow=True)) as batches:
            assert (await anext(batches)).history_done
            for number, pipe in enumerate(pipes.values()):
                os.write(pipe.out, b"last %d\n" % number * 3000)
                pipe.close()
            for slot in pipes:
                assert await logs.drained(slot, 5.0)
            logs.finish()
            seen = [line.text async for batch in batches for line in batch.lines]
        assert sorted(seen) == [b"last %d" % number for number in range(3) for _ in range(3000)]


async def test_closing_the_room_ends_its_followers(tmp_path: Path) -> None:
    logs = Logs(tmp_path, max_bytes=1 << 20, files=2, host="host-a")

    async with aclosing(logs.read(LogChoice(), tail_lines=-1, follow=True)) as batches:
        assert (await anext(batches)).history_done
        rest = asyncio.ensure_future(anext(batches, None))
        logs.close()
        assert await asyncio.wait_for(rest, DEADLINE_S) is None


async def test_a_slot_that_would_leave_the_directory_is_refused(tmp_path: Path) -> None:
    with room(tmp_path) as logs, pytest.raises(ValueError, match="no file can be named"):
        logs.attach(Slot("..", "web", 1), -1, -1)


# -- a reader that comes back ----------------------------------------------------------------------


def place_after(lines: Sequence[Line]) -> Place:
    """Where a reader is that has had these lines of one slot."""
    last = lines[-1].at_us
    same = list(itertools.takewhile(lambda line: line.at_us == last, reversed(lines)))
    return Place(at_us=last, lines=len(same))


async def resumed(logs: Logs, resume: Resume, tail_lines: int = GAP_LINES_MAX) -> list[bytes]:
    texts: list[bytes] = []
    async for batch in logs.read(LogChoice(), tail_lines=tail_lines, follow=False, resume=resume):
        texts += [line.text for line in batch.lines]
    return texts


@pytest.mark.parametrize("had", [1, 499, 500, 501, 1199, 1200])
async def test_a_reader_that_left_within_one_moment_misses_nothing_and_gets_nothing_twice(
    tmp_path: Path, had: int
) -> None:
    with room(tmp_path) as logs:
        pipes = Pipes(logs, WEB_1)
        os.write(pipes.out, b"".join(b"%d\n" % n for n in range(1200)))  # all of one time
        pipes.close()
        assert await logs.drained(WEB_1, DEADLINE_S)
        seen = {WEB_1: place_after((await history(logs))[:had])}
        assert await resumed(logs, Resume(seen=seen)) == [b"%d" % n for n in range(had, 1200)]


async def test_a_clock_that_was_set_back_loses_a_returning_reader_no_line(tmp_path: Path) -> None:
    times = itertools.chain([5_000_000_000], itertools.repeat(1_000_000_000))
    logs = Logs(tmp_path, max_bytes=1 << 20, files=2, host="host-a", now_us=lambda: next(times))
    logs.note(WEB_1, "an hour ahead")
    seen = {WEB_1: place_after(await history(logs))}
    logs.note(WEB_1, "the right time")
    assert await resumed(logs, Resume(seen=seen, since_us=5_000_000_000)) == [
        b"[formation] the right time"
    ]
    logs.close()


async def test_a_place_that_was_rotated_away_gives_what_is_left_of_the_gap(tmp_path: Path) -> None:
    with room(tmp_path, max_bytes=1_000, files=2) as logs:
        logs.note(WEB_1, "seen")
        seen = {WEB_1: place_after(await history(logs))}
        for number in range(100):
            logs.note(WEB_1, f"{number}")
        kept = [line.text for line in await history(logs)]
        assert b"[formation] seen" not in kept
        gap, *left = await resumed(logs, Resume(seen=seen))
        assert gap.endswith(b"some lines are missing here: rotated away before they could be read")
        assert left == kept


async def test_a_slot_that_was_silent_before_goes_on_from_the_time_of_the_others(
    tmp_path: Path,
) -> None:
    clock = itertools.count(1_000_000)
    logs = Logs(tmp_path, max_bytes=1 << 20, files=2, host="host-a", now_us=lambda: next(clock))
    logs.note(WEB_2, "long known")
    done = [b async for b in logs.read(LogChoice(), tail_lines=0, follow=False) if b.history_done]
    logs.note(WEB_2, "news")
    assert await resumed(logs, Resume(since_us=done[0].at_us)) == [b"[formation] news"]
    logs.close()


async def test_what_a_full_disk_dropped_is_said_when_the_next_process_finds_room(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "shop"
    directory.write_text("where the directory should be")
    with room(tmp_path) as logs:
        pipes = Pipes(logs, WEB_1)
        os.write(pipes.out, b"lost\n")
        pipes.close()
        assert await logs.drained(WEB_1, DEADLINE_S)
        directory.unlink()
        pipes = Pipes(logs, WEB_1)
        (line,) = await history(logs)
        assert line.text == b"[formation] dropped 5 bytes: Not a directory"
        os.write(pipes.out, b"kept\n")
        pipes.close()
        assert await logs.drained(WEB_1, DEADLINE_S)
        assert [line.text for line in await history(logs)][1:] == [b"kept"]
