"""`formctl backup`: the whole desired state of the cluster, in a file."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import click

from formctl.errors import CommandError, InputError
from formctl.settings import Settings, coordinator_option, examples, note, pass_settings, run

_KIB = 1024


@click.command("backup")
@click.argument("file", metavar="FILE")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@coordinator_option
@pass_settings
@examples(
    "formctl backup shop.backup",
    "formctl backup - | age -r KEY > shop.backup.age",
)
def command(settings: Settings, file: str, force: bool) -> None:
    """Write apps, releases, quantities and hosts, all as of one moment, into FILE (-: stdout).

    The file holds every app's config, secrets too; only this user can read it.
    """
    path = Path(file)
    if file == "-" and sys.stdout.isatty():
        raise InputError("a backup is no text: send it to a file or a program")
    if file != "-" and path.exists() and not force:
        raise InputError(f"{file} is there already; --force overwrites it")
    run(_backup(settings, path))


async def _backup(settings: Settings, path: Path) -> None:
    from formctl import liveline
    from formctl.client import Client
    from formctl.progress import Step

    reading = liveline.live(lambda: Step(what="reading all of the desired state"))
    async with Client(settings.target()) as client, reading:
        about, data = await client.backup()
    if str(path) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        _write(path, data)
    note(
        f"{'' if str(path) == '-' else f'{path}: '}revision {about.revision}, {about.apps} apps,"
        f" {about.hosts} hosts, {len(data) / _KIB:.1f} KiB; it holds secrets"
    )


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: a backup that was there stays until the new one is on the disk."""
    try:
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    except OSError as error:
        raise CommandError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(name)
        raise CommandError(f"{path}: {(error.strerror or str(error)).lower()}") from None
