"""`formctl hosts`: the machines; `hosts forget` and `hosts revoke` for those that are to go."""

from __future__ import annotations

import sys

import click

from formation.identity import Role
from formation.person import who
from formctl import jsonview, render
from formctl.commands.access import revoked
from formctl.errors import CommandError, InputError
from formctl.settings import (
    Settings,
    coordinator_option,
    examples,
    note,
    pass_settings,
    run,
    say,
    say_json,
    terminal_width,
    why_option,
)
from formctl.tables import hanging


@click.group("hosts", invoke_without_command=True)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "wide", "json"]),
    default="text",
    show_default=True,
    help="wide has more columns; json has stable keys, see docs/cli.md.",
)
@coordinator_option
@click.pass_context
@examples(
    "formctl hosts",
    "formctl hosts -o wide         also limits, versions, and who holds the connection",
    "formctl hosts -o json",
    "formctl hosts forget old-box",
    "formctl hosts label a zone=eu-1",
)
def command(ctx: click.Context, output: str) -> None:
    """List the hosts: state, healthy of assigned instances, size, what they enforce, labels.

    ENFORCES is what a type may ask of the host: limits of cpu, memory and pids, and to run as
    another user. Below the table stands why a host cannot do all of it.
    """
    if ctx.invoked_subcommand is None:
        run(_hosts(ctx.ensure_object(Settings), output))
    elif output != "text":
        raise InputError(f"-o {output} is for reading, not for hosts {ctx.invoked_subcommand}")


@command.command("forget")
@click.argument("hosts", nargs=-1, metavar="HOST...")
@click.option("--silent", is_flag=True, help="All that are silent now; asks first.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@coordinator_option
@pass_settings
@examples("formctl hosts forget old-box", "formctl hosts forget --silent")
def forget(settings: Settings, hosts: tuple[str, ...], silent: bool, yes: bool) -> None:
    """Remove hosts that will not come back. One that is connected is refused.

    What was on them is placed elsewhere, also while the brake is on.
    """
    if bool(hosts) == silent:
        raise InputError("name hosts, or say --silent for all that are silent now")
    run(_forget(settings, hosts, yes=yes))


@command.command("label")
@click.argument("host")
@click.argument("words", nargs=-1, required=True, metavar="NAME[=VALUE] | NAME-...")
@why_option
@coordinator_option
@pass_settings
@examples(
    "formctl hosts label a zone=eu-1 ssd",
    "formctl hosts label a ssd=        takes the agent's own label away",
    "formctl hosts label a zone-       what its agent says counts again",
)
def label(settings: Settings, host: str, words: tuple[str, ...], why: str) -> None:
    """Set labels of a host; they go before those that its agent gives."""
    labels: dict[str, str] = {}
    unset: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals and word.endswith("-") and len(word) > 1:
            unset.append(word.removesuffix("-"))
        elif name:
            labels[name] = value if equals else "true"
        else:
            raise InputError(f"{word!r} is no label: write NAME, NAME=VALUE or, to unset, NAME-")
    run(_label(settings, host, labels, unset, why))


@command.command("revoke")
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@why_option
@coordinator_option
@pass_settings
@examples("formctl hosts revoke stolen-box --why 'its disk was stolen'")
def revoke(settings: Settings, hosts: tuple[str, ...], why: str) -> None:
    """Cut hosts off at once: their certificates count no more.

    What runs there is out of reach then, and is placed elsewhere as for any lost host. The host
    comes back with a token of its own: formctl token create --role agent --name HOST.
    """
    for host in hosts:
        run(revoked(settings, Role.AGENT, host, why))
        say(f"{host} is cut off; formctl token create --role agent --name {host} lets it come back")


async def _label(
    settings: Settings, host: str, labels: dict[str, str], unset: list[str], why: str
) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        request = pb.SetHostRequest(
            host=host, labels=labels, unset_labels=unset, who=who(), why=why
        )
        await client.change(lambda stub: stub.SetHost, request)
        found, _ = await client.hosts()
    line = next((line for line in found if line.status.host == host), None)
    say(f"{host}: {render.labels(line) if line else 'labelled'}")


async def _hosts(settings: Settings, output: str) -> None:
    from formctl.client import Client

    async with Client(settings.target()) as client:
        found, standstill = await client.hosts()
    if output == "json":
        say_json([jsonview.host(line) for line in found])
    else:
        width = terminal_width()
        say(render.hosts(found, wide=output == "wide", width=width))
        for line in render.inabilities(found):
            note(hanging("", line, width))
    if standstill:
        note(standstill)


async def _forget(settings: Settings, named: tuple[str, ...], *, yes: bool) -> None:
    from formation.model import HostState
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        all_hosts, _ = await client.hosts()
        silent = [h for h in all_hosts if h.state is not HostState.READY]
        hosts = named or tuple(line.status.host for line in silent)
        if not hosts:
            raise InputError("no host is silent")
        if not named and not yes:
            _ask(hosts)
        for host in hosts:
            request = pb.ForgetHostRequest(host=host, who=who())
            await client.change(lambda stub: stub.ForgetHost, request)
            say(f"{host} forgotten; an agent that comes back under this name joins as a new host")


def _ask(hosts: tuple[str, ...]) -> None:
    if not sys.stdin.isatty():
        raise InputError(f"this forgets {' '.join(hosts)}: say --yes")
    if not click.confirm(f"forget {' '.join(hosts)}?", err=True):
        raise CommandError("nothing was forgotten")
