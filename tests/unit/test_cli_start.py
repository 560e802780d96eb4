"""The program itself: it starts light, every command explains itself, mistakes are one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import click
import pytest

from formation.targets import parse_target
from formctl.__main__ import cli, run
from formctl.errors import InputError

READING = ["scale", "ps", "show", "hosts", "apps", "releases", "history", "logs", "version"]
READING += ["check", "diff", "rollout", "runs", "explain"]
HEAVY = ("grpc", "google", "asyncio", "dotenv", "formation.wire")
# What a command that only lists has no use for.
ASIDE = (
    "aiohttp", "cryptography", "cronsim", "dotenv", "h11", "numpy", "prometheus_client",
    "prompt_toolkit", "tenacity", "tomllib", "formation.manifest", "formation.memory",
    "formation.model", "formation.pki", "formation.requests", "formation.rules", "formation.wire",
    "formation.settings", "formation.v1.journal_pb2", "formctl.jsonview", "formctl.liveline",
    "formctl.spec", "formctl.typelines", "pathlib",
)  # fmt: skip
# As measured, and some more: who needs more should look what for.
_HELP_MODULES_MAX, _PS_MODULES_MAX = 160, 305


def every_command() -> list[str]:
    context = click.Context(cli)
    return cli.list_commands(context)


def modules_after(code: str, **environ: str) -> set[str]:
    """What a new Python has imported when it has done that."""
    code = f"import sys; {code}; print('\\n'.join(sys.modules), file=sys.stderr)"
    words, env = [sys.executable, "-c", code], {**os.environ, **environ}
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60, env=env)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "from formctl.__main__ import run; run(['--help'])",
        "from formctl.__main__ import run; run(['scale', '--help'])",
        "from formctl.__main__ import run; run(['completion', 'bash'])",
        "from formctl.__main__ import run; run(['check', '--help'])",
    ],
)
def test_help_and_completion_import_nothing_heavy(code: str) -> None:
    assert modules_after(code).isdisjoint(HEAVY)


COMPLETES = """
import contextlib
from formctl.__main__ import cli
with contextlib.suppress(SystemExit):
    cli.main([], prog_name="formctl")
"""
COMPLETING = {"_FORMCTL_COMPLETE": "bash_complete", "COMP_WORDS": "formctl s", "COMP_CWORD": "1"}


@pytest.mark.parametrize(
    ("code", "environ"),
    [
        ("from formctl.__main__ import run; run(['--help'])", {}),
        ("from formctl.__main__ import run; run(['--version'])", {}),
        (COMPLETES, COMPLETING),
    ],
)
def test_what_is_about_all_commands_imports_none_of_them(
    code: str, environ: dict[str, str]
) -> None:
    found = modules_after(f"exec({code!r})", **environ)
    assert not [name for name in found if name.startswith("formctl.commands.")]
    assert found.isdisjoint({"formation.model", "msgspec"})
    assert len(found) <= _HELP_MODULES_MAX


def test_ps_imports_what_it_needs_and_no_more() -> None:
    """Counted instead of timed: the time of a start is nearly all spent in imports."""
    code = (
        "from formation import grpcenv; grpcenv.prepare(); "
        "from formctl.__main__ import run; "
        "run(['ps', '--coordinator', 'unix:/no/such/socket'])"
    )
    found = modules_after(code)
    assert "grpc.aio" in found
    assert found.isdisjoint(ASIDE)
    assert len(found) <= _PS_MODULES_MAX


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
    # Each in one line of 80.
    assert all(re.search(rf"^  {name} +\S.*\.$", listed, re.MULTILINE) for name in every_command())
    assert all(len(line) <= 80 for line in listed.splitlines())


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


def test_a_full_disk_is_one_line() -> None:
    words = [sys.executable, "-m", "formctl", "--help"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            words, check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (
        1,
        "formctl: the output could not be written: no space left\n",
    )
