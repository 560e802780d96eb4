"""`formctl export`: the formation for another process manager, for who runs a box without us."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from formctl.errors import CommandError, InputError
from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
    note,
    pass_settings,
    run,
    say,
)

if TYPE_CHECKING:
    from formctl.exporting import Exported, Formation
    from formctl.exporting.work import File

FORMATS = ("systemd", "supervisord", "runit", "launchd", "upstart", "foreman")


@click.command("export")
@click.argument("manager", type=click.Choice(FORMATS))
@click.argument("path", default=".", type=click.Path(exists=True, file_okay=False))
@click.option("-f", "--file", metavar="FILE", help="In PATH; Procfile, formation.toml.")
@click.option("--env", "env_file", metavar="FILE", help="Default: .env beside it, if there is one.")
@click.option("-m", "--formation", default="", metavar="web=2,…", help="How many of each type.")
@click.option(
    "-p", "--port", type=click.IntRange(1, 65_000), default=5000, show_default=True, metavar="PORT",
    help="Of the first instance; the next type begins 100 later.",
)  # fmt: skip
@click.option(
    "--host", default="", metavar="HOST", help="What runs there now, instead of an app's files."
)
@click.option("--user", default="", metavar="NAME", help="For types that name none.")
@click.option("--out", default="", metavar="DIR", help="Write files there instead of printing.")
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl export systemd -m web=3,worker=2 --user shop          look at it",
    "formctl export systemd -m web=3,worker=2 --user shop --out .  write it",
    "formctl export supervisord --host a --app shop                what host a runs now",
    "formctl export foreman --out /tmp/shop",
)
def command(
    settings: Settings,
    manager: str,
    path: str,
    file: str | None,
    env_file: str | None,
    formation: str,
    port: int,
    host: str,
    user: str,
    out: str,
    force: bool,
) -> None:
    """Write the formation for systemd, supervisord, runit, launchd, Upstart or foreman.

    Asks no coordinator, unless --host is given. What the other one does not know is left out and
    said. Secrets are not among it: nobody reads them back.
    """
    from formctl import exporting

    if host:
        found = run(_of_host(settings, host, user))
    else:
        found = _of_files(settings, path, file, env_file, formation, port=port, user=user)
    if not found.works:
        raise InputError("nothing is to run: say how many with -m web=1")
    _show(exporting.WRITERS[manager](found), out, force=force)


def _of_files(
    settings: Settings,
    path: str,
    file: str | None,
    env_file: str | None,
    quantities: str,
    *,
    port: int,
    user: str,
) -> Formation:
    from formation.quantities import QuantityError, parse_initial
    from formctl import spec
    from formctl.exporting import gathering

    found = spec.read(file, directory=path, env_file=env_file)
    for line in found.notes:
        note(f"formctl: warning: {line}")
    try:
        wanted = parse_initial(quantities, found.type_names) if quantities else {}
    except QuantityError as error:
        raise InputError.of(error.problems) from None
    app = spec.chosen_app(settings.named_app(), found)
    return gathering.of_files(app, found, wanted, port, user)


async def _of_host(settings: Settings, host: str, user: str) -> Formation:
    from formation.v1 import control_pb2 as pb
    from formctl.appname import find_app
    from formctl.client import Client
    from formctl.exporting import gathering
    from formctl.hostwords import check_known

    target = settings.target()
    async with Client(target) as client:
        await check_known(client, (host,))
        app = (await find_app(client, settings, target)).app
        release = next(r for r in await client.releases(app.name) if r.number == app.release)
        update = await client.instances(app.name)
        request = pb.GetConfigRequest(app=app.name, values=True)
        config = await client.read(lambda stub: stub.GetConfig, request)
    if release.secrets:
        note(f"formctl: secrets are not written: {' '.join(sorted(release.secrets))}")
    if release.artifact:
        note(
            f"formctl: warning: the code of {release.app} was deployed: put it into "
            f"{gathering.directory_of(release)}"
        )
    if release.artifact and release.build:
        note(f"formctl: warning: it is built there by: {release.build.command}")
    variables = [(item.name, item.value, item.origin) for item in config.variables]
    there = [item for item in update.changed if item.host == host]
    return gathering.of_host(release, there, variables, user)


def _show(made: Exported, out: str, *, force: bool) -> None:
    if out:
        _write(made.files, Path(out), force=force)
    else:
        say("\n".join(f"# ---- {file.path}\n{file.text}" for file in made.files).rstrip("\n"))
    for line in made.notes:
        note(f"formctl: {line}")
    if out:
        for line in made.then:
            say(f"then: {line}")


def _write(files: tuple[File, ...], directory: Path, *, force: bool) -> None:
    """All or nothing, as far as what is there already goes."""
    taken = [file.path for file in files if (directory / file.path).exists()]
    if taken and not force:
        raise InputError(f"{directory / taken[0]} is there already; --force overwrites it")
    for file in files:
        target = directory / file.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            number = os.open(target, flags, file.mode)
            with os.fdopen(number, "w", encoding="utf-8", newline="\n") as opened:
                os.fchmod(number, file.mode)
                opened.write(file.text)
        except OSError as error:
            raise CommandError(f"{target}: {(error.strerror or str(error)).lower()}") from None
        say(str(target))
