"""`formctl exec`: a command beside a running instance, in a terminal or between pipes."""

from __future__ import annotations

import shlex

import click

from formation.person import who
from formation.targets import parse_target
from formctl import escapes
from formctl.errors import InputError
from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
    pass_settings,
    run,
)


class _Escape(click.ParamType[str]):
    """A printable character, or `none`, which is ""."""

    name = "character"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        text = str(value)
        if text in ("", escapes.NONE):
            return ""
        if len(text) != 1 or not text.isascii() or not text.isprintable() or text in ".?":
            self.fail(f"{text!r} is neither one character (no . or ?) nor none", param, ctx)
        return text


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.option(
    "--tty/--no-tty",
    "-t/-T",
    "terminal",
    default=None,
    help="With a terminal over there, or with pipes; default: as stdin and stdout are here.",
)
@click.option(
    "-e",
    "--escape",
    type=_Escape(),
    default=escapes.DEFAULT,
    show_default=True,
    metavar="CHAR|none",
    help="At the beginning of a line, and then a dot: ends a terminal session that is stuck.",
)
@click.argument("instance", metavar="TYPE.N | TYPE")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND...")
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl exec web.3 -- bash                      a shell beside web.3; ~. leaves it when stuck",
    "formctl exec web -- env                         beside a healthy one of web",
    "formctl exec web.3 -- 'ls -l | head'            one word is a line for the shell",
    "formctl exec db.1 -- pg_dump shop > shop.sql    bytes stay bytes",
    "formctl exec db.1 -- psql shop < fix.sql",
)
def command(
    settings: Settings, terminal: bool | None, escape: str, instance: str, words: tuple[str, ...]
) -> int:
    """Run a command beside a running instance: same variables, user, directory, limits and cgroup.

    Its exit code becomes this command's. It ends with the instance, with this command, and with the
    connection; nothing of it stays. For operators, and deployers of the app.
    """
    type_name, ordinal = parse_target(instance)
    line = words[0] if len(words) == 1 else shlex.join(words)
    if not line.strip():
        raise InputError(f"nothing to run: formctl exec {instance} -- COMMAND")
    return run(_exec(settings, type_name, ordinal, line, terminal, escape))


async def _exec(
    settings: Settings,
    type_name: str,
    ordinal: int,
    line: str,
    terminal: bool | None,
    escape: str,
) -> int:
    from formation.v1 import control_pb2 as pb
    from formation.v1 import exec_pb2
    from formctl import localend
    from formctl.appname import find_app
    from formctl.client import Client
    from formctl.execfollow import follow_exec

    if terminal is None:
        terminal = localend.is_terminal(0) and localend.is_terminal(1)
    rows, columns = localend.size()
    described = exec_pb2.ExecTerminal(
        name=settings.environ.get("TERM", ""),
        size=exec_pb2.ExecSize(rows=rows, columns=columns),
    )
    target = settings.target()
    async with Client(target) as client:
        app = (await find_app(client, settings, target)).app.name
        request = pb.StartExecRequest(
            app=app,
            type=type_name,
            ordinal=ordinal,
            command=line,
            terminal=described if terminal else None,
            who=who(),
        )
        return await follow_exec(client, request, escape)
