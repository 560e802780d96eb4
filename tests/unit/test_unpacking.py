"""What comes out of an archive that somebody hostile made, and where."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from evil_archives import archive, directory, link, member, tree, written
from hypothesis import given, settings
from hypothesis import strategies as st

from formation.artifacts import Limits, UnsafeArchive, done_text, leads_out, size_text
from formation.unpacking import Cancelled, unpack

SMALL = Limits(bytes_max=1 << 20, entries_max=50, floor_bytes=1 << 16, header_bytes_max=1 << 16)


def test_files_directories_and_links_inside_come_out(tmp_path: Path) -> None:
    made = [
        directory("./"),
        member("./bin/run", b"#!/bin/sh\n", mode=0o755),
        member("app.py", b"print()", mode=0o600),
        directory("empty", 0o700),
        link("current", "bin/run"),
        link("bin/up", "../app.py"),
        link("dangling", "not/there"),
    ]
    target = tmp_path / "out"
    found = unpack(written(tmp_path / "a.tar.gz", made), target)
    assert tree(target) == {
        "app.py": "print()",
        "bin": "/",
        "bin/run": "#!/bin/sh\n",
        "bin/up": "-> ../app.py",
        "current": "-> bin/run",
        "dangling": "-> not/there",
        "empty": "/",
    }
    assert (found.files, found.size_bytes) == (2, 17)
    modes = {
        name: (target / name).stat().st_mode & 0o7777
        for name in ("app.py", "bin/run", "empty", ".")
    }
    assert modes == {"app.py": 0o644, "bin/run": 0o755, "empty": 0o755, ".": 0o755}


LONG = "d/" * 600
REFUSED = {
    "absolute": ([member("/etc/evil")], "absolute"),
    "dots": ([member("../evil")], r"\.\."),
    "dots inside": ([member("a/../../evil")], r"\.\."),
    "an absolute link": ([link("l", "/etc")], "leads out"),
    "a link up": ([link("l", "../x")], "leads out"),
    "a link up from below": ([link("a/b", "../../x")], "leads out"),
    "a link to the top, and out of it by another": (
        [link("a/b/l", "../.."), link("m", "a/b/l/../x")],
        "leads out",
    ),
    "out through a link, below its words": (
        [directory("a/b"), link("a/b/l", "../.."), link("n", "a/b/l/../../etc/passwd")],
        "leads out",
    ),
    "written through a link": ([directory("d"), link("l", "d"), member("l/x")], "no directory"),
    "a link in the place of a directory": ([member("d/x"), link("d", "e")], "place of a directory"),
    "below a file": ([member("f"), member("f/x")], "no directory"),
    "a hard link": ([member("l", kind=tarfile.LNKTYPE, target="/etc/passwd")], "hard link"),
    "a device": ([member("n", kind=tarfile.CHRTYPE)], "device"),
    "a disk": ([member("n", kind=tarfile.BLKTYPE)], "device"),
    "a FIFO": ([member("n", kind=tarfile.FIFOTYPE)], "FIFO"),
    "sparse": ([member("n", kind=tarfile.GNUTYPE_SPARSE)], "sparse"),
    "set-user-id": ([member("n", mode=0o4755)], "set-user-id"),
    "set-group-id": ([member("n", mode=0o2755)], "set-user-id"),
    "twice": ([member("a", b"1"), member("./a", b"2")], "twice"),
    "a newline": ([member("a\nb")], "control character"),
    "an escape": ([member("a\x1b[2Jb")], "control character"),
    "a long part": ([member("x" * 256)], "over 255"),
    "a long name": ([member(LONG + "x")], "over 1024"),
    "many entries": ([member(f"f{n}") for n in range(51)], "more than 50 entries"),
    "many bytes": ([member("z", bytes((1 << 16) + 1))], "more than"),
    "the size of a moon": ([member("z", b"x", size=1 << 50)], "more than"),
    "a link to nothing": ([link("l", "")], "nothing"),
    "a link with a newline": ([link("l", "a\nb")], "nothing"),
    "a file for the whole": ([member(".")], "whole directory"),
    "a link for the whole": ([link("./", "x")], "whole directory"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_leads_out_or_is_no_file_is_refused_and_nothing_is_left(
    name: str, tmp_path: Path
) -> None:
    members, why = REFUSED[name]
    target = tmp_path / "in" / "out"
    target.parent.mkdir()
    with pytest.raises(UnsafeArchive, match=why) as refused:
        unpack(written(tmp_path / "a.tar.gz", members), target, limits=SMALL)
    assert "\n" not in str(refused.value)
    assert tree(tmp_path / "in") == {}
    assert sorted(os.listdir(tmp_path)) == ["a.tar.gz", "in"]


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    """In an extended header there can be one."""
    info, data = member("harmless")
    info.pax_headers = {"path": "etc\0evil"}
    with pytest.raises(UnsafeArchive):
        unpack(written(tmp_path / "a.tar.gz", [(info, data)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_zeros_without_end_are_refused_long_before_their_end(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    info, _ = member("zeros", size=1 << 40)
    with gzip.open(path, "wb") as bomb:
        bomb.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(80):
            bomb.write(bytes(1 << 20))
    with pytest.raises(UnsafeArchive, match="more than"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_header_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    info, _ = member("x", kind=tarfile.XHDTYPE, size=1 << 30)
    with gzip.open(path, "wb") as bomb:
        bomb.write(info.tobuf(tarfile.GNU_FORMAT))
        bomb.write(bytes(1 << 20))
    with pytest.raises(UnsafeArchive, match="header that is too long"):
        unpack(path, tmp_path / "out")


def test_headers_of_headers_end(tmp_path: Path) -> None:
    plain = io.BytesIO()
    for _ in range(3000):
        info, _ = member("x", kind=tarfile.XHDTYPE, size=0)
        plain.write(info.tobuf(tarfile.GNU_FORMAT))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(plain.getvalue()))
    with pytest.raises(UnsafeArchive):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


@pytest.mark.parametrize("cut", [0, 1, 10, 60])
def test_a_truncated_archive_is_refused_or_lacks_nothing_that_it_names(
    cut: int, tmp_path: Path
) -> None:
    whole = archive([member("a", os.urandom(5000))])
    (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) * cut // 100])
    with pytest.raises(UnsafeArchive):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_it_ends_when_nobody_wants_it_any_more(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar.gz", [member("a", b"1"), member("b", b"2")])
    with pytest.raises(Cancelled):
        unpack(path, tmp_path / "out", cancelled=lambda: True)
    assert not (tmp_path / "out").exists()


def test_sizes_are_said_as_people_say_them() -> None:
    assert [size_text(n) for n in (0, 812, 3_500_000, 80 << 20)] == [
        "0 B", "812 B", "3.3 MiB", "80 MiB",
    ]  # fmt: skip
    assert done_text(34 << 20, 80 << 20) == "34 of 80 MiB"
    assert done_text(0, 3_500_000) == "0.0 of 3.3 MiB"


def test_where_a_link_leads_is_judged_on_its_whole_way() -> None:
    assert leads_out("a/l", "../../a/x")
    assert not leads_out("a/l", "../b")
    assert not leads_out("l", "a/../b")


PARTS = st.sampled_from(["a", "b", "..", ".", "", "l", "é", "x" * 300, "\0", "c\n", "\udc80"])
NAMES = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
TYPES = st.sampled_from(
    [
        tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE,
        tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"Z",
    ]
)  # fmt: skip
MEMBERS = st.builds(
    lambda name, kind, mode, target, data: member(
        name, data if kind == tarfile.REGTYPE else b"", kind=kind, mode=mode, target=target
    ),
    NAMES,
    TYPES,
    st.sampled_from([0o644, 0o755, 0o4755, 0o7777, 0]),
    NAMES,
    st.binary(max_size=40),
)
LINKS = st.builds(link, NAMES, NAMES)


def _unpacked_in_a_room(data: bytes) -> None:
    """Whatever it is: what was around the target is as it was, and no link leads out."""
    with tempfile.TemporaryDirectory() as room:
        around = Path(room)
        (around / "precious").write_text("as it was")
        (around / "in").mkdir()
        path = around / "in" / "a.tar.gz"
        path.write_bytes(data)
        target = around / "in" / "out"
        try:
            unpack(path, target, limits=SMALL)
        except UnsafeArchive:
            assert not target.exists()
        assert (around / "precious").read_text() == "as it was"
        assert sorted(os.listdir(around)) == ["in", "precious"]
        assert set(os.listdir(around / "in")) <= {"a.tar.gz", "out"}
        for found in target.rglob("*"):
            assert os.path.realpath(found).startswith(os.path.realpath(target))
            assert found.is_symlink() or found.is_dir() or found.is_file()
            assert found.is_symlink() or not found.stat().st_mode & 0o7022


@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(MEMBERS, LINKS), max_size=8))
def test_nothing_outside_the_target_ever_appears(
    members: list[tuple[tarfile.TarInfo, bytes]],
) -> None:
    try:
        data = archive(members)
    except (UnicodeEncodeError, ValueError):
        return  # no such header can be written
    _unpacked_in_a_room(data)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=2048), st.integers(0, 2000), st.binary(min_size=1, max_size=30))
def test_rubbish_and_broken_headers_are_refused_or_stay_inside(
    rubbish: bytes, at: int, patch: bytes
) -> None:
    _unpacked_in_a_room(rubbish)
    _unpacked_in_a_room(gzip.compress(rubbish))
    plain = bytearray(gzip.decompress(archive([member("a/b", b"hi"), link("l", "a")])))
    plain[at : at + len(patch)] = patch
    _unpacked_in_a_room(gzip.compress(bytes(plain)))
