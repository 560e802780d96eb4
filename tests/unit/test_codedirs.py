"""Directories of unpacked code: whatever a build leaves there can be removed."""

from __future__ import annotations

import os
from pathlib import Path

from formation_agent.codedirs import CodeDirs


def test_what_cannot_be_written_in_is_removed_all_the_same(tmp_path: Path) -> None:
    """Tools leave such directories: Go's module cache, for one."""
    dirs = CodeDirs(tmp_path)
    tree = dirs.path("shop", "ab" * 32) / "cache"
    tree.mkdir(parents=True)
    (tree / "file").write_text("1")
    tree.chmod(0o555)
    dirs.discard("shop", "ab" * 32)
    assert os.listdir(tmp_path / "shop") == []


def test_what_is_deeper_than_any_name_reaches_is_removed_too(tmp_path: Path) -> None:
    dirs = CodeDirs(tmp_path)
    tree = dirs.path("shop", "ab" * 32)
    tree.mkdir(parents=True)
    dig(tree, 3000)
    dirs.discard("shop", "ab" * 32)
    assert os.listdir(tmp_path / "shop") == []


def dig(top: Path, depth: int) -> None:
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
