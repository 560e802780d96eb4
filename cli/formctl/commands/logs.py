"""`formctl logs`: the lines of all hosts as one, oldest first."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from formation.targets import parse_target
from formctl import jsonview
from formctl.loglines import Line, Painter
from formctl.settings import (
    Moment,
    Settings,
    app_option,
    colour_option,
    coordinator_option,
    examples,
    is_terminal,
    note,
    output_option,
    pass_settings,
    run,
    say_json,
)

if TYPE_CHECKING:
    from formctl.following import Choice

_ALL = "all"


class _Tail(click.ParamType[int]):
    """A number of lines, or `all`."""

    name = "lines"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        text = str(value)
        if text == _ALL:
            return -1
        if not text.isascii() or not text.isdigit() or len(text) > len("100000000"):
            self.fail(f"{text!r} is neither a number of lines nor all", param, ctx)
        return int(text)


@click.command("logs")
@click.argument("targets", nargs=-1, metavar="[TYPE | TYPE.N]...")
@click.option("-f", "--follow", is_flag=True, help="Stay, and show new lines.")
@click.option(
    "-n",
    "--tail",
    type=_Tail(),
    default="100",
    show_default=True,
    metavar="N|all",
    help="The last lines over all hosts.",
)
@click.option(
    "--since",
    type=Moment(),
    metavar="TIME",
    help="Only what is not older: 90s, 10m, 2h, 1d, or a time such as 14:30 or 2026-11-22T14:30.",
)
@click.option("--until", type=Moment(), metavar="TIME", help="Only what is not younger.")
@click.option("-g", "--grep", default="", metavar="TEXT", help="Only lines with just this in them.")
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="Only of this host; repeats.")
@click.option("--no-prefix", is_flag=True, help="Without time and name before each line.")
@colour_option
@output_option
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl logs                    the last 100 lines of the app",
    "formctl logs -f web             one type on all hosts, as it happens",
    "formctl logs web.3 --tail all   all that is kept of one instance",
    "formctl logs web worker.2 --host a --since 10m --grep error",
    "formctl logs --since 14:30 --until 14:35 --tail all --no-prefix > incident.log",
    "formctl logs -f -o json | jq .text",
)
def command(
    settings: Settings,
    targets: tuple[str, ...],
    follow: bool,
    tail: int,
    since: int | None,
    until: int | None,
    grep: str,
    hosts: tuple[str, ...],
    no_prefix: bool,
    output: str,
) -> None:
    """Show the output of the instances, merged over all hosts by time.

    Agents look for what is asked, so that no more than that is sent.
    """
    from formctl.following import Choice

    if follow and until is not None:
        raise click.UsageError("--until: with --follow there is no end")
    choice = Choice(
        targets=tuple(map(parse_target, targets)),
        not_before_us=since or 0,
        not_after_us=until or 0,
        text=grep,
        hosts=hosts,
    )
    write = _write_json if output == "json" else _text_writer(settings, prefix=not no_prefix)
    run(_logs(settings, choice, follow=follow, tail=tail, write=write))


async def _logs(
    settings: Settings,
    choice: Choice,
    *,
    follow: bool,
    tail: int,
    write: Callable[[list[Line]], None],
) -> None:
    from formation import runtime
    from formctl import following
    from formctl.appname import RUNS, find_app, known_type
    from formctl.client import Client
    from formctl.hostwords import check_known

    target = settings.target()
    async with Client(target) as client:
        app = (await find_app(client, settings, target)).app.name
        for type_name, _ in choice.targets:
            if type_name not in RUNS:
                await known_type(client, app, type_name)
        if choice.hosts:
            await check_known(client, choice.hosts)
        await following.follow(
            client,
            following.LogFeed(write, note, tail_lines=tail, started_us=runtime.now_ms() * 1000),
            app=app,
            choice=choice,
            live=follow,
        )


def _text_writer(settings: Settings, *, prefix: bool) -> Callable[[list[Line]], None]:
    neutralised = is_terminal() or settings.color != "auto"
    painter = Painter(colour=settings.colour(), terminal=neutralised, prefix=prefix)

    def write(lines: list[Line]) -> None:
        painter.expect(line.name for line in lines if line.name)
        for line in lines:
            sys.stdout.buffer.write(painter.line(line))
        sys.stdout.buffer.flush()

    return write


def _write_json(lines: list[Line]) -> None:
    for line in lines:
        say_json(jsonview.log_line(line))
