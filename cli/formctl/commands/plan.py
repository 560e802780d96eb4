"""`formctl plan`: what a change would do, host by host. Changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from formation.quantities import QuantityError, parse_changes
from formctl import jsonplan, renderchange
from formctl.errors import InputError
from formctl.settings import (
    Settings,
    app_option,
    canary_option,
    coordinator_option,
    examples,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
)

if TYPE_CHECKING:
    from formation.v1 import control_pb2 as pb

NOTHING, CHANGES, DOES_NOT_FIT = 0, 1, 2


@click.group("plan")
@examples(
    "formctl plan scale web=50",
    "formctl plan apply --canary 2",
    "formctl plan drain old-box",
    "formctl plan rebalance --moves 20",
)
def command() -> None:
    """Show what a change would do, and why what does not fit does not. Changes nothing.

    Exit code 0: nothing would change, 1: something would, 2: not all of it fits. The revision at
    the end, given to the change with --if-revision, applies only what was looked at.
    """


@command.command("scale")
@click.argument("words", nargs=-1, metavar="[TYPE=N | TYPE+N | TYPE-N]...")
@click.option("--undo", is_flag=True, help="Back to before the last change.")
@output_option
@coordinator_option
@app_option
@pass_settings
@examples("formctl plan scale web=50 worker+2")
def scale(settings: Settings, words: tuple[str, ...], undo: bool, output: str) -> int:
    """What `formctl scale` would do."""
    from formation import wire
    from formation.v1 import control_pb2 as pb

    if bool(words) == undo:
        raise InputError("give quantities (web=5), or --undo")
    try:
        changes = [wire.quantity_change_to_pb(change) for change in parse_changes(words)]
    except QuantityError as error:
        raise InputError.of(error.problems) from None
    request = pb.PlanRequest(scale=pb.ScaleRequest(changes=changes, undo=undo))
    return run(
        show_plan(settings, request, f"scale {'--undo' if undo else ' '.join(words)}", output)
    )


@command.command("apply")
@click.argument("path", default=".", type=click.Path(exists=True, file_okay=False))
@click.option("-f", "--file", metavar="FILE", help="In PATH; - for stdin.")
@click.option("--env", "env_file", metavar="FILE", help="Default: .env beside it.")
@click.option("--workdir", metavar="DIR", help="On the hosts.")
@click.option("-m", "--formation", metavar="web=2,…", help="For types the app has not met yet.")
@canary_option
@output_option
@coordinator_option
@app_option
@pass_settings
@examples("formctl plan apply", "formctl plan apply examples/hello --canary 1")
def apply(
    settings: Settings,
    path: str,
    file: str | None,
    env_file: str | None,
    workdir: str | None,
    formation: str | None,
    canary: int,
    output: str,
) -> int:
    """What `formctl apply` would do."""
    from formation.v1 import control_pb2 as pb
    from formctl import naming, spec
    from formctl.applying import initial_of
    from formctl.applying import request as apply_request

    found = spec.read(file, directory=path, env_file=env_file, workdir=workdir)
    initial = initial_of(formation, found)
    name = settings.named_app() or found.app or naming.app_name(found.directory)
    wanted = apply_request(name, found, initial, "")
    wanted.canary = canary
    more = f" --canary {canary}" if canary else ""
    return run(show_plan(settings, pb.PlanRequest(apply=wanted), f"apply {path}{more}", output))


@command.command("drain")
@click.argument("host")
@output_option
@coordinator_option
@pass_settings
@examples("formctl plan drain old-box")
def drain(settings: Settings, host: str, output: str) -> int:
    """What `formctl drain` would do."""
    from formation.v1 import control_pb2 as pb

    return run(show_plan(settings, pb.PlanRequest(drain_host=host), f"drain {host}", output))


@command.command("rebalance")
@click.option(
    "--moves", type=click.IntRange(1), default=100, show_default=True, metavar="N",
    help="At most so many instances.",
)  # fmt: skip
@output_option
@coordinator_option
@app_option
@pass_settings
@examples("formctl plan rebalance", "formctl plan rebalance --app shop --moves 10")
def rebalance(settings: Settings, moves: int, output: str) -> int:
    """What `formctl rebalance` would do; of all apps unless one is named."""
    from formation.v1 import control_pb2 as pb

    wish = pb.RebalanceWish(app=settings.named_app() or "", moves_max=moves)
    request = pb.PlanRequest(rebalance=wish)
    return run(show_plan(settings, request, f"rebalance --moves {moves}", output))


async def show_plan(settings: Settings, request: pb.PlanRequest, words: str, output: str) -> int:
    from formctl.appname import find_app
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        if request.WhichOneof("change") == "scale":
            request.scale.app = (await find_app(client, settings, target)).app.name
        found = await client.read(lambda stub: stub.Plan, request)
    if output == "json":
        say_json(jsonplan.plan(found))
    else:
        say(renderchange.plan(found, f"formctl {words} --if-revision {found.revision}"))
    if found.unplaced:
        return DOES_NOT_FIT
    return CHANGES if found.totals else NOTHING
