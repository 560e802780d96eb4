"""The file of contexts is people's own: it is added to, and nothing of theirs is lost."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from formation import contexts

THEIRS = '# mine\ncurrent = "prod"\n\n[contexts.prod]\ncoordinator = ["a:1"] # the old one\n'


def test_the_first_context_becomes_the_current_one() -> None:
    text = contexts.with_context("", "default", ("a:1", "b:1"))
    assert tomllib.loads(text) == {
        "current": "default",
        "contexts": {"default": {"coordinator": ["a:1", "b:1"]}},
    }


def test_another_one_is_added_behind_what_is_there() -> None:
    text = contexts.with_context(THEIRS, "staging", ("c:1",))
    assert text.startswith(THEIRS)
    table = tomllib.loads(text)
    assert table["current"] == "prod"
    assert table["contexts"]["staging"] == {"coordinator": ["c:1"]}


def test_the_same_again_changes_nothing() -> None:
    assert contexts.with_context(THEIRS, "prod", ("a:1",)) == THEIRS


def test_a_name_that_means_another_cluster_is_not_taken_away() -> None:
    with pytest.raises(ValueError, match=r"contexts\.prod has other coordinators"):
        contexts.with_context(THEIRS, "prod", ("z:1",))


def test_a_file_that_is_no_toml_is_left_as_it_is(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    path = Path(contexts.context_path(environ))
    path.parent.mkdir()
    path.write_text("current = prod")
    with pytest.raises(ValueError, match=r".+"):
        contexts.add(environ, "default", ("a:1",))
    assert path.read_text() == "current = prod"
    path.write_text(THEIRS)
    assert contexts.add(environ, "new", ("b:1",)) is False
    assert contexts.add(environ, "prod", ("a:1",)) is True


def test_a_context_has_an_identity_only_when_its_file_is_there(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert contexts.identity_of(environ, "prod") == ""
    assert contexts.identity_of(environ, "") == ""
    directory = Path(contexts.identity_dir(environ, "prod"))
    directory.mkdir(parents=True)
    (directory / contexts.IDENTITY).touch()
    assert contexts.identity_of(environ, "prod") == str(directory)
