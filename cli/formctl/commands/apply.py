"""`formctl apply`: makes a release of what this directory describes, and waits until it runs."""

from __future__ import annotations

import click

from formctl import spec
from formctl.applying import apply, initial_of, request
from formctl.settings import (
    Settings,
    app_option,
    canary_option,
    coordinator_option,
    examples,
    if_revision_option,
    note,
    pass_settings,
    run,
    wait_options,
)


@click.command("apply")
@click.argument("path", default=".", type=click.Path(exists=True, file_okay=False))
@click.option(
    "-f", "--file", metavar="FILE", help="In PATH; Procfile, formation.toml, - for stdin."
)
@click.option("--env", "env_file", metavar="FILE", help="Default: .env beside it, if there is one.")
@click.option("--workdir", metavar="DIR", help="On the hosts; default: the file's directory.")
@click.option("--strict", is_flag=True, help="Lines of a Procfile that define nothing are errors.")
@click.option("-m", "--formation", metavar="web=2,…", help="For types this app has not met yet.")
@click.option("--reason", default="", help="Kept with the release.")
@canary_option
@if_revision_option
@wait_options
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl apply                              formation.toml, else Procfile, and .env",
    "formctl apply examples/hello               the project in another directory",
    "formctl apply -f Procfile --env prod.env   name the files",
    "formctl apply --workdir /srv/shop -m web=4,worker=2",
    "formctl apply -f - < Procfile",
)
def command(
    settings: Settings,
    path: str,
    file: str | None,
    env_file: str | None,
    workdir: str | None,
    strict: bool,
    formation: str | None,
    reason: str,
    canary: int,
    if_revision: int,
    wait: bool,
    timeout: float,
) -> None:
    """Make a new release of the app described here; its formation stays as it is.

    Instances are replaced step by step, as rollout of each type says; what fails is taken back.
    Before that the release command runs once, if there is one: release in the file.

    A type that is new to the app starts with one instance if it is called web, else with none.

    Code that `formctl deploy` has brought stays, unless a workdir is named here or in the file.
    """
    found = spec.read(file, directory=path, env_file=env_file, workdir=workdir, strict=strict)
    for line in found.notes:
        note(f"formctl: warning: {line}")
    initial = initial_of(formation, found)
    name = spec.chosen_app(settings.named_app(), found)
    timeout_s = timeout if wait else None
    wanted = request(name, found, initial, reason)
    wanted.canary, wanted.if_revision = canary, if_revision
    run(apply(settings.target(), wanted, found, initial, timeout_s=timeout_s))
