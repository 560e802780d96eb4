"""`.env` text → environment, in python-dotenv's dialect and from the file alone."""

from __future__ import annotations

import os

import pytest

from formctl.envfile import EnvFileError, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A='hello\"world'", 'hello"world'),
        ('A="x\\ny"', "x\ny"),
        ("A=user@domain.com", "user@domain.com"),
        ("A=b#c", "b#c"),
        ("A=b # c", "b"),
        ("A=", ""),
        ("A=it's", "it's"),
        ("export A=1", "1"),
        ('A="http://e.com/api?foo=bar&baz=1"', "http://e.com/api?foo=bar&baz=1"),
        ("A='two\nlines'", "two\nlines"),
        ("\ufeffA=1\r\n", "1"),
        ("A=${B:-deflt}", "deflt"),
    ],
)
def test_a_value_is_read_as_dotenv_reads_it(text: str, expected: str) -> None:
    assert parse(text).values == {"A": expected}
    assert parse(text).warnings == ()


def test_values_are_put_together_from_lines_above() -> None:
    assert parse("A=x\nB=${A}/y\nA=z\n").values == {"A": "z", "B": "x/y"}


def test_the_own_environment_is_never_looked_at() -> None:
    assert "PATH" in os.environ
    found = parse("B=${PATH}/bin\n", ".env")
    assert found.values == {"B": "/bin"}
    assert found.warnings == (".env:1: ${PATH} is not set above in this file and reads as empty",)


def test_every_line_that_is_not_understood_is_told_with_its_number() -> None:
    with pytest.raises(EnvFileError) as caught:
        parse("A=1\n\n\nB\nC='open\nD=2\n=x\nE=a\0b\n", "prod.env")
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        "prod.env:4",
        "prod.env:5",
        "prod.env:7",
        "prod.env:8",
    ]
    assert "B has no value: write B= for an empty one" in caught.value.problems[0]


@pytest.mark.parametrize("name", ["PORT", "PS", "FORMATION_APP"])
def test_a_name_that_formation_sets_is_a_warning(name: str) -> None:
    (warning,) = parse(f"{name}=5000\n").warnings
    assert f"{name} is set by Formation" in warning


def test_switching_dotenv_off_does_not_empty_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_DOTENV_DISABLED", "1")
    assert parse("A=1").values == {"A": "1"}
