"""`formctl uncordon`: a host takes instances again."""

from __future__ import annotations

import click

from formctl.settings import (
    Settings,
    coordinator_option,
    examples,
    pass_settings,
    run,
    say,
    why_option,
)


@click.command("uncordon")
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@why_option
@coordinator_option
@pass_settings
@examples("formctl uncordon old-box")
def command(settings: Settings, hosts: tuple[str, ...], why: str) -> None:
    """Let hosts take instances again; ends a drain. Nothing moves back by itself."""
    run(_uncordon(settings, hosts, why))


async def _uncordon(settings: Settings, hosts: tuple[str, ...], why: str) -> None:
    from formctl.hostwords import set_hosts

    await set_hosts(settings, hosts, why=why, cordoned=False)
    many = len(hosts) > 1
    say("they take instances again" if many else f"{hosts[0]} takes instances again")
