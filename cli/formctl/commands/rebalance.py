"""`formctl rebalance`: evens out what placement leaves alone, by a bounded number of moves."""

from __future__ import annotations

import click

from formation.person import who
from formctl import renderchange
from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
    if_revision_option,
    pass_settings,
    run,
    say,
    wait_options,
)


@click.command("rebalance")
@click.option(
    "--moves", type=click.IntRange(1), default=100, show_default=True, metavar="N",
    help="At most so many instances.",
)  # fmt: skip
@if_revision_option
@wait_options
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl rebalance                    all apps, at most 100 moves",
    "formctl rebalance --app shop --moves 10",
    "formctl plan rebalance               see first what would move",
)
def command(settings: Settings, moves: int, if_revision: int, wait: bool, timeout: float) -> None:
    """Move instances from full hosts to empty ones, each started there before it stops here.

    New hosts stay empty until something is placed or this is asked.
    """
    run(_rebalance(settings, moves, if_revision, timeout if wait else None))


async def _rebalance(
    settings: Settings, moves: int, if_revision: int, timeout_s: float | None
) -> None:
    from formation import wire
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client
    from formctl.moving import wait_for_moves

    async with Client(settings.target()) as client:
        wish = pb.RebalanceWish(app=settings.named_app() or "", moves_max=moves)
        request = pb.StartRebalanceRequest(wish=wish, who=who(), if_revision=if_revision)
        response = await client.change(lambda stub: stub.StartRebalance, request)
        found = [wire.move_from_pb(move) for move in response.moves]
        if not found:
            say("nothing to move: every type is spread as evenly as it can be")
            return
        for line in renderchange.spreads(response.types):
            say(line)
        if timeout_s is not None:
            await wait_for_moves(client, found, response.revision, timeout_s)
