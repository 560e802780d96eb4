"""`formctl retry`: do not wait for the next try; run again what has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from formation.model import Slot
from formation.person import who
from formation.targets import parse_target
from formctl import jsonview
from formctl.errors import CommandError, InputError
from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
    wait_options,
)

if TYPE_CHECKING:
    from formctl.client import Client
    from formctl.views import AppLine, Instance


@click.command("retry")
@click.argument("targets", nargs=-1, metavar="[TYPE | TYPE.N]...")
@wait_options
@output_option
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl retry web.3           this one, at once and where it is",
    "formctl retry web worker.2    all of web that wait, and one worker",
    "formctl retry                 all of the app that wait or have ended",
)
def command(
    settings: Settings, targets: tuple[str, ...], wait: bool, timeout: float, output: str
) -> None:
    """Try again now: what backs off without its wait, what has finished or failed once more.

    What runs is left alone. Fails when a try does; the next one comes by itself as before.
    """
    wanted = [parse_target(target) for target in dict.fromkeys(targets)] or [("", 0)]
    run(_retry(settings, wanted, timeout_s=timeout if wait else None, output=output))


async def _retry(
    settings: Settings, targets: list[tuple[str, int]], *, timeout_s: float | None, output: str
) -> None:
    from formation import runtime
    from formctl.appname import find_app, no_type
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        line = await find_app(client, settings, target)
        formation = line.formation()
        for type_name, _ in targets:
            if type_name and type_name not in formation:
                raise InputError(no_type(type_name, formation))
        before = {i.uid: i for i in (await client.instances(line.app.name)).changed}
        started_s = runtime.monotonic_s()
        retried, revision, refused = await _ask(client, line.app.name, targets, before)
        if output == "text":
            names = " ".join(item.slot.short for item in retried)
            say(f"retrying {names}" if retried else "nothing waits that could be retried")
        try:
            if timeout_s is not None and retried:
                await _wait(client, line, retried, revision, timeout_s, started_s, output)
        finally:
            if output == "json":
                await _print(client, line.app.name, retried)
    if refused:
        raise CommandError("\n".join(refused))


async def _ask(
    client: Client, app: str, targets: list[tuple[str, int]], before: dict[str, Instance]
) -> tuple[list[Instance], int, list[str]]:
    """Those that are tried again, as they were before, and what was refused."""
    from formation.v1 import control_pb2 as pb

    found: dict[str, Instance] = {}
    refused: list[str] = []
    revision = 0
    for type_name, ordinal in targets:
        request = pb.RetryRequest(app=app, type=type_name, ordinal=ordinal, who=who())
        try:
            response = await client.change(lambda stub: stub.Retry, request)
        except CommandError as error:
            if error.exit_code != CommandError.exit_code:
                raise
            refused.append(str(error))
            continue
        revision = max(revision, response.revision)
        found |= {item.uid: before[item.uid] for item in response.retried if item.uid in before}
    if refused and not found:
        raise CommandError("\n".join(refused))
    return sorted(found.values(), key=lambda item: item.slot), revision, refused


async def _wait(
    client: Client,
    line: AppLine,
    retried: list[Instance],
    revision: int,
    timeout_s: float,
    started_s: float,
    output: str,
) -> None:
    from formctl.waiting import wait_until
    from formctl.watching import Goal

    formation = line.formation()
    goal = Goal(
        app=line.app.name,
        wanted={item.slot.type: formation[item.slot.type] for item in retried},
        slots=frozenset(item.slot for item in retried),
        tried={item.uid: item.status.attempt for item in retried},
    )
    await wait_until(
        client,
        goal,
        revision=revision,
        timeout_s=timeout_s,
        started_s=started_s,
        baseline=retried,
        tell=say if output == "text" else _in_silence,
    )


async def _print(client: Client, app: str, retried: list[Instance]) -> None:
    """As they are now."""
    slots: set[Slot] = {item.slot for item in retried}
    found = (await client.instances(app)).changed
    say_json([jsonview.instance(item) for item in found if item.slot in slots])


def _in_silence(_: str) -> None:
    """Programs read the answer alone."""
