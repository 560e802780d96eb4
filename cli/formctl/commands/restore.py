"""`formctl restore`: a backup in the place of the cluster's desired state."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from formation.person import who
from formctl.errors import InputError
from formctl.settings import (
    Settings,
    coordinator_option,
    examples,
    pass_settings,
    run,
    say,
)

if TYPE_CHECKING:
    from formation.v1 import control_pb2 as pb


@click.command("restore")
@click.argument("file", metavar="FILE")
@click.option("--replace", is_flag=True, help="Also in the place of apps that are there.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@coordinator_option
@pass_settings
@examples(
    "formctl restore shop.backup --dry-run",
    "formctl restore shop.backup",
    "formctl reconcile                     then: what would come of it, and --confirm",
)
def command(settings: Settings, file: str, replace: bool, dry_run: bool) -> None:
    """Put the apps, releases, quantities and hosts of a backup into the cluster (-: from stdin).

    No process is started, moved or stopped by it: that waits for `formctl reconcile --confirm`.
    """
    run(_restore(settings, _read(file), replace=replace, dry_run=dry_run))


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {(error.strerror or str(error)).lower()}") from None


async def _restore(settings: Settings, data: bytes, *, replace: bool, dry_run: bool) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl import liveline
    from formctl.client import Client
    from formctl.progress import Step

    options = pb.RestoreOptions(replace=replace, dry_run=dry_run, who=who())
    writing = liveline.live(lambda: Step(what="the coordinator checks and writes it"))
    async with Client(settings.target()) as client, writing:
        found = await client.restore(options, data)
    for line in _lines(found):
        say(line)
    if not dry_run:
        say("nothing was started, moved or stopped; next: formctl reconcile")


def _lines(found: pb.RestoreResponse) -> Iterator[str]:
    made = datetime.fromtimestamp(found.made_at_ms / 1000, UTC)
    yield (
        f"cluster {found.cluster_id} as of {made:%Y-%m-%d %H:%M:%S} UTC"
        f" (formation {found.version}), {found.hosts} hosts"
    )
    for app in found.apps:
        if app.before == app.after:
            yield f"  {app.name} {app.after}, as it is"
        elif not app.after:
            yield f"  {app.name} goes (it is {app.before})"
        else:
            yield f"  {app.name} {app.after}" + (f" (it is {app.before})" if app.before else "")
