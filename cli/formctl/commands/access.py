"""`formctl access`: who was given a certificate, and how to take it back."""

from __future__ import annotations

from enum import IntEnum

import click

from formation.identity import JOINABLE, Role
from formation.person import who
from formctl import jsonview, renderaccess
from formctl.errors import InputError
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
    why_option,
)


@click.group("access", invoke_without_command=True)
@output_option
@coordinator_option
@click.pass_context
@examples(
    "formctl access",
    "formctl access revoke deployer ci --why 'its key leaked'",
    "formctl access rotate",
)
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

    A coordinator holds the authority's key: after one was stolen, revoke it and rotate the
    authority too (formctl access rotate).
    """
    run(revoked(settings, Role(role), name, why))
    say(f"{role} {name} is cut off; a new token lets it join again")


@command.command("rotate")
@click.option("--show", is_flag=True, help="Only say how far it is.")
@click.option("--finish", is_flag=True, help="The authority before this one counts no more.")
@click.option("--force", is_flag=True, help="Finish although somebody would be cut off.")
@coordinator_option
@pass_settings
@examples(
    "formctl access rotate              another authority signs; both are trusted",
    "formctl access rotate --show       who has nothing of it yet",
    "formctl access rotate --finish     the one before counts no more",
)
def rotate(settings: Settings, show: bool, finish: bool, force: bool) -> None:
    """Give the cluster another authority, in two steps; nothing is stopped by either.

    After the first step hosts and coordinators have certificates of it within seconds, people with
    their next command on another day. The second step ends what the authority before has signed.
    """
    if force and not finish:
        raise InputError("--force belongs to --finish")
    if show and finish:
        raise InputError("--show changes nothing: leave out --finish")
    step = Step.FINISH if finish else Step.SHOW if show else Step.BEGIN
    run(_rotate(settings, step, force=force))


class Step(IntEnum):
    """As in the protocol."""

    SHOW = 1
    BEGIN = 2
    FINISH = 3


async def _rotate(settings: Settings, step: Step, *, force: bool) -> None:
    from formation import wire_access
    from formation.v1 import access_pb2 as pb
    from formctl.client import Client

    request = pb.RotateAuthorityRequest(
        step=pb.RotateAuthorityRequest.Step.ValueType(step), force=force, who=who()
    )
    async with Client(settings.target()) as client:
        answer = await client.change_access(lambda stub: stub.RotateAuthority, request)
    behind = [wire_access.issued_from_pb(issued) for issued in answer.behind]
    trust = wire_access.trust_from_pb(answer.trust)
    say(renderaccess.rotation(trust, behind, width=terminal_width()))


async def revoked(settings: Settings, role: Role, name: str, why: str) -> None:
    from formation import wire_access
    from formation.v1 import access_pb2 as pb
    from formctl.client import Client

    request = pb.RevokeIdentityRequest(
        role=wire_access.role_to_pb(role), name=name, who=who(), why=why
    )
    async with Client(settings.target()) as client:
        await client.change_access(lambda stub: stub.RevokeIdentity, request)
