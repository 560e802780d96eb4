"""Secrets as files: in memory, for one user, gone with their instance."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from formation_agent.processes import User
from formation_agent.secretfiles import NOWHERE, NoPlaceError, SecretFiles, place_for

MOUNTS = (
    "/dev/root / ext4 rw 0 0\n"
    "tmpfs /run tmpfs rw 0 0\n"
    "tmpfs /run/user/7 tmpfs rw 0 0\n"
    "/dev/sdb /run/disk ext4 rw 0 0\n"
)


def placed(base: Path) -> SecretFiles:
    files = SecretFiles(str(base / "formation-agent" / "a1"))
    files.place("web.1-x", {"KEY": "s3cret\n"}, None)
    return files


def test_a_process_is_told_where_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    found = placed(tmp_path).variables("web.1-x", {"KEY": ""})
    path = Path(found["KEY_FILE"])
    assert path.read_text() == "s3cret\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o500
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o711


def test_it_is_gone_with_its_instance_and_others_stay(tmp_path: Path) -> None:
    files = placed(tmp_path)
    files.place("web.2-x", {"KEY": "other"}, None)
    files.remove("web.1-x")
    files.remove("web.1-x")
    assert os.listdir(tmp_path / "formation-agent" / "a1") == ["web.2-x"]
    files.sweep({"web.3-x"})
    assert os.listdir(tmp_path / "formation-agent" / "a1") == []


def test_a_next_try_finds_it_as_it_was_meant(tmp_path: Path) -> None:
    files = placed(tmp_path)
    path = Path(files.variables("web.1-x", {"KEY": ""})["KEY_FILE"])
    path.parent.chmod(0o700)
    path.unlink()
    path.symlink_to("/etc/passwd")
    files.place("web.1-x", {"KEY": "again"}, None)
    assert path.read_text() == "again"
    assert not path.is_symlink()
    assert "again" not in Path("/etc/passwd").read_text()


def test_a_place_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "formation-agent").mkdir()
    (tmp_path / "formation-agent").chmod(0o777)
    with pytest.raises(NoPlaceError, match="others can write it"):
        placed(tmp_path)


def test_a_link_in_the_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "formation-agent").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NoPlaceError):
        placed(tmp_path)


def test_where_nothing_is_in_memory_it_says_so_and_other_types_start() -> None:
    NOWHERE.place("u1", {}, None)
    NOWHERE.remove("u1")
    NOWHERE.sweep(())
    with pytest.raises(NoPlaceError, match="a file system in memory"):
        NOWHERE.place("u1", {"KEY": "x"}, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: needs root")
def test_it_is_the_users_of_its_instance(tmp_path: Path) -> None:
    files = SecretFiles(str(tmp_path / "formation-agent" / "a1"))
    files.place("u1", {"KEY": "x"}, User(uid=65534, gid=65534, groups=(), name="nobody"))
    path = Path(files.variables("u1", {"KEY": ""})["KEY_FILE"])
    assert (path.stat().st_uid, path.parent.stat().st_uid) == (65534, 65534)


@pytest.mark.parametrize(
    ("runtime", "mounts", "there"),
    [
        ("/run/user/7", MOUNTS, True),
        ("/run/disk", MOUNTS, False),
        ("/home/x", MOUNTS, False),
        ("", "", False),
    ],
)
def test_only_a_file_system_in_memory_is_a_place(
    monkeypatch: pytest.MonkeyPatch, runtime: str, mounts: str, there: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    monkeypatch.setattr(os, "access", lambda *_: True)
    found = place_for("a1", {"XDG_RUNTIME_DIR": runtime}, mounts)
    assert (found.variables("u", {"K": ""})["K_FILE"].startswith("/run/user/7/")) == there
    assert (found is NOWHERE) != there
