"""`formctl run`: one command, once, on some host, with the app's environment."""

from __future__ import annotations

import shlex

import click

from formation.person import who
from formctl.errors import InputError
from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
    pass_settings,
    run,
    say,
)


@click.command("run", context_settings={"ignore_unknown_options": True})
@click.option("--detach", is_flag=True, help="Do not wait; print its name.")
@click.option("--type", "like", default="", metavar="TYPE", help="With this type's settings.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND...")
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl run -- ./manage.py migrate",
    "formctl run --type worker -- ./check    with the worker's user, limits and environment",
    "formctl run 'ls | wc -l'                one word is a line for the shell",
    "formctl run --type backup               a type with a schedule, now",
    "formctl run --detach -- ./long-job      see formctl runs",
)
def command(settings: Settings, detach: bool, like: str, words: tuple[str, ...]) -> int:
    """Run a command once on one of the hosts; its output and exit code become this command's.

    Ctrl-C cancels it. Nothing is started a second time, whatever happens to the host.
    """
    line = words[0] if len(words) == 1 else shlex.join(words)
    if not line and not like:
        raise InputError("nothing to run: formctl run -- COMMAND, or --type TYPE")
    return run(_run(settings, line, like, detach=detach))


async def _run(settings: Settings, line: str, like: str, *, detach: bool) -> int:
    from formation import wire
    from formation.v1 import control_pb2 as pb
    from formctl.appname import find_app
    from formctl.client import Client
    from formctl.runfollow import follow_run

    target = settings.target()
    async with Client(target) as client:
        app = (await find_app(client, settings, target)).app.name
        request = pb.StartRunRequest(app=app, like=like, command=line, who=who())
        response = await client.change(lambda stub: stub.StartRun, request)
        started = wire.run_from_pb(response.run)
        if detach:
            say(started.id)
            return 0
        return await follow_run(client, target, started)
