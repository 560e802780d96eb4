"""Records, rotation, and the way back from files to lines."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from formation.gaps import Gap
from formation.model import Slot
from formation_agent.logfile import (
    LINE_BYTES_MAX,
    LineCutter,
    LogFile,
    Tally,
    parse_stamp,
    parse_tag,
    stamp,
)
from formation_agent.logfile_reader import Cursor, Line

SLOT = Slot("shop", "web", 1)
AT_US = 1_795_314_825_123_456
STAMP = stamp(AT_US)


def original(records: bytes) -> bytes:
    """What the process wrote."""
    out = b""
    for line in split(records) if records else []:
        parsed = parse_tag(line.removesuffix(b"\n"))
        assert parsed is not None, line
        _, partial, text = parsed
        out += text if partial else text + b"\n"
    return out


def split(records: bytes) -> list[bytes]:
    return [record + b"\n" for record in records.removesuffix(b"\n").split(b"\n")]


def cut(chunks: list[bytes], *, stderr: bool = False) -> bytes:
    cutter = LineCutter(stderr=stderr)
    return b"".join(cutter.records(chunk, STAMP) for chunk in chunks) + cutter.last_record(STAMP)


def texts(lines: list[Line]) -> list[bytes]:
    return [line.text for line in lines]


def all_of(cursor: Cursor, lines: int = -1) -> list[Line]:
    cursor.seek_tail(lines)
    return list(cursor.history())


def cursor_of(path: Path) -> Cursor:
    return Cursor(SLOT, "host-a", str(path))


def record(text: str, *, partial: bool = False) -> bytes:
    return STAMP + (b"OP " if partial else b"O ") + text.encode() + b"\n"


def test_the_time_is_rfc_3339_in_utc_and_comes_back() -> None:
    assert STAMP == b"2026-11-22T02:33:45.123456Z "
    assert parse_stamp(STAMP.strip()) == AT_US
    assert parse_stamp(stamp(AT_US - 123_456).strip()) == AT_US - 123_456


def test_lines_are_tagged_by_stream() -> None:
    assert cut([b"a\nb\n"]) == STAMP + b"O a\n" + STAMP + b"O b\n"
    assert cut([b"a\n"], stderr=True) == STAMP + b"E a\n"
    assert cut([b"\n\n"]) == (STAMP + b"O \n") * 2


def test_half_lines_wait_for_their_other_half() -> None:
    assert cut([b"a", b"b", b"c\nd", b"e\n"]) == record("abc") + record("de")


def test_a_last_line_without_a_newline_is_kept_and_marked() -> None:
    assert cut([b"a\nb"]) == record("a") + record("b", partial=True)


def test_a_line_of_64_kib_is_whole_and_one_byte_more_is_cut() -> None:
    whole = b"x" * LINE_BYTES_MAX
    assert cut([whole, b"\n"]) == STAMP + b"O " + whole + b"\n"
    assert cut([whole, b"y\n"]) == STAMP + b"OP " + whole + b"\n" + record("y")
    assert cut([whole, b"y"]) == STAMP + b"OP " + whole + b"\n" + record("y", partial=True)


def test_only_a_newline_ends_a_line() -> None:
    odd = b"a\rb\x0bc\x0cd\xe2\x80\xa8e\x00f\xff\n"
    assert cut([odd]) == STAMP + b"O " + odd


@given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\x01", b"\n")), max_size=20))
def test_every_byte_comes_back_however_the_stream_is_cut(chunks: list[bytes]) -> None:
    assert original(cut(chunks)) == b"".join(chunks)


LONG = st.tuples(st.just(b"x"), st.integers(1, LINE_BYTES_MAX))
SHORT = st.tuples(st.sampled_from([b"x\n", b"\n"]), st.integers(1, 20))


@settings(max_examples=100)
@given(st.lists(LONG | SHORT, max_size=8))
def test_long_lines_come_back_and_no_record_is_too_long(parts: list[tuple[bytes, int]]) -> None:
    chunks = [piece * count for piece, count in parts]
    records = cut(chunks)
    lines = split(records) if records else []
    assert max(map(len, lines), default=0) <= LINE_BYTES_MAX + 32
    assert original(records) == b"".join(chunks)


def test_a_file_is_rotated_by_size_and_only_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "shop" / "web.1.log"
    file = LogFile(str(path), max_bytes=100, files=3)
    for number in range(20):
        assert file.append(record(f"line {number}")) == b""
    file.close()
    names = sorted(name.name for name in path.parent.iterdir())
    assert names == ["web.1.log", "web.1.log.1", "web.1.log.2"]
    assert all(name.stat().st_size <= 100 for name in path.parent.iterdir())
    kept = texts(all_of(cursor_of(path)))
    assert kept == [f"line {number}".encode() for number in range(20 - len(kept), 20)]
    assert len(kept) in {5, 6}


def test_many_records_at_once_are_spread_over_files_whole(tmp_path: Path) -> None:
    path = tmp_path / "web.1.log"
    file = LogFile(str(path), max_bytes=1000, files=100)
    assert file.append(b"".join(record(f"line {number}") for number in range(500))) == b""
    assert texts(all_of(cursor_of(path))) == [f"line {number}".encode() for number in range(500)]


def test_a_record_larger_than_a_file_shall_be_is_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "web.1.log"
    file = LogFile(str(path), max_bytes=50, files=3)
    for text in ("a", "b" * 200, "c"):
        assert file.append(record(text)) == b""
    assert texts(all_of(cursor_of(path))) == [b"a", b"b" * 200, b"c"]


def test_one_file_alone_begins_anew_when_it_is_full(tmp_path: Path) -> None:
    path = tmp_path / "web.1.log"
    file = LogFile(str(path), max_bytes=100, files=1)
    for number in range(10):
        file.append(record(f"line {number}"))
    assert os.listdir(tmp_path) == ["web.1.log"]
    assert texts(all_of(cursor_of(path)))[-1] == b"line 9"


def test_files_beyond_a_smaller_number_go_with_the_next_rotation(tmp_path: Path) -> None:
    path = tmp_path / "web.1.log"
    for number, files in ((1, 6), (2, 2)):
        file = LogFile(str(path), max_bytes=40, files=files)
        for _ in range(10):
            file.append(record(f"line {number}"))
        file.close()
    assert len(os.listdir(tmp_path)) == 2


def test_a_torn_last_record_is_closed_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "web.1.log"
    path.write_bytes(record("whole") + record("torn")[:-3])
    file = LogFile(str(path), max_bytes=1000, files=2)
    file.append(record("next"))
    assert texts(all_of(cursor_of(path))) == [b"whole", b"to", b"next"]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Writes beyond it fail half way, as on a full disk (Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_takes_whole_records_or_none_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "web.1.log"
    file = LogFile(str(path), max_bytes=10_000_000, files=2)
    records = [record(f"{number} " + "x" * 1000) for number in range(100)]
    with no_file_larger_than(50_500):
        left = file.append(b"".join(records))
    assert left == b"".join(records[-len(split(left)) :])
    assert file.problem == "File too large"
    assert file.append(left) == b""
    assert path.read_bytes() == b"".join(records)


def test_a_directory_that_cannot_be_written_loses_records_but_raises_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "shop").write_text("a file where the directory should be")
    file = LogFile(str(tmp_path / "shop" / "web.1.log"), max_bytes=1000, files=2)
    assert file.append(record("x")) == record("x")
    assert file.problem


def test_the_last_lines_are_found_over_rotated_files_and_blocks(tmp_path: Path) -> None:
    path = tmp_path / "web.1.log"
    file = LogFile(str(path), max_bytes=300_000, files=10)
    for number in range(3000):
        file.append(record(f"{number} " + "x" * 300))
    for wanted in (0, 1, 5, 790, 2999, 3000, 5000, -1):
        lines = all_of(cursor_of(path), wanted)
        count = 3000 if wanted < 0 else min(wanted, 3000)
        numbers = [int(text.split()[0]) for text in texts(lines)]
        assert numbers == list(range(3000 - count, 3000))


def test_a_follower_goes_on_over_rotations_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "web.1.log"
    file = LogFile(str(path), max_bytes=500, files=4)
    cursor = cursor_of(path)
    seen = []
    for number in range(300):
        file.append(record(str(number)))
        if number % 7 == 0:
            while lines := cursor.new():
                seen += texts(lines)
    while lines := cursor.new():
        seen += texts(lines)
    assert seen == [str(number).encode() for number in range(300)]
    cursor.close()


def test_a_follower_that_was_too_slow_is_told_of_the_gap(tmp_path: Path) -> None:
    path, tally = tmp_path / "web.1.log", Tally()
    file = LogFile(str(path), max_bytes=200, files=2, tally=tally)
    cursor = Cursor(SLOT, "host-a", str(path), tally)
    file.append(record("0"))
    seen = cursor.new()
    for number in range(1, 100):
        file.append(record(str(number)))
    while lines := cursor.new():
        seen += lines
    (gap,) = [line for line in seen if line.gap is not Gap.NONE]
    numbers = [int(line.text) for line in seen if line is not gap]
    assert numbers[-1] == 99
    (jump,) = [after - before for before, after in pairwise(numbers) if after - before != 1]
    assert gap.missing == jump - 1
    assert gap.text.startswith(b"[formation] %d lines are missing here" % (jump - 1))


def test_of_what_another_process_rotated_away_nobody_knows_how_much_it_was(tmp_path: Path) -> None:
    path = tmp_path / "web.1.log"
    file = LogFile(str(path), max_bytes=200, files=2)
    cursor = cursor_of(path)
    file.append(record("0"))
    cursor.new()
    for number in range(1, 100):
        file.append(record(str(number)))
    seen = []
    while lines := cursor.new():
        seen += lines
    assert [line.missing for line in seen if line.gap is Gap.ROTATED] == [0]


def test_what_is_no_record_of_ours_is_passed_on_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "web.1.log"
    path.write_bytes(b"by hand\n" + record("x") + b"2026-11-22T02:33:45.123456Z ? odd\n" + b"\n")
    lines = all_of(cursor_of(path))
    assert texts(lines) == [b"by hand", b"x", b"2026-11-22T02:33:45.123456Z ? odd", b""]
    assert [line.at_us for line in lines] == [0, AT_US, AT_US, AT_US]
