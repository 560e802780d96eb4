"""`formctl login`: a person becomes somebody in a cluster, by a token."""

from __future__ import annotations

import os

import click

from formation import addresses, contexts
from formation.identity import PEOPLE, TokenText, read_token
from formctl.errors import CommandError, InputError, UnreachableError
from formctl.settings import (
    Settings,
    coordinator_option,
    examples,
    pass_settings,
    run,
    say,
)


@click.command("login")
@coordinator_option
@click.argument("address", required=False)
@click.argument("token", required=False)
@click.option("--web", is_flag=True, help="Into the page of this cluster, as who you are here.")
@click.option(
    "--context", default="default", show_default=True, help="What this cluster is called here."
)
@pass_settings
@examples(
    "formctl login 10.0.0.1:7100 FORM1…",
    "formctl login 10.0.0.1:7100 - --context staging    reads the token from standard input",
    "formctl login --web                                prints where to open the page",
)
def command(
    settings: Settings, address: str | None, token: str | None, web: bool, context: str
) -> None:
    """Become who the token says. Your key is made here and never leaves this machine.

    With --web, a line to open in a browser: good once, within a minute, and for eight hours then.
    """
    from formation.runtime import pasted

    if web:
        if address or token:
            raise InputError("--web needs no address and no token: it uses what you are here")
        run(_login_to_page(settings))
        return
    if not address or not token:
        raise InputError("needs an address and a token, as formctl token create prints them")
    if not contexts.CONTEXT_NAME.fullmatch(context):
        raise InputError(f"--context {context!r}: letters, digits, '_' and '-' only")
    try:
        where = addresses.address(address)
        read = read_token(pasted(token))
    except ValueError as error:
        raise InputError(str(error)) from None
    run(_login(settings, where, read, context))


async def _login_to_page(settings: Settings) -> None:
    from formation.v1 import access_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        request = pb.CreateWebLoginRequest()
        made = await client.change_access(lambda stub: stub.CreateWebLogin, request)
    # Behind the #: browsers send that to nobody, so it is in no log.
    say(f"{made.url}#ticket={made.ticket}")


async def _login(settings: Settings, address: str, token: TokenText, context: str) -> None:
    from formation.credentials import CredentialError
    from formation.enrolling import EnrolError, enrol
    from formation.runtime import now_ms, utc

    environ = settings.environ
    try:
        joined = await enrol(address, token, "", sorted(PEOPLE), now_ms())
        current = contexts.add(environ, context, joined.coordinators)
        joined.save(contexts.identity_dir(environ, context))
    except EnrolError as error:
        raise (CommandError if error.final else UnreachableError)(str(error)) from None
    except (CredentialError, OSError, ValueError) as error:
        path = os.path.dirname(contexts.context_path(environ))
        raise CommandError(f"{path}: {error}") from None
    seen = joined.seen
    apps = f" of {', '.join(seen.identity.apps)}" if seen.identity.apps else ""
    say(f"you are {seen.identity}{apps}, until {utc(seen.expires_at_ms)}; use renews it")
    if not current:
        say(f"to use this cluster: FORMATION_CONTEXT={context}")
