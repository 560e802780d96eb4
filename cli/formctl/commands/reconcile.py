"""`formctl reconcile`: what a held cluster would do, and the word that lets it."""

from __future__ import annotations

import click

from formation.person import who
from formctl.settings import (
    Settings,
    coordinator_option,
    examples,
    if_revision_option,
    output_option,
    pass_settings,
    run,
    say,
    why_option,
)


@click.command("reconcile")
@click.option("--confirm", is_flag=True, help="etcd counts as it is: go on.")
@if_revision_option
@why_option
@output_option
@coordinator_option
@pass_settings
@examples(
    "formctl reconcile                     what would be started, moved and stopped",
    "formctl reconcile --confirm",
)
def command(
    settings: Settings, confirm: bool, if_revision: int, why: str, output: str
) -> int | None:
    """After etcd or a backup was restored: see what the older state would change, and confirm it.

    Hosts that follow newer orders than etcd knows keep everything running, and nothing is started,
    moved or stopped in the cluster, until then. Exit codes without --confirm as of `formctl plan`.
    """
    if not confirm:
        from formation.v1 import control_pb2 as pb
        from formctl.commands.plan import NOTHING, show_plan

        request = pb.PlanRequest(reconcile=True)
        code = run(show_plan(settings, request, "reconcile --confirm", output))
        if code == NOTHING and output == "text":
            say("things stay held until: formctl reconcile --confirm")
        return code
    run(_confirm(settings, if_revision, why))
    return None


async def _confirm(settings: Settings, if_revision: int, why: str) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        request = pb.ReconcileRequest(who=who(), why=why, if_revision=if_revision)
        answer = await client.change(lambda stub: stub.Reconcile, request)
    say(f"confirmed: the cluster is in epoch {answer.cluster_epoch}; formctl ps --watch shows it")
