"""What of a directory becomes an artifact, to the byte."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from formation.artifacts import Artifact
from formation.unpacking import unpack
from formctl.errors import InputError
from formctl.packing import contents_of, pack
from formctl.packrules import Contents, Item, bar, described


def project(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return top


def names(top: Path, *, use_gitignore: bool = True) -> list[str]:
    return [item.name for item in contents_of(top, use_gitignore=use_gitignore).items]


def packed(top: Path) -> tuple[Artifact, bytes]:
    out = io.BytesIO()
    return pack(top, contents_of(top), out), out.getvalue()


def test_the_same_files_give_the_same_bytes_whenever_and_by_whom(tmp_path: Path) -> None:
    files = {"web.py": "print(1)", "lib/a.py": "a", "lib/b.py": "b"}
    one = project(tmp_path / "one", files)
    other = project(tmp_path / "other", dict(reversed(files.items())))
    os.utime(other / "web.py", (1, 1))
    (other / "web.py").chmod(0o600)
    assert packed(one) == packed(other)
    (other / "web.py").chmod(0o700)
    assert packed(one)[0].digest != packed(other)[0].digest


def test_times_owners_and_other_modes_are_not_in_it(tmp_path: Path) -> None:
    top = project(tmp_path, {"a": "1", "run": "2"})
    (top / "run").chmod(0o711)
    (top / "a").chmod(0o666)
    with tarfile.open(fileobj=io.BytesIO(packed(top)[1])) as tar:
        found = [(m.name, m.mode, m.mtime, m.uid, m.gid, m.uname) for m in tar]
    assert found == [("a", 0o644, 0, 0, 0, ""), ("run", 0o755, 0, 0, 0, "")]


def test_what_is_packed_can_be_unpacked(tmp_path: Path) -> None:
    top = project(tmp_path / "app", {"web.py": "x", "ä/" + "n" * 150 + ".py": "y"})
    (top / "empty").mkdir()
    (top / "now").symlink_to("ä")
    artifact, data = packed(top)
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(data)
    assert artifact.size_bytes == len(data)
    unpack(archive, tmp_path / "out")
    for path in top.rglob("*"):
        there = tmp_path / "out" / path.relative_to(top)
        assert there.is_symlink() == path.is_symlink()
        assert there.is_dir() == path.is_dir()
    assert (tmp_path / "out" / "now").readlink() == Path("ä")


def test_secrets_and_repositories_are_never_packed(tmp_path: Path) -> None:
    never = (".env", ".env.production", "sub/.env", ".git/config", ".venv/bin/x", "a.pyc", ".hg/x")
    top = project(tmp_path, dict.fromkeys(never, "secret") | {".env.example": "A=", "a": "1"})
    (top / ".formationignore").write_text("!.env\n!.git\n!.env.production\n")
    assert names(top) == [".env.example", ".formationignore", "a"]


def test_gitignore_is_respected_where_it_lies_and_nearer_ones_win(tmp_path: Path) -> None:
    top = project(
        tmp_path,
        {
            ".gitignore": "*.log\n/build/\nnode_modules\n",
            "a.log": "", "build/x": "", "sub/build/x": "", "sub/node_modules/m": "", "keep": "",
            "sub/.gitignore": "!b.log\n/private\n", "sub/b.log": "", "sub/private": "",
            "private": "",
        },
    )  # fmt: skip
    assert names(top) == [
        ".gitignore", "keep", "private", "sub/.gitignore", "sub/b.log", "sub/build/x",
    ]  # fmt: skip
    assert "a.log" in names(top, use_gitignore=False)


def test_formationignore_leaves_out_more_and_takes_in_again(tmp_path: Path) -> None:
    top = project(
        tmp_path,
        {
            ".gitignore": "dist\n",
            ".formationignore": "!dist\ntests/\n",
            "dist/a": "",
            "tests/t": "",
        },
    )
    assert names(top) == [".formationignore", ".gitignore", "dist/a"]


def test_it_leaves_out_what_git_leaves_out(tmp_path: Path) -> None:
    """Also below the repository's top."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    top = project(
        tmp_path,
        {
            ".gitignore": "*.tmp\napp/out/\n**/deep/*\n!**/deep/keep\n",
            "app/a.tmp": "", "app/out/x": "", "app/web.py": "", "app/deep/x": "",
            "app/deep/keep": "", "app/.gitignore": "x*\n!xyz\n", "app/xa": "", "app/xyz": "",
        },
    )  # fmt: skip
    said = subprocess.run(
        ["git", "-C", str(top / "app"), "ls-files", "-co", "--exclude-standard", "."],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert names(top / "app") == sorted(said.stdout.split())


def test_links_that_lead_out_and_what_is_no_file_stay_behind_and_are_told(tmp_path: Path) -> None:
    top = project(tmp_path / "app", {"a": "1", "d/b": "2"})
    (tmp_path / "outside").write_text("secret")
    (top / "abs").symlink_to("/etc/passwd")
    (top / "up").symlink_to("../outside")
    (top / "d" / "in").symlink_to("../a")
    (top / "around").symlink_to("d/../../app/a")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(top / "sock"))
        found = contents_of(top)
    assert [item.name for item in found.items] == ["a", "d/b", "d/in"]
    assert [note.split()[0] for note in found.notes] == ["abs", "around", "sock", "up"]
    assert found.left_out == 4


def test_nothing_to_deploy_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no file"):
        contents_of(tmp_path)


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    top = project(tmp_path, {"a": "1"})
    found = contents_of(top)
    (top / "a").write_text("longer")
    with pytest.raises(InputError, match="changed"):
        pack(top, found, io.BytesIO())


def test_what_would_be_sent_is_said_with_its_largest_files() -> None:
    contents = Contents(
        items=(Item(name="a", size_bytes=10), Item(name="b", size_bytes=5 << 20)), left_out=3
    )
    assert described(contents, "ab" * 32, 1 << 20) == [
        "code: abababababab, 2 files of 5.0 MiB, 1.0 MiB packed; 3 left out",
        "largest:",
        "  5.0 MiB  b",
        "     10 B  a",
    ]


def test_the_bar_says_how_far_it_is_and_how_fast() -> None:
    assert bar(40 << 20, 80 << 20, 0) == "uploading [############............] 40 of 80 MiB"
    assert bar(0, 80 << 20, 12 << 20).endswith("[........................] 0 of 80 MiB, 12 MiB/s")
