"""`formctl secret`: values that nobody reads back. Each change is a release."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click

from formation.person import who
from formation.secrets import problem_with_name, problem_with_value
from formctl import jsonview, rendersecret
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
    terminal_width,
    wait_options,
)


@click.group("secret", invoke_without_command=True)
@output_option
@coordinator_option
@app_option
@click.pass_context
@examples(
    "formctl secret                          names, versions, and which types get them",
    "formctl secret set DB_URL               asks for it; or: formctl secret set DB_URL < url.txt",
    "formctl secret unset DB_URL",
    "formctl secret rotate                   another key seals all of the cluster's",
)
def command(ctx: click.Context, output: str) -> None:
    """List the app's secrets: variables whose values only its processes see.

    They are kept sealed, go only to hosts that run what needs them, and before all other
    variables. Nobody can read a value back, so keep it where it came from.
    """
    if ctx.invoked_subcommand is not None:
        if output != "text":
            raise InputError("-o is for the list")
        return
    run(_list(ctx.ensure_object(Settings), output=output))


@command.command("set")
@click.argument("name")
@click.option("--reason", default="", help="Kept with the release.")
@canary_option
@wait_options
@coordinator_option
@app_option
@pass_settings
@examples("formctl secret set DB_URL", "formctl secret set TLS_KEY < key.pem")
def set_(
    settings: Settings, name: str, reason: str, canary: int, wait: bool, timeout: float
) -> None:
    """Set a secret to what comes on standard input: a release, rolled out like any other.

    One newline at the end is not part of it. On a terminal it is asked for, and not shown.
    """
    if "=" in name:
        raise InputError(
            "a value on a command line is seen by everybody on this machine: write the name "
            "alone, the value comes on standard input"
        )
    if wrong := problem_with_name(name):
        raise InputError(wrong)
    values = {name: _value(name)}
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
@examples("formctl secret unset DB_URL")
def unset(
    settings: Settings,
    names: tuple[str, ...],
    reason: str,
    canary: int,
    wait: bool,
    timeout: float,
) -> None:
    """Take secrets away."""
    timeout_s = timeout if wait else None
    run(_change(settings, {}, names, reason=reason, canary=canary, timeout_s=timeout_s))


@command.command("rotate")
@click.option("--finish", is_flag=True, help="No other key: what an interruption has left.")
@coordinator_option
@pass_settings
@examples("formctl secret rotate")
def rotate(settings: Settings, finish: bool) -> None:
    """Seal all secrets of the cluster with another key. Nothing that runs is touched.

    Coordinators keep the keys before: backups hold what they have sealed.
    """
    run(_rotate(settings, finish=finish))


def _value(name: str) -> str:
    """Raises `InputError`, which does not repeat it."""
    if sys.stdin.isatty():
        text = click.prompt(f"value of {name}", hide_input=True, err=True)
    else:
        try:
            text = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError:
            raise InputError(f"{name}: the value is not UTF-8: encode it first") from None
    value = str(text).removesuffix("\n")
    if wrong := problem_with_value(name, value):
        raise InputError(wrong)
    return value


async def _list(settings: Settings, *, output: str) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        app = (await find_app(client, settings, target)).app.name
        found = await client.read(lambda stub: stub.ListSecrets, pb.ListSecretsRequest(app=app))
    listed = [
        rendersecret.SecretLine(
            name=item.name,
            version=item.version,
            set_at_ms=item.set_at_ms,
            set_by=item.set_by,
            key=item.key,
            types=tuple(item.types),
        )
        for item in found.secrets
    ]
    if output == "json":
        say_json(jsonview.secrets(listed, app=app, release=found.release))
    else:
        say(rendersecret.secrets(listed, width=terminal_width()))


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

    request = pb.SetSecretsRequest(set=values, unset=unset, reason=reason, canary=canary, who=who())
    await change(settings, request, lambda stub: stub.SetSecrets, timeout_s)


async def _rotate(settings: Settings, *, finish: bool) -> None:
    from formation.v1 import access_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        request = pb.RotateSealingKeyRequest(finish=finish, who=who())
        done = await client.change_access(lambda stub: stub.RotateSealingKey, request)
    say(f"key {done.key} seals: {done.secrets} sealed anew, of {done.releases} releases")
