"""What comes out of a zip that somebody hostile made, and where."""

from __future__ import annotations

import os
import stat
import tempfile
import zipfile
from pathlib import Path

import pytest
from evil_archives import tree
from evil_zips import DOS, Item, zip_bytes, zip_link, zipped
from hypothesis import given, settings
from hypothesis import strategies as st

from formation.artifacts import Limits, UnsafeArchive
from formctl.unzipping import unzip

SMALL = Limits(bytes_max=1 << 20, entries_max=50, floor_bytes=1 << 16, header_bytes_max=1 << 16)
PROGRAM = stat.S_IFREG | 0o755


def test_files_directories_and_links_inside_come_out(tmp_path: Path) -> None:
    made = [
        Item("bin/run", b"#!/bin/sh\n", PROGRAM),
        Item("app.py", b"print()", stat.S_IFREG | 0o600, method=zipfile.ZIP_STORED),
        Item("empty/", mode=stat.S_IFDIR | 0o700),
        Item("nothing", b""),
        Item("größe", b"1"),
        zip_link("bin/up", "../app.py"),
        Item("__MACOSX/._app.py", b"Finder's"),
    ]
    target = tmp_path / "out"
    found = unzip(zipped(tmp_path / "a.zip", made), target)
    assert tree(target) == {
        "app.py": "print()",
        "bin": "/",
        "bin/run": "#!/bin/sh\n",
        "bin/up": "-> ../app.py",
        "empty": "/",
        "größe": "1",
        "nothing": "",
    }
    assert (found.files, found.size_bytes) == (4, 18)
    modes = {name: (target / name).stat().st_mode & 0o7777 for name in ("app.py", "bin/run", ".")}
    assert modes == {"app.py": 0o644, "bin/run": 0o755, ".": 0o755}


def test_what_was_not_made_on_a_unix_has_files_and_directories_only(tmp_path: Path) -> None:
    made = [Item("run", b"x", PROGRAM, DOS), Item("l", b"/etc", stat.S_IFLNK | 0o777, DOS)]
    unzip(zipped(tmp_path / "a.zip", made), tmp_path / "out")
    assert tree(tmp_path / "out") == {"run": "x", "l": "/etc"}
    assert (tmp_path / "out" / "run").stat().st_mode & 0o777 == 0o644


REFUSED = {
    "absolute": ([Item("/etc/evil")], "absolute"),
    "dots": ([Item("../evil")], r"\.\."),
    "dots inside": ([Item("a/../../evil")], r"\.\."),
    "backslashes": ([Item("..\\evil")], "backslash"),
    "an absolute link": ([zip_link("l", "/etc")], "leads out"),
    "a link up": ([zip_link("l", "../x")], "leads out"),
    "out through a link, below its words": (
        [Item("a/b/"), zip_link("a/b/l", "../.."), zip_link("n", "a/b/l/../../etc/passwd")],
        "leads out",
    ),
    "written through a link": (
        [Item("d/"), zip_link("l", "d"), Item("l/x")],
        "no directory",
    ),
    "below a file": ([Item("f"), Item("f/x")], "no directory"),
    "a device": ([Item("n", mode=stat.S_IFCHR | 0o600)], "device"),
    "a FIFO": ([Item("n", mode=stat.S_IFIFO | 0o600)], "FIFO"),
    "a socket": ([Item("n", mode=stat.S_IFSOCK | 0o600)], "special file"),
    "set-user-id": ([Item("n", mode=stat.S_IFREG | 0o4755)], "set-user-id"),
    "twice": ([Item("a", b"1"), Item("./a", b"2")], "twice"),
    "a NUL": ([Item("a\0.py")], "control character"),
    "an escape": ([Item("a\x1b[2Jb")], "control character"),
    "a long part": ([Item("x" * 256)], "over 255"),
    "a long name": ([Item("d/" * 600 + "x")], "over 1024"),
    "many entries": ([Item(f"f{n}") for n in range(51)], "more than 50 entries"),
    "many bytes": ([Item("z", bytes((1 << 16) + 1))], "more than"),
    "many bytes, in many files": ([Item(f"z{n}", bytes(40_000)) for n in range(40)], "more than"),
    "a link to nothing": ([zip_link("l", "")], "nothing"),
    "a link with a newline": ([zip_link("l", "a\nb")], "nothing"),
    "a link of a megabyte": ([zip_link("l", "a/" * (1 << 19))], "nothing"),
    "a link for the whole": ([zip_link("./", "x")], "content|whole directory"),
    "a directory with content": ([Item("d/", b"x")], "with content"),
    "bzip2": ([Item("z", b"x", method=zipfile.ZIP_BZIP2)], "other than deflate"),
    "lzma": ([Item("z", b"x", method=zipfile.ZIP_LZMA)], "other than deflate"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_leads_out_or_is_no_file_is_refused_and_nothing_is_left(
    name: str, tmp_path: Path
) -> None:
    items, why = REFUSED[name]
    refused(tmp_path, zip_bytes(items), why)


def refused(tmp_path: Path, data: bytes, why: str) -> None:
    path, target = tmp_path / "a.zip", tmp_path / "in" / "out"
    path.write_bytes(data)
    target.parent.mkdir()
    with pytest.raises(UnsafeArchive, match=why) as error:
        unzip(path, target, limits=SMALL)
    assert "\n" not in str(error.value)
    assert tree(tmp_path / "in") == {}
    assert sorted(os.listdir(tmp_path)) == ["a.zip", "in"]


def at_central(data: bytes, offset: int, new: bytes) -> bytes:
    """Other bytes in the first entry of the list at the end."""
    start = data.index(b"PK\x01\x02") + offset
    return data[:start] + new + data[start + len(new) :]


def test_a_size_that_is_a_lie_is_refused(tmp_path: Path) -> None:
    """The uncompressed size says 4 bytes, 100 come out: no more than the 4 are written."""
    data = at_central(zip_bytes([Item("z", b"x" * 100)]), 24, b"\4\0\0\0")
    refused(tmp_path, data, "no good zip: Bad CRC-32")


def test_a_file_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    data = at_central(zip_bytes([Item("z", b"x" * 100)]), 24, b"\377\0\0\0")
    refused(tmp_path, data, "ends in the middle|CRC")


def test_what_is_encrypted_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, at_central(zip_bytes([Item("z", b"x")]), 8, b"\1\0"), "z: encrypted")


def test_what_has_gone_bad_is_refused(tmp_path: Path) -> None:
    data = zip_bytes([Item("z", b"hello", method=zipfile.ZIP_STORED)]).replace(b"hello", b"hullo")
    refused(tmp_path, data, "no good zip: Bad CRC-32")


def test_a_list_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    many = zip_bytes([Item(f"{'d' * 200}/{n}") for n in range(1000)])
    refused(tmp_path, many, "a list of entries that is too long")


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip at all" * 100])
def test_what_is_no_zip_is_refused(data: bytes, tmp_path: Path) -> None:
    refused(tmp_path, data, "no good zip")


GOOD = zip_bytes(
    [Item("a/b.py", b"print()" * 50), zip_link("l", "a/b.py"), Item("run", b"x", PROGRAM)]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=12))
def test_broken_zips_are_refused_or_stay_inside(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    with tempfile.TemporaryDirectory() as room:
        path, target = Path(room) / "a.zip", Path(room) / "out"
        path.write_bytes(data)
        try:
            unzip(path, target, limits=SMALL)
        except (UnsafeArchive, OSError):
            assert not target.exists()
        assert set(os.listdir(room)) <= {"a.zip", "out"}


@given(st.binary(max_size=400))
def test_rubbish_is_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / "a.zip"
        path.write_bytes(b"PK\x03\x04" + data)
        with pytest.raises(UnsafeArchive):
            unzip(path, Path(room) / "out")
