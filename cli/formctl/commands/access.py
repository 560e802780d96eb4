"""`formctl access`: who was given a certificate, and how to take it back."""

from __future__ import annotations

import click

from formation.identity import JOINABLE, Role
from formctl import jsonview, renderaccess
from formctl.settings import (
    Settings,
    coordinator_option,
    examples,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
    terminal_width,
    who,
    why_option,
)


@click.group("access", invoke_without_command=True)
@output_option
@coordinator_option
@click.pass_context
@examples("formctl access", "formctl access revoke deployer ci --why 'its key leaked'")
def command(ctx: click.Context, output: str) -> None:
    """Show who was given a certificate, and until when each counts."""
    if ctx.invoked_subcommand is None:
        run(_list(ctx.ensure_object(Settings), output))


async def _list(settings: Settings, output: str) -> None:
    from formation import wire_access
    from formation.v1 import access_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        request = pb.ListIdentitiesRequest()
        answer = await client.read_access(lambda stub: stub.ListIdentities, request)
    found = [wire_access.issued_from_pb(issued) for issued in answer.identities]
    if output == "json":
        say_json([jsonview.identity(issued) for issued in found])
    else:
        say(renderaccess.identities(found, width=terminal_width()))


@command.command("revoke")
@click.argument("role", type=click.Choice([role.value for role in JOINABLE]))
@click.argument("name")
@why_option
@coordinator_option
@pass_settings
@examples("formctl access revoke operator bob --why 'has left'")
def revoke(settings: Settings, role: str, name: str, why: str) -> None:
    """Cut somebody off at once; they need a new token to come back.

    A coordinator holds the keys of the cluster itself: after one was stolen its certificate is
    not enough to take back. SECURITY.md says what is.
    """
    run(revoked(settings, Role(role), name, why))
    say(f"{role} {name} is cut off; a new token lets it join again")


async def revoked(settings: Settings, role: Role, name: str, why: str) -> None:
    from formation import wire_access
    from formation.v1 import access_pb2 as pb
    from formctl.client import Client

    request = pb.RevokeIdentityRequest(
        role=wire_access.role_to_pb(role), name=name, who=who(), why=why
    )
    async with Client(settings.target()) as client:
        await client.change_access(lambda stub: stub.RevokeIdentity, request)
