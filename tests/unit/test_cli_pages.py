"""The pages of the commands, and that what documents tell people to type exists."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from formctl.__main__ import cli
from formctl.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "cli").glob("*.md"))
# What starts a comment behind a command, and what ends a command within a line of a shell.
_COMMENT, _ENDS = re.compile(r"\s{2,}(?=\S).*$|\s+#.*$"), {"|", ">", ">>", "&&", ";", "<"}


def words_of(line: str) -> list[str]:
    """Of the formctl in a line as it is typed; without what else is in it."""
    typed = _COMMENT.sub("", line.strip().removeprefix("$ "))
    typed = re.sub(r"^.*?\bformctl(?=\s|$)", "formctl", typed).rstrip(")")
    found: list[str] = []
    for word in shlex.split(typed):
        if word in _ENDS:
            break
        found.append(word)
    return found[1:]


def parsed(words: list[str]) -> None:
    """As far as possible without doing it: every command, option and value is accepted."""
    context = cli.make_context("formctl", list(words), obj=Settings())
    while isinstance(context.command, click.Group):
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        name, command, rest = context.command.resolve_command(context, rest)
        assert command is not None
        context = command.make_context(name, rest, parent=context)


def examples() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in re.findall(r"```text\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.splitlines():
                if "formctl" in line and "[OPTIONS]" not in line:
                    yield page.stem, line


@pytest.mark.parametrize(("page", "line"), list(examples()))
def test_every_example_of_a_page_is_one_that_formctl_takes(
    page: str, line: str, tmp_path: Path
) -> None:
    # The paths that examples name.
    for name in ("shop", "project/examples/hello", "project/apps/shop"):
        (tmp_path / name).mkdir(parents=True)
    with contextlib.chdir(tmp_path / "project"):
        parsed(words_of(line))


@pytest.mark.parametrize("line", ["formctl ps --nope", "formctl plan nope", "formctl logs -n x"])
def test_an_example_that_formctl_would_refuse_is_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        parsed(words_of(line))
    assert exists("formctl plan scale web=5 --undo")
    assert not exists("formctl plan scale --nope")
    assert not exists("formctl nope")


def test_there_is_a_page_for_each_command_and_the_overview_leads_to_it() -> None:
    overview = (ROOT / "docs" / "cli.md").read_text()
    names = [*cli.list_commands(click.Context(cli)), "formctl"]
    assert sorted(names) == [page.stem for page in PAGES]
    assert [name for name in names if f"(cli/{name}.md)" not in overview] == []


def typed_in_documents() -> Iterator[tuple[str, str]]:
    """Lines of code blocks that begin with formctl, and code in a text that does."""
    below = ("docs", "docs/design", "docs/migrate")
    documents = [*ROOT.glob("*.md"), *(p for d in below for p in ROOT.glob(f"{d}/*.md"))]
    for document in sorted(documents):
        if document.name == "CHANGELOG.md":
            continue  # it tells of what there was
        text = document.read_text()
        blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
        blocks += re.findall(r"^ {4}.*$", text, re.MULTILINE)
        lines = [line.strip() for block in blocks for line in block.splitlines()]
        inline = re.findall(r"`(formctl [^`\n]+)`", text)
        for line in [*lines, *inline]:
            if re.match(r"(\$ )?formctl [a-z]", line):
                yield str(document.relative_to(ROOT)), line


def test_every_command_and_option_that_a_document_names_exists() -> None:
    found = list(typed_in_documents())
    assert len(found) > 60
    wrong = [f"{document}: {line}" for document, line in found if not exists(line)]
    assert wrong == []


def exists(line: str) -> bool:
    """The command, its subcommand and its long options; values may be placeholders."""
    words = re.sub(r"[|<>…].*$|  +.*$|\s#.*$", "", line.removeprefix("$ ")).split()[1:]
    context, known = click.Context(cli), options_of(cli)
    command: click.Command = cli
    for word in words:
        if word == "--":
            break
        if word.startswith("--") and word.partition("=")[0].strip("[]()'\".,:;") not in known:
            return False
        if isinstance(command, click.Group) and not word.startswith("-"):
            below = command.get_command(context, word.strip("[]()'\".,:;"))
            if below is None and command is cli and word.isalpha() and word.islower():
                return False
            if below is not None:
                command, known = below, known | options_of(below)
    return True


def options_of(command: click.Command) -> set[str]:
    every = command.get_params(click.Context(command))
    return {name for option in every for name in (*option.opts, *option.secondary_opts)}


def every_option() -> Iterator[tuple[str, click.Context, click.Option]]:
    waiting = [click.Context(cli, info_name="formctl")]
    while waiting:
        context = waiting.pop()
        if isinstance(context.command, click.Group):
            for name in context.command.list_commands(context):
                command = context.command.get_command(context, name)
                assert command is not None
                waiting.append(click.Context(command, info_name=name, parent=context))
        for option in context.command.params:
            if isinstance(option, click.Option):
                yield context.command_path, context, option


def test_every_option_says_what_it_is_for_and_what_it_takes() -> None:
    bad = [
        f"{path} {option.opts[-1]}"
        for path, context, option in every_option()
        if not option.help or "RANGE" in option.make_metavar(context)
    ]
    assert bad == []


def test_no_table_of_the_overview_says_something_twice() -> None:
    for block in (ROOT / "docs" / "cli.md").read_text().split("\n\n"):
        keys = [row.split(" | ")[0] for row in block.splitlines() if row.startswith("| ")]
        assert len(keys) == len(set(keys)), block[:80]
