"""Makes a release of what was read and waits until it runs: what `apply` and `deploy` share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from formation.person import who
from formation.quantities import QuantityError, parse_initial, show
from formation.secrets import missing
from formctl import render, spec
from formctl.errors import InputError
from formctl.settings import note, say
from formctl.tables import printable
from formctl.views import formation_to_be

if TYPE_CHECKING:
    from formation.artifacts import Artifact
    from formation.builds import Build
    from formation.discovery import Target
    from formation.model import Release
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client


_OLDER = "formctl: warning: that coordinator is older and knows no release commands: it was not run"


async def _nothing(client: Client) -> None:
    pass


async def apply(
    target: Target,
    wanted: pb.ApplyRequest,
    found: spec.AppSpec,
    initial: dict[str, int],
    *,
    timeout_s: float | None,
    before_it: Callable[[Client], Awaitable[None]] = _nothing,
) -> None:
    """`before_it`: what the release needs to be there first."""
    from formation import runtime
    from formctl.arriving import wait_for_release
    from formctl.client import Client

    async with Client(target) as client:
        await before_it(client)
        before = await _current_release(client, wanted.app)
        # Known before, so that what is healthy already is not reported as news.
        known = (await client.instances(wanted.app)).changed if before and timeout_s else ()
        started_s = runtime.monotonic_s()
        response = await client.change(lambda stub: stub.Apply, wanted)
        _say(before, response, initial, found)
        if found.command and not response.release.HasField("command"):
            note(_OLDER)
        if timeout_s is not None:
            await wait_for_release(
                client, response, timeout_s=timeout_s, started_s=started_s, baseline=known
            )


def initial_of(formation: str | None, found: spec.AppSpec) -> dict[str, int]:
    """Of `-m`. Raises `InputError`."""
    try:
        return parse_initial(formation, found.type_names) if formation is not None else {}
    except QuantityError as error:
        raise InputError.of(f"-m: {problem}" for problem in error.problems) from None


def request(app: str, found: spec.AppSpec, initial: dict[str, int], reason: str) -> pb.ApplyRequest:
    from formation import wire
    from formation.v1 import control_pb2 as pb

    return pb.ApplyRequest(
        app=app,
        types=[wire.process_type_to_pb(item) for item in found.types],
        env=dict(found.env),
        workdir=found.workdir,
        **wire.code_to_pb(None, found.build),
        reason=reason,
        who=who(),
        formation=initial,
        keep_artifact=not found.names_workdir,
        release_command=wire.command_to_pb(found.command),
    )


def with_code(wanted: pb.ApplyRequest, artifact: Artifact, build: Build | None) -> None:
    from formation import wire
    from formation.v1 import control_pb2 as pb

    wanted.workdir = wire.workdir_to_pb("", artifact)
    wanted.MergeFrom(pb.ApplyRequest(**wire.code_to_pb(artifact, build)))


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
    formation = formation_to_be(app, (item.name for item in release.types))
    if response.unchanged:
        say(f"{app.name} v{release.number} unchanged: {found.source} says the same")
    else:
        say(f"{app.name} v{release.number}")
        changes = render.release_changes(before, release)
        for line in changes or ["only values of the environment changed"]:
            say(f"  {line}")
    if found.build and not release.artifact:
        note("formctl: warning: nothing is built: the code lies on the hosts; use formctl deploy")
    elif found.build and not release.build:
        note("formctl: warning: nothing is built: this coordinator is too old for it; upgrade it")
    say(f"  formation: {show(formation)}")
    if release.command and app.candidate and app.candidate.release == release.number:
        say(f"  first, as {app.candidate.run}: {printable(release.command.command)}")
    for item in release.types:
        for name in missing(item, release.secrets):
            note(f"formctl: warning: {item.name} needs {name}: formctl secret set {name}")
    for name, quantity in initial.items():
        if formation[name] != quantity:
            kept = f"{name} stays {formation[name]}: apply changes no quantity that is set already"
            note(f"formctl: warning: {kept}; use formctl scale {name}={quantity}")
