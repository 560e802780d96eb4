"""`formctl apply`: makes a release of what this directory describes, and waits until it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from formation.quantities import QuantityError, parse_initial, show
from formation.secrets import missing
from formctl import render, spec
from formctl.errors import InputError
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
    say,
    wait_options,
    who,
)
from formctl.views import formation_of

if TYPE_CHECKING:
    from formation.model import Release
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client
    from formctl.discovery import Target


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

    A type that is new to the app starts with one instance if it is called web, else with none.
    """
    found = spec.read(file, directory=path, env_file=env_file, workdir=workdir, strict=strict)
    for line in found.notes:
        note(f"formctl: warning: {line}")
    try:
        initial = parse_initial(formation, found.type_names) if formation is not None else {}
    except QuantityError as error:
        raise InputError.of(f"-m: {problem}" for problem in error.problems) from None
    name = spec.chosen_app(settings.named_app(), found)
    timeout_s = timeout if wait else None
    wanted = request(name, found, initial, reason)
    wanted.canary, wanted.if_revision = canary, if_revision
    run(_apply(settings.target(), wanted, found, initial, timeout_s=timeout_s))


async def _apply(
    target: Target,
    wanted: pb.ApplyRequest,
    found: spec.AppSpec,
    initial: dict[str, int],
    *,
    timeout_s: float | None,
) -> None:
    from formation import runtime
    from formctl.arriving import wait_for_release
    from formctl.client import Client

    async with Client(target) as client:
        before = await _current_release(client, wanted.app)
        # Known before, so that what is healthy already is not reported as news.
        known = (await client.instances(wanted.app)).changed if before and timeout_s else ()
        started_s = runtime.monotonic_s()
        response = await client.change(lambda stub: stub.Apply, wanted)
        _say(before, response, initial, found)
        if timeout_s is not None:
            await wait_for_release(
                client, response, timeout_s=timeout_s, started_s=started_s, baseline=known
            )


def request(app: str, found: spec.AppSpec, initial: dict[str, int], reason: str) -> pb.ApplyRequest:
    from formation import wire
    from formation.v1 import control_pb2 as pb

    return pb.ApplyRequest(
        app=app,
        types=[wire.process_type_to_pb(item) for item in found.types],
        env=dict(found.env),
        workdir=found.workdir,
        reason=reason,
        who=who(),
        formation=initial,
    )


async def _current_release(client: Client, app: str) -> Release | None:
    """None for an app that does not exist yet."""
    current = next((line.app.release for line in await client.apps() if line.app.name == app), None)
    if current is None:
        return None
    return next((r for r in await client.releases(app) if r.number == current), None)


def _say(
    before: Release | None,
    response: pb.ApplyResponse,
    initial: dict[str, int],
    found: spec.AppSpec,
) -> None:
    from formation import wire

    release, app = wire.release_from_pb(response.release), wire.app_from_pb(response.app)
    formation = formation_of(app, (item.name for item in release.types))
    if response.unchanged:
        say(f"{app.name} v{release.number} unchanged: {found.source} says the same")
    else:
        say(f"{app.name} v{release.number}")
        changes = render.release_changes(before, release)
        for line in changes or ["only values of the environment changed"]:
            say(f"  {line}")
    say(f"  formation: {show(formation)}")
    for item in release.types:
        for name in missing(item, release.secrets):
            note(f"formctl: warning: {item.name} needs {name}: formctl secret set {name}")
    for name, quantity in initial.items():
        if formation[name] != quantity:
            kept = f"{name} stays {formation[name]}: apply changes no quantity that is set already"
            note(f"formctl: warning: {kept}; use formctl scale {name}={quantity}")
