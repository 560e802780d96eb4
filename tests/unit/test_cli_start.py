"""The program itself: it starts light, every command explains itself, mistakes are one line."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from formctl.__main__ import cli, run
from formctl.errors import InputError
from formctl.settings import parse_target

READING = ["scale", "ps", "show", "hosts", "apps", "releases", "history", "logs", "version"]
READING += ["check", "diff", "rollout", "runs", "explain"]
HEAVY = ("grpc", "google", "asyncio", "dotenv", "formation.wire")


def every_command() -> list[str]:
    context = click.Context(cli)
    return cli.list_commands(context)


def test_help_and_completion_import_nothing_heavy() -> None:
    code = (
        "import sys; from formctl.__main__ import run; "
        "run(['--help']); run(['scale', '--help']); run(['completion', 'bash']); "
        f"sys.exit(','.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("name", every_command())
def test_every_command_has_help_with_examples(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Examples:" in shown
    assert f"formctl {name}" in shown


@pytest.mark.parametrize("name", READING)
def test_every_reading_command_can_answer_in_json(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run([name, "--help"])
    assert "|json]" in capsys.readouterr().out.replace("\n", "").replace(" ", "")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in every_command())


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["ps", "--nope"],
        ["logs", "web.x"],
        ["logs", "--tail", "-5"],
        ["logs", "--tail", "x"],
        ["restart", "web.0"],
        ["scale", "web=x"],
        ["scale", "web=1", "--timeout", "0"],
        ["scale", "web=1", "-o", "json"],
        ["delete"],
        ["dev", "/no/such/place"],
        ["dev", "--agents", "0"],
        ["ps", "--coordinator", "nonsense"],
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("formctl: ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["completion", shell]) == 0
    assert "_FORMCTL_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, ("", 0)), ("web", ("web", 0)), ("web.3", ("web", 3)), ("-odd_1.12", ("-odd_1", 12))],
)
def test_a_target_is_a_type_or_one_instance(text: str | None, expected: tuple[str, int]) -> None:
    assert parse_target(text) == expected


@pytest.mark.parametrize("text", [".3", "web.", "web.0", "web.1.2", "a b", "web.99999999"])
def test_other_targets_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_target(text)
