"""`formctl rollout`: a change of release that is under way: look at it, steer it."""

from __future__ import annotations

import click

from formctl import jsonview, renderchange
from formctl.errors import InputError
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
    who,
    why_option,
)


@click.group("rollout", invoke_without_command=True)
@output_option
@coordinator_option
@app_option
@click.pass_context
@examples(
    "formctl rollout              how far the change is",
    "formctl rollout pause        nothing more is replaced until resume",
    "formctl rollout promote      the canary is good: all the others too",
    "formctl rollout abort        back to the release that was everywhere before",
)
def command(ctx: click.Context, output: str) -> None:
    """Show how far the change to the current release is; pause, resume, promote or abort it."""
    if ctx.invoked_subcommand is None:
        run(_status(ctx.ensure_object(Settings), output))
    elif output != "text":
        raise InputError(f"-o {output} is for reading, not for rollout {ctx.invoked_subcommand}")


def _steering(name: str, doc: str) -> None:
    @command.command(name, help=doc)
    @why_option
    @coordinator_option
    @app_option
    @pass_settings
    def steer(settings: Settings, why: str) -> None:
        run(_steer(settings, name, why))


_steering("pause", "Replace nothing more until resume; what is missing runs the release before.")
_steering("resume", "Go on with a paused change.")
_steering("promote", "The canary is good: all the others get the release too.")
_steering("abort", "Go back to the release that was everywhere before.")


async def _status(settings: Settings, output: str) -> None:
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        line = await find_app(client, settings, target)
        instances = (await client.instances(line.app.name)).changed
    if output == "json":
        say_json(jsonview.rollout(line, instances))
    else:
        say(renderchange.rollout(line, instances))


async def _steer(settings: Settings, name: str, why: str) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        line = await find_app(client, settings, target)
        action = pb.SteerRolloutRequest.Action.Value(f"ACTION_{name.upper()}")
        request = pb.SteerRolloutRequest(app=line.app.name, action=action, who=who(), why=why)
        response = await client.change(lambda stub: stub.SteerRollout, request)
    say(renderchange.steered(name, line.app, response.app.release))
