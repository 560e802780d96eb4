"""A tree that root lends to a user and takes back: all of it, and nothing else."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from formation_agent.ownership import hand_over, take_back

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away"),
]
UID, GID, SOMEBODY_ELSE = 54321, 54322, 54333


def look(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").write_text("1")
    (top / "run").write_text("#!")
    (top / "run").chmod(0o755)
    (top / "link").symlink_to("/etc/passwd")
    return top


def everything(top: Path) -> list[Path]:
    return [top, *top.rglob("*")]


def test_all_of_it_is_the_users_and_then_roots_again(tree: Path) -> None:
    passwd = look(Path("/etc/passwd"))
    hand_over(tree, UID, GID)
    assert {look(path)[:2] for path in everything(tree)} == {(UID, GID)}
    (tree / "a" / "b" / "file").chmod(0o4777)
    (tree / "a").chmod(0o2777)
    (tree / "run").chmod(0o100)
    take_back(tree, UID)
    assert {look(path)[:2] for path in everything(tree)} == {(0, 0)}
    assert look(tree / "a" / "b" / "file")[2] == 0o755
    assert look(tree / "a")[2] == 0o755
    assert look(tree / "run")[2] == 0o755
    assert look(Path("/etc/passwd")) == passwd


def test_a_file_that_only_has_a_name_there_is_not_touched(tree: Path, tmp_path: Path) -> None:
    """Where the kernel lets users link to what is not theirs."""
    roots, others = tmp_path / "shadow", tmp_path / "diary"
    for path in (roots, others):
        path.write_text("secret")
        path.chmod(0o600)
    os.chown(others, SOMEBODY_ELSE, SOMEBODY_ELSE)
    hand_over(tree, UID, GID)
    os.link(roots, tree / "shadow")
    os.link(others, tree / "diary")
    take_back(tree, UID)
    assert look(roots) == (0, 0, 0o600)
    assert look(others) == (SOMEBODY_ELSE, SOMEBODY_ELSE, 0o600)


def test_what_is_no_file_does_not_hold_it_up(tree: Path) -> None:
    hand_over(tree, UID, GID)
    os.mkfifo(tree / "fifo")
    os.chown(tree / "fifo", UID, GID)
    take_back(tree, UID)
    assert look(tree / "fifo")[0] == 0


def test_what_is_too_deep_for_a_name_is_an_error_and_no_crash(tree: Path) -> None:
    hand_over(tree, UID, GID)
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.fchown(below, UID, GID)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(OSError, match="too long"):
        take_back(tree, UID)
    subprocess.run(["rm", "-rf", str(tree)], check=True)  # pytest could not
