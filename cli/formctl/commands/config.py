"""`formctl config`: the operator's environment variables. Each change is a release."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import click

from formation.person import who
from formctl import jsonview, render
from formctl.errors import InputError
from formctl.settings import (
    Settings,
    app_option,
    canary_option,
    coordinator_option,
    examples,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
    wait_options,
)

_STDIN = "-"


@click.group("config", invoke_without_command=True)
@click.option("--values", is_flag=True, help="Show the values too, which may be secret.")
@output_option
@coordinator_option
@app_option
@click.pass_context
@examples(
    "formctl config                          names, and where each comes from",
    "formctl config --values                 with what they say",
    "formctl config set LOG_LEVEL=debug      a release, rolled out",
    "formctl config set DB_URL=- < url.txt   a value that is in no list of processes",
    "formctl config unset LOG_LEVEL",
)
def command(ctx: click.Context, values: bool, output: str) -> None:
    """List the environment variables of the app; set or unset the operator's own.

    They go before what the project's files say, and apply hands them on to every release.
    """
    if ctx.invoked_subcommand is not None:
        if values or output != "text":
            raise InputError("--values and -o are for the list, not for set and unset")
        return
    if values and output == "json":
        raise InputError("values are shown to people alone: leave --values or -o json out")
    run(_list(ctx.ensure_object(Settings), values=values, output=output))


@command.command("set")
@click.argument("words", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--from", "file", metavar="FILE", help="A .env file; - for standard input.")
@click.option("--reason", default="", help="Kept with the release.")
@canary_option
@wait_options
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl config set A=1 B=2",
    "formctl config set KEY=- < key.txt      NAME=- reads it from standard input",
    "formctl config set --from prod.env",
)
def set_(
    settings: Settings,
    words: tuple[str, ...],
    file: str | None,
    reason: str,
    canary: int,
    wait: bool,
    timeout: float,
) -> None:
    """Set variables: a release of its own, rolled out like any other."""
    values = _given(words, file)
    timeout_s = timeout if wait else None
    run(_change(settings, values, (), reason=reason, canary=canary, timeout_s=timeout_s))


@command.command("unset")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--reason", default="", help="Kept with the release.")
@canary_option
@wait_options
@coordinator_option
@app_option
@pass_settings
@examples("formctl config unset LOG_LEVEL")
def unset(
    settings: Settings,
    names: tuple[str, ...],
    reason: str,
    canary: int,
    wait: bool,
    timeout: float,
) -> None:
    """Take variables away; what the project's files say of them counts again."""
    timeout_s = timeout if wait else None
    run(_change(settings, {}, names, reason=reason, canary=canary, timeout_s=timeout_s))


def _given(words: tuple[str, ...], file: str | None) -> dict[str, str]:
    values: dict[str, str] = {}
    from_stdin = [word for word in words if word.endswith(f"={_STDIN}")]
    if len(from_stdin) + (file == _STDIN) > 1:
        raise InputError("standard input can be read for one thing only")
    if file is not None:
        values |= _of_file(file)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InputError(f"{word!r} sets nothing: write NAME=VALUE")
        values[name] = sys.stdin.read().rstrip("\n") if value == _STDIN else value
    if not values:
        raise InputError("nothing to set: write NAME=VALUE, or name a file with --from")
    return values


def _of_file(file: str) -> dict[str, str]:
    from formctl import envfile

    try:
        text = sys.stdin.read() if file == _STDIN else Path(file).read_text("utf-8")
        return dict(envfile.parse(text, file).values)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: {error}") from None
    except envfile.EnvFileError as error:
        raise InputError.of(error.problems) from None


async def _list(settings: Settings, *, values: bool, output: str) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        app = (await find_app(client, settings, target)).app.name
        request = pb.GetConfigRequest(app=app, values=values)
        found = await client.read(lambda stub: stub.GetConfig, request)
    listed = [(v.name, v.value, v.origin) for v in found.variables]
    if output == "json":
        say_json(jsonview.config(listed, app=app, release=found.release))
    else:
        say(render.config(listed, values=values))


async def _change(
    settings: Settings,
    values: Mapping[str, str],
    unset: tuple[str, ...],
    *,
    reason: str,
    canary: int,
    timeout_s: float | None,
) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.variables import change

    request = pb.SetConfigRequest(set=values, unset=unset, reason=reason, canary=canary, who=who())
    await change(settings, request, lambda stub: stub.SetConfig, timeout_s)
