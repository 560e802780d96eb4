"""`formctl restart`: new processes for a type, one instance or everything."""

from __future__ import annotations

import click

from formation.model import Slot
from formation.person import who
from formation.targets import parse_target
from formctl.errors import InputError
from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
    pass_settings,
    run,
    say,
    wait_options,
)


@click.command("restart")
@click.argument("target", required=False, metavar="[TYPE | TYPE.N]")
@wait_options
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl restart               every instance of the app",
    "formctl restart web           all of one type",
    "formctl restart web.3         one instance; formctl retry web.3 keeps it where it is",
)
def command(settings: Settings, target: str | None, wait: bool, timeout: float) -> None:
    """Replace running instances by new ones, and wait until those are healthy."""
    type_name, ordinal = parse_target(target)
    run(_restart(settings, type_name, ordinal, timeout_s=timeout if wait else None))


async def _restart(
    settings: Settings, type_name: str, ordinal: int, *, timeout_s: float | None
) -> None:
    from formation import runtime
    from formation.v1 import control_pb2 as pb
    from formctl.appname import find_app, no_type
    from formctl.client import Client
    from formctl.waiting import wait_until
    from formctl.watching import Goal

    target = settings.target()
    async with Client(target) as client:
        line = await find_app(client, settings, target)
        app, formation = line.app.name, line.formation()
        if type_name and type_name not in formation:
            raise InputError(no_type(type_name, formation))
        before = await client.instances(app)
        started_s = runtime.monotonic_s()
        request = pb.RestartRequest(app=app, type=type_name, ordinal=ordinal, who=who())
        response = await client.change(lambda stub: stub.Restart, request)
        names = sorted(f"{item.type}.{item.ordinal}" for item in response.replaced)
        say(f"restarting {' '.join(names)}" if names else "nothing runs that could be restarted")
        if timeout_s is None or not names:
            return
        slots = frozenset({Slot(app, type_name, ordinal)} if ordinal else ())
        wanted = {type_name: formation[type_name]} if type_name else formation
        await wait_until(
            client,
            Goal(app=app, wanted=wanted, whole=not type_name, slots=slots),
            revision=response.revision,
            timeout_s=timeout_s,
            started_s=started_s,
            baseline=before.changed,
        )
