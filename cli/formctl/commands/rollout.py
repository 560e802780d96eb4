"""`formctl rollout`: a change of release that is under way: look at it, steer it."""

from __future__ import annotations

import click

from formation.person import who
from formctl import jsonview, renderchange
from formctl.errors import InputError
from formctl.settings import (
    Seconds,
    Settings,
    app_option,
    coordinator_option,
    examples,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
    why_option,
)


@click.group("rollout", invoke_without_command=True)
@click.option("--wait", is_flag=True, help="Stay until the change has arrived or is taken back.")
@click.option(
    "--timeout",
    type=Seconds(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="With --wait: how long.",
)
@output_option
@coordinator_option
@app_option
@click.pass_context
@examples(
    "formctl rollout              how far the change is",
    "formctl rollout --wait       until it has arrived; exit code 1 when it is taken back",
    "formctl rollout pause        nothing more is replaced until resume",
    "formctl rollout promote      the canary is good: all the others too",
    "formctl rollout abort        back to the release that was everywhere before",
)
def command(ctx: click.Context, wait: bool, timeout: float, output: str) -> None:
    """Show how far the change to the current release is; pause, resume, promote or abort it."""
    if ctx.invoked_subcommand is None:
        if wait and output != "text":
            raise InputError(f"-o {output} tells how far it is now; leave --wait out")
        settings = ctx.ensure_object(Settings)
        run(_wait(settings, timeout) if wait else _status(settings, output))
    elif wait:
        raise InputError(f"--wait is for formctl rollout alone, after {ctx.invoked_subcommand}")
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
_steering("abort", "End a release command; or go back to the release that was everywhere before.")


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


async def _wait(settings: Settings, timeout_s: float) -> None:
    from formation import runtime
    from formctl.appname import find_app
    from formctl.arriving import wait_for_current
    from formctl.client import Client

    target, started_s = settings.target(), runtime.monotonic_s()
    async with Client(target) as client:
        line = await find_app(client, settings, target)
        await wait_for_current(client, line, timeout_s=timeout_s, started_s=started_s)


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
