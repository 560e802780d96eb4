"""Write docs/cli/COMMAND.md for every command of formctl, or with --check say which are stale.

Each page is made of the command itself: its words, arguments, options and examples. What a page
should say better is said better in the command.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from formctl.__main__ import cli

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "cli"
_WIDTH = 120
_EXAMPLES = "Examples:\n"
_MADE = "<!-- Made by tools/gencli.py of the command itself: make docs. -->"


def pages() -> dict[str, str]:
    """By file name."""
    root = click.Context(cli, info_name="formctl")
    found = {"formctl.md": page(root)}
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None, f"{name} is listed"
        found[f"{name}.md"] = page(click.Context(command, info_name=name, parent=root))
    return found


def page(context: click.Context) -> str:
    lines = [_MADE, *section(context, "#")]
    if isinstance(context.command, click.Group) and context.parent is not None:
        for child in children(context):
            lines += ["", *section(child, "##")]
    lines += ["", "All commands: [cli.md](../cli.md)."]
    return "\n".join(lines) + "\n"


def children(context: click.Context) -> Iterator[click.Context]:
    group = context.command
    assert isinstance(group, click.Group), "it has commands below it"
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{name} is listed"
        yield click.Context(command, info_name=name, parent=context)


def section(context: click.Context, heading: str) -> list[str]:
    command = context.command
    words, examples = split_help(command.help or "")
    lines = [f"{heading} {context.command_path}", "", "```text", usage(context), "```", "", *words]
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    rows = [row(context, option) for option in options if "--help" not in option.opts]
    if rows:
        lines += ["| option | does |", "|---|---|", *rows]
    if examples:
        lines += ["", "```text", *examples, "```"]
    return lines


def usage(context: click.Context) -> str:
    return " ".join([context.command_path, *context.command.collect_usage_pieces(context)])


def split_help(text: str) -> tuple[list[str], list[str]]:
    """The words as paragraphs, each followed by an empty line; the examples as they are."""
    head, _, tail = text.replace("\b\n", "").partition(_EXAMPLES)
    words: list[str] = []
    for paragraph in re.split(r"\n\s*\n", head.strip()):
        words += [textwrap.fill(" ".join(paragraph.split()), _WIDTH), ""]
    return words, textwrap.dedent(tail).strip("\n").split("\n") if tail else []


def row(context: click.Context, option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if not (option.is_flag or option.count):
        names += f" `{option.make_metavar(context).strip('[]')}`"
    more = "; ".join(filter(None, (default(context, option), bounds(option.type), repeats(option))))
    text = " ".join((option.help or "").split())
    cells = [names, f"{text}{f' ({more})' if more else ''}".strip()]
    # A table's cells end at a bar, also within code.
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def default(context: click.Context, option: click.Option) -> str:
    value = option.get_default(context)
    if not option.show_default or option.is_flag or value is None:
        return ""
    return f"default: {value:g}" if isinstance(value, (int, float)) else f"default: {value}"


def bounds(kind: click.ParamType[object]) -> str:
    if not isinstance(kind, (click.IntRange, click.FloatRange)):
        return ""
    least = "" if kind.min is None else f"{'above' if kind.min_open else 'from'} {kind.min:g}"
    most = "" if kind.max is None else f"up to {kind.max:g}"
    return " ".join(filter(None, (least, most)))


def repeats(option: click.Option) -> str:
    return "may be repeated" if option.multiple and "repeat" not in (option.help or "") else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when stale")
    check: bool = parser.parse_args().check
    wanted = pages()
    there = {path.name: path.read_text() for path in OUTPUT.glob("*.md")}
    stale = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    if check and stale:
        sys.exit(f"gencli: stale: {', '.join(stale)}; run: make docs")
    OUTPUT.mkdir(exist_ok=True)
    for name in stale:
        if name in wanted:
            (OUTPUT / name).write_text(wanted[name])
        else:
            (OUTPUT / name).unlink()


if __name__ == "__main__":
    main()
