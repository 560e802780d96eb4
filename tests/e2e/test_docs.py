"""What the README shows is what happens: its tour is typed in and its output compared in shape."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dev import Dev

ROOT = Path(__file__).resolve().parents[2]


def tour() -> list[tuple[str, list[str]]]:
    """(command, shown output) of every `$` line in the README's console blocks."""
    steps: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line)
    return steps


def shape(line: str) -> str:
    """Times, pids, ports, counts and hosts differ from run to run; words do not."""
    line = re.sub(r"\d[\d.:-]*", "0", line)
    line = re.sub(r"\b(on|b|a|c|h) ?[abc]\b", "H", line)
    return re.sub(r"\s+", " ", line).strip()


def words_of(lines: list[str]) -> set[str]:
    known = {"healthy", "stopped", "ready", "restarting", "INSTANCE", "HOST", "APP", "WHEN"}
    return {word for line in lines for word in line.split() if word in known}


@pytest.fixture(scope="module")
def hello() -> Iterator[Dev]:
    flags = ("--agents", "3", "-m", "web=3,worker=2,clock=1")
    with Dev(ROOT / "examples" / "hello", *flags) as dev:
        dev.wait_line("ready: ")
        dev.wait_line("worker.2 did job 2")
        yield dev


def test_the_tour_has_steps() -> None:
    assert len(tour()) >= 8


@pytest.mark.parametrize(("command", "shown"), tour())
def test_the_tours_commands_do_what_is_shown(hello: Dev, command: str, shown: list[str]) -> None:
    program, *words = shlex.split(command)
    assert program == "formctl"
    done = hello.formctl(*words, check=words[0] != "plan")
    # A plan that would change something says so with its exit code.
    assert done.returncode == (1 if words[0] == "plan" else 0), done.stderr
    printed = done.stdout.splitlines()
    assert words_of(shown) <= words_of(printed)
    if "..." not in shown and words[0] in ("ps", "hosts", "apps", "scale"):
        assert len(printed) == len(shown)
    if shown[-1] != "...":
        assert shape(shown[-1]).split()[-1] == shape(printed[-1]).split()[-1]


def programs() -> list[str]:
    text = (ROOT / "docs" / "client.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("program", programs())
def test_the_clients_examples_run(hello: Dev, program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60,
        cwd=hello.project, env=dict(hello.environment()),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "web.1 healthy" in done.stdout or "'web': 4" in done.stdout


def test_every_document_that_is_linked_exists() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")]
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_every_program_that_the_reading_order_names_exists() -> None:
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Reading order") :]
    tracked = {path.name for path in ROOT.glob("*/**/*.py")}
    named = {name.rsplit("/", 1)[-1] for name in re.findall(r"`([\w/]+\.py)`", section)}
    assert named - tracked == set()


def test_every_test_that_the_security_page_names_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    sources = {path.name: path.read_text() for path in (ROOT / "tests").glob("*/test_*.py")}
    assert set(re.findall(r"`(test_\w+\.py)", text)) <= set(sources)
    named = set(re.findall(r"(?:::|`)(test_\w+)`", text))
    defined = {
        name for source in sources.values() for name in re.findall(r"def (test_\w+)", source)
    }
    assert len(named) > 10
    assert named - defined == set()
