"""What an app is, read from a directory: which files count, and every problem at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from formation.releasecommand import ReleaseCommand
from formctl import naming, spec
from formctl.errors import InputError


def write(directory: Path, **files: str) -> str:
    names = {"procfile": "Procfile", "manifest": "formation.toml", "env": ".env"}
    for name, text in files.items():
        (directory / names[name]).write_text(text)
    return str(directory)


def test_a_procfile_and_the_env_beside_it_are_read(tmp_path: Path) -> None:
    found = spec.read(directory=write(tmp_path, procfile="web: a\nmail: b\n", env="A=1\n"))
    assert [(item.name, item.command) for item in found.types] == [("web", "a"), ("mail", "b")]
    assert [item.initial_quantity for item in found.types] == [1, 0]
    assert found.env == {"A": "1"}
    assert found.workdir == found.directory == str(tmp_path)


def test_formation_toml_goes_before_procfile_and_env_wins_over_its_env(tmp_path: Path) -> None:
    manifest = 'app = "shop"\nworkdir = "/srv"\n[env]\nA = "1"\nB = "2"\n[types.web]\ncommand="x"\n'
    directory = write(tmp_path, procfile="other: a\n", manifest=manifest, env="B=3\n")
    found = spec.read(directory=directory)
    assert (found.app, found.workdir, found.type_names) == ("shop", "/srv", ("web",))
    assert found.env == {"A": "1", "B": "3"}
    assert spec.read("Procfile", directory=directory).type_names == ("other",)


def test_a_named_workdir_wins_and_is_made_absolute(tmp_path: Path) -> None:
    directory = write(tmp_path, procfile="web: a\n")
    assert spec.read(directory=directory, workdir="/srv/x/../y").workdir == "/srv/y"


def test_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    directory = write(tmp_path, procfile="web: a\nweb: b\n", env="A\n")
    with pytest.raises(InputError) as caught:
        spec.read(directory=directory)
    first, second = str(caught.value).splitlines()
    assert first.endswith("Procfile:2: web is defined twice, first on line 1")
    assert ".env:1: A has no value" in second


def test_warnings_come_along_and_strict_makes_them_errors(tmp_path: Path) -> None:
    directory = write(tmp_path, procfile="web: a\n+x\n", env="PORT=1\n")
    notes = spec.read(directory=directory).notes
    assert len(notes) == 2
    with pytest.raises(InputError, match="not a process"):
        spec.read(directory=directory, strict=True)


def test_names_that_formation_sets_itself_are_told_wherever_they_stand(tmp_path: Path) -> None:
    manifest = "[env]\nPORT = '1'\n[types.web]\ncommand = 'x'\nenv = { PS = 'a', B = 'b' }\n"
    notes = spec.read(directory=write(tmp_path, manifest=manifest)).notes
    told = "is set by Formation for each instance; the value here has no effect"
    path = tmp_path / "formation.toml"
    assert notes == (f"{path}: env.PORT {told}", f"{path}: types.web.env.PS {told}")


@pytest.mark.parametrize(
    ("file", "env_file", "message"),
    [
        (None, None, "neither formation.toml nor Procfile in "),
        ("Prockfile", None, "Prockfile: no such file or directory"),
        ("Procfile.ok", "prod.env", "prod.env: no such file or directory"),
        ("Procfile.latin1", None, "Procfile.latin1:2: not UTF-8 text"),
        (".", None, "is a directory"),
    ],
)
def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, file: str | None, env_file: str | None, message: str
) -> None:
    (tmp_path / "Procfile.ok").write_text("web: a\n")
    (tmp_path / "Procfile.latin1").write_bytes(b"web: a\nb: \xe9\n")
    with pytest.raises(InputError, match=message):
        spec.read(file, directory=str(tmp_path), env_file=env_file)


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("/srv/shop", "shop"),
        ("/srv/My Shop!", "my-shop"),
        ("/srv/_x_", "x"),
        ("/srv/a.b-c_d", "a.b-c_d"),
        ("/srv/" + "a" * 70, "a" * 63),
        ("/", ""),
        ("/srv/日本", ""),
    ],
)
def test_an_app_is_named_after_its_directory_as_far_as_possible(directory: str, name: str) -> None:
    assert naming.app_name(directory) == name


def test_only_the_name_is_asked_of_a_manifest_with_other_mistakes(tmp_path: Path) -> None:
    assert naming.named_app(str(tmp_path)) == ""
    assert naming.named_app(write(tmp_path, manifest='app = "shop"\nzzz = 1\n')) == "shop"
    with pytest.raises(InputError, match="--app NAME goes on"):
        naming.named_app(write(tmp_path, manifest="app ="))


def test_a_procfiles_release_line_is_no_type(tmp_path: Path) -> None:
    found = spec.read(directory=write(tmp_path, procfile="release: ./migrate\nweb: a\n"))
    assert found.type_names == ("web",)
    assert found.command == ReleaseCommand(command="./migrate")


def test_a_procfile_of_a_release_line_alone_describes_no_app(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only a release command, and no process"):
        spec.read(directory=write(tmp_path, procfile="release: ./migrate\n"))


def test_formation_toml_says_it_in_a_table(tmp_path: Path) -> None:
    said = '[release]\ncommand = "./migrate"\ntype = "web"\ntimeout = "5min"\n'
    found = spec.read(directory=write(tmp_path, manifest=said + '[types.web]\ncommand = "x"\n'))
    assert found.command == ReleaseCommand(command="./migrate", like="web", timeout_s=300.0)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("[release]", "release.command: missing; write command"),
        ('release.command = " "', "release.command: ' ' is no command"),
        ('[release]\ncommand = "x"\ntype = "wob"', "release.type: no type wob in this file; did"),
        ('[release]\ncommand = "x"\ntimeout = 0', "release.timeout: must be"),
        ('[types.release]\ncommand = "x"', "types.release: that is no type but the release"),
    ],
)
def test_a_release_command_that_cannot_be_is_refused(
    tmp_path: Path, said: str, problem: str
) -> None:
    manifest = f'{said}\n[types.web]\ncommand = "x"\n'
    with pytest.raises(InputError) as caught:
        spec.read(directory=write(tmp_path, manifest=manifest))
    assert problem in str(caught.value)
