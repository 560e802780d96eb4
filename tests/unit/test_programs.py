"""Where a program is: found as execvp finds it, and again without a search for a moment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from formation_agent.programs import Programs, not_found


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def program(path: Path) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"PATH": f"{tmp_path}/first:{tmp_path}/second"}


def test_a_found_program_is_remembered_for_a_moment_only(
    tmp_path: Path, env: dict[str, str]
) -> None:
    clock = Clock()
    programs = Programs(clock)
    second = program(tmp_path / "second" / "x")
    assert programs.find("x", env, "/") == second
    first = program(tmp_path / "first" / "x")
    assert programs.find("x", env, "/") == second
    clock.now_s += 5
    assert programs.find("x", env, "/") == first


def test_a_program_that_went_away_is_sought_at_once(tmp_path: Path, env: dict[str, str]) -> None:
    programs = Programs(Clock())
    first, second = program(tmp_path / "first" / "x"), program(tmp_path / "second" / "x")
    assert programs.find("x", env, "/") == first
    os.unlink(first)
    assert programs.find("x", env, "/") == second
    os.unlink(second)
    assert programs.find("x", env, "/") is None


def test_what_was_not_found_is_sought_again(tmp_path: Path, env: dict[str, str]) -> None:
    programs = Programs(Clock())
    assert programs.find("x", env, "/") is None
    assert programs.find("x", env, "/") is None
    found = program(tmp_path / "first" / "x")
    assert programs.find("x", env, "/") == found


def test_path_and_directory_are_the_childs(tmp_path: Path) -> None:
    programs = Programs(Clock())
    here, there = program(tmp_path / "here" / "x"), program(tmp_path / "there" / "x")
    assert programs.find("x", {"PATH": "."}, str(tmp_path / "here")) == f"{tmp_path}/here/./x"
    assert programs.find("x", {"PATH": "."}, str(tmp_path / "there")) == f"{tmp_path}/there/./x"
    assert programs.find("x", {"PATH": os.path.dirname(here)}, "/") == here
    assert programs.find("x", {"PATH": os.path.dirname(there)}, "/") == there
    assert programs.find("bin/x", {}, "/srv") == "/srv/bin/x"


def test_a_program_that_is_missing_for_want_of_its_directory_is_not_blamed() -> None:
    assert not_found("x", "/no/where") == "working directory does not exist: /no/where"
    assert not_found("x", "/") == "command not found: x"
