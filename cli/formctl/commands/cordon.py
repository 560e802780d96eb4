"""`formctl cordon`: a host takes nothing new."""

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


@click.command("cordon")
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@why_option
@coordinator_option
@pass_settings
@examples("formctl cordon old-box --why 'disk errors'")
def command(settings: Settings, hosts: tuple[str, ...], why: str) -> None:
    """Let hosts take nothing new; what runs there runs on."""
    run(_cordon(settings, hosts, why))


async def _cordon(settings: Settings, hosts: tuple[str, ...], why: str) -> None:
    from formctl.hostwords import set_hosts

    await set_hosts(settings, hosts, why=why, cordoned=True)
    say(f"{' '.join(hosts)} takes nothing new" if len(hosts) == 1 else "they take nothing new")
