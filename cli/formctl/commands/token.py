"""`formctl token`: lines to paste that let a host, a coordinator or a person join."""

from __future__ import annotations

import click

from formation.addresses import words
from formation.identity import JOINABLE, PEOPLE, Role, TokenText, token_text
from formation.person import who
from formctl import jsonview, renderaccess
from formctl.errors import CommandError, InputError
from formctl.settings import (
    Duration,
    Settings,
    coordinator_option,
    examples,
    note,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
    terminal_width,
)

_PROGRAMS = {Role.AGENT: "formation-agent join", Role.COORDINATOR: "formation-coordinator join"}


@click.group("token")
@examples("formctl token create --role agent", "formctl token list", "formctl token revoke ID")
def command() -> None:
    """Let hosts, coordinators and people join: tokens to paste, each good for a while."""


@command.command("create")
@click.option(
    "--role",
    type=click.Choice([role.value for role in JOINABLE]),
    required=True,
    help="What its holder becomes.",
)
@click.option("--name", default="", help="Who that is; needed for people. Default: it says so.")
@click.option(
    "--apps", default="", metavar="PATTERNS", help="A deployer's apps: shop,blog-*; needed there."
)
@click.option(
    "--ttl",
    type=Duration(min=1),
    default="1h",
    show_default=True,
    metavar="TIME",
    help="90s, 15m, 1h, 2d.",
)
@click.option(
    "--uses", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
    help="So many may join with it.",
)  # fmt: skip
@coordinator_option
@pass_settings
@examples(
    "formctl token create --role agent",
    "formctl token create --role agent --uses 20 --ttl 15m    one line for twenty hosts",
    "formctl token create --role coordinator",
    "formctl token create --role deployer --name ci --apps 'shop-*'",
    "formctl token create --role operator --name ann",
)
def create(settings: Settings, role: str, name: str, apps: str, ttl: float, uses: int) -> None:
    """Print one line to paste where somebody shall join.

    Whoever has the line can use it, once if --uses says no more: hand it over as you would a
    password. The cluster keeps nothing of it that would let anybody join.
    """
    patterns = list(words(apps))
    chosen = Role(role)
    if chosen in PEOPLE and not name:
        raise InputError(f"say who shall be this {role}: --name NAME")
    if (chosen is Role.DEPLOYER) != bool(patterns):
        raise InputError("--apps is for deployers, and they need it: --apps 'shop,blog-*'")
    run(_create(settings, chosen, name, patterns, ttl, uses))


async def _create(
    settings: Settings, role: Role, name: str, apps: list[str], ttl_s: float, uses: int
) -> None:
    from formation import pki, wire_access
    from formation.v1 import access_pb2 as pb
    from formctl.client import Client

    secret = pki.new_secret()
    request = pb.CreateTokenRequest(
        public_key=pki.point(pki.token_key(secret).public_key()),
        role=wire_access.role_to_pb(role),
        name=name,
        apps=apps,
        ttl_s=ttl_s,
        uses=uses,
        who=who(),
    )
    async with Client(settings.target()) as client:
        made = await client.change_access(lambda stub: stub.CreateToken, request)
    reachable = [a for a in made.coordinator_addresses if not a.startswith("unix:")]
    if not reachable:
        raise CommandError("this cluster's coordinators listen on Unix sockets only")
    text = token_text(TokenText(authority_key=made.authority_key, secret=secret))
    say(f"{_PROGRAMS.get(role, 'formctl login')} {reachable[0]} {text}")
    note(renderaccess.about(wire_access.token_from_pb(made.token)))


@command.command("list")
@output_option
@coordinator_option
@pass_settings
@examples("formctl token list")
def list_(settings: Settings, output: str) -> None:
    """Show the tokens that still can be used; not what would be pasted."""
    run(_list(settings, output))


async def _list(settings: Settings, output: str) -> None:
    from formation import wire_access
    from formation.v1 import access_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        answer = await client.read_access(lambda stub: stub.ListTokens, pb.ListTokensRequest())
    tokens = [wire_access.token_from_pb(token) for token in answer.tokens]
    if output == "json":
        say_json([jsonview.token(token) for token in tokens])
    else:
        say(renderaccess.tokens(tokens, width=terminal_width()))


@command.command("revoke")
@click.argument("tokens", nargs=-1, required=True, metavar="ID...")
@coordinator_option
@pass_settings
@examples("formctl token revoke 3f0c9a51d2b7e844")
def revoke(settings: Settings, tokens: tuple[str, ...]) -> None:
    """Let nobody join with these any more. Who has joined with them stays."""
    run(_revoke(settings, tokens))


async def _revoke(settings: Settings, tokens: tuple[str, ...]) -> None:
    from formation.v1 import access_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        for token in tokens:
            request = pb.RevokeTokenRequest(id=token, who=who())
            await client.change_access(lambda stub: stub.RevokeToken, request)
            say(f"token {token} revoked")
