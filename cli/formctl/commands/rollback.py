"""`formctl rollback`: back to an earlier release."""

from __future__ import annotations

import re

import click

from formation.person import who
from formctl.errors import InputError
from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
    if_revision_option,
    note,
    pass_settings,
    run,
    say,
    wait_options,
    why_option,
)

_NUMBER = re.compile(r"v?([1-9][0-9]{0,8})")


def release_number(text: str) -> int:
    """`v3` or `3`. Raises InputError."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is no release: write v3; see formctl releases")
    return int(match[1])


@click.command("rollback")
@click.argument("release", required=False, metavar="[vN]")
@why_option
@if_revision_option
@wait_options
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl rollback              to the one before",
    "formctl rollback v3 --why 'the new checkout loses carts'",
)
def command(
    settings: Settings,
    release: str | None,
    why: str,
    if_revision: int,
    wait: bool,
    timeout: float,
) -> None:
    """Go back to an earlier release; quantities stay as they are.

    Only what differs between the two is replaced, step by step like any change. A release that
    waits for its release command is taken away, without vN that alone; none is run.
    """
    number = release_number(release) if release else 0
    timeout_s = timeout if wait else None
    run(_rollback(settings, number, why=why, if_revision=if_revision, timeout_s=timeout_s))


async def _rollback(
    settings: Settings, number: int, *, why: str, if_revision: int, timeout_s: float | None
) -> None:
    from formation import runtime
    from formation.v1 import control_pb2 as pb
    from formctl.appname import find_app
    from formctl.arriving import wait_for_release
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        line = await find_app(client, settings, target)
        known = (await client.instances(line.app.name)).changed
        started_s = runtime.monotonic_s()
        request = pb.RollbackRequest(
            app=line.app.name, release=number, who=who(), why=why, if_revision=if_revision
        )
        response = await client.change(lambda stub: stub.Rollback, request)
        if response.unchanged:
            note(f"formctl: v{response.release.number} is the current release already")
            return
        say(f"{line.app.name} v{line.app.newest} -> v{response.release.number}")
        if timeout_s is not None:
            await wait_for_release(
                client, response, timeout_s=timeout_s, started_s=started_s, baseline=known
            )
