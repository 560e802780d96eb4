"""What `formctl deploy` takes a word for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from evil_archives import directory, link, member, written
from evil_zips import Item, zipped

from formctl.commands.deploy import command
from formctl.errors import InputError
from formctl.settings import Settings
from formctl.sources import opened


def listed(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def test_a_directory_is_itself(tmp_path: Path) -> None:
    with opened(str(tmp_path), None) as source:
        assert (source.directory, source.note, source.fresh) == (tmp_path, "", False)


def test_a_tarball_is_unpacked_without_the_one_directory_that_holds_all(tmp_path: Path) -> None:
    one = written(tmp_path / "shop-1.2.tgz", [directory("shop-1.2"), member("shop-1.2/web.py")])
    flat = written(tmp_path / "flat.tar.gz", [member("web.py"), member("lib/a.py")])
    with opened(str(one), None) as source:
        assert (listed(source.directory), source.app, source.fresh) == (
            ["web.py"],
            "shop-1.2",
            True,
        )
        room = source.directory
    assert not room.exists()
    with opened(str(flat), None) as source:
        assert listed(source.directory) == ["lib", "lib/a.py", "web.py"]


def test_a_zip_is_unpacked_as_a_tarball_is(tmp_path: Path) -> None:
    one = zipped(tmp_path / "shop-1.2.zip", [Item("shop-1.2/"), Item("shop-1.2/web.py", b"x")])
    with opened(str(one), None) as source:
        assert (listed(source.directory), source.app, source.fresh) == (
            ["web.py"],
            "shop-1.2",
            True,
        )
        room = source.directory
    assert not room.exists()
    evil = zipped(tmp_path / "evil.zip", [Item("../web.py", b"x")])
    with pytest.raises(InputError, match=r"evil\.zip: .*\.\. in its name"), opened(str(evil), None):
        pass


def test_a_tarball_that_leads_out_is_refused_here_already(tmp_path: Path) -> None:
    evil = written(tmp_path / "evil.tar.gz", [link("up", "../../etc")])
    with pytest.raises(InputError, match="leads out"), opened(str(evil), None):
        pass


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("http://example.org/a.tar.gz", "https:// only"),
        ("ftp://example.org/a.tar.gz", "https:// only"),
        ("no-such-thing", "no such directory or file, and no git ref"),
        ("--output=x", "no such directory or file, and no git ref"),
    ],
)
def test_what_it_is_not_is_said_in_one_line(
    word: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said) as refused, opened(word, None):
        pass
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_tarball_is_refused(tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text("x")
    with (
        pytest.raises(InputError, match=r"no directory, and no \.tar\.gz"),
        opened(str(tmp_path / "web.py"), None),
    ):
        pass


def test_a_ref_is_what_was_committed_whatever_lies_there_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "web.py").write_text("committed")
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["commit", "-qm", "x"],
        ["tag", "v1"],
        ["tag", "v1.zip"],
    ):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "web.py").write_text("changed")
    (tmp_path / "v2").mkdir()
    monkeypatch.chdir(tmp_path)
    with opened("v1", None) as source:
        assert (source.directory / "web.py").read_text() == "committed"
        assert source.note.startswith("git ref v1, commit ")
    for ref in ("v1", "v1.zip"):
        with opened(".", ref) as source:
            assert source.fresh
    with opened("v2", None) as source:
        assert not source.fresh  # a directory goes first
    with pytest.raises(InputError, match="no git ref"), opened(".", "v2"):
        pass


def test_a_workdir_that_says_the_code_lies_there_contradicts_a_deploy(tmp_path: Path) -> None:
    (tmp_path / "formation.toml").write_text(
        'workdir = "/srv/shop"\n[types.web]\ncommand = "run"\n'
    )
    done = CliRunner().invoke(command, [str(tmp_path), "--dry-run"], obj=Settings())
    assert isinstance(done.exception, InputError)
    assert "take it out to deploy" in str(done.exception)


def test_a_dry_run_asks_nobody_and_says_what_would_be_sent(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("web: run\n")
    (tmp_path / ".env").write_text("A=secret\n")
    done = CliRunner().invoke(command, [str(tmp_path), "--dry-run"], obj=Settings())
    assert done.exit_code == 0, done.output
    assert "1 file of 9 B" in done.output
    assert "Procfile" in done.output
    assert ".env" not in done.output
