"""`formctl version`: this program's, and the cluster's when one is found."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import click

from formation import __version__
from formctl.errors import CommandError
from formctl.settings import (
    Settings,
    coordinator_option,
    examples,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
)

if TYPE_CHECKING:
    from formation.discovery import Target


@click.command("version")
@output_option
@coordinator_option
@pass_settings
@examples("formctl version", "formctl version -o json --coordinator a:7100")
def command(settings: Settings, output: str) -> None:
    """Show the versions of formctl and of the coordinator, and who leads."""
    versions: dict[str, object] = {
        "formctl": __version__,
        "python": platform.python_version(),
        "coordinator": None,
    }
    trouble = ""
    try:
        versions["coordinator"] = run(_cluster(settings.target()))
    except CommandError as error:
        # Without any cluster there is still an answer; one that was named has to be there.
        if settings.coordinator:
            raise
        trouble = str(error)
    _print(versions, trouble, output)


async def _cluster(target: Target) -> dict[str, object]:
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client

    async with Client(target) as client:
        response = await client.read(lambda stub: stub.GetCluster, pb.GetClusterRequest())
        return {
            "id": response.coordinator_id,
            "version": response.version,
            "address": client.address,
            "cluster": response.cluster.id,
            "leader": response.leader_id or None,
            "store_connected": response.store_connected,
            "coordinators": [
                {"id": item.id, "address": item.address, "version": item.version}
                for item in response.coordinators
            ],
        }


def _print(versions: dict[str, object], trouble: str, output: str) -> None:
    if output == "json":
        say_json(versions)
        return
    say(f"formctl {versions['formctl']} (Python {versions['python']})")
    found = versions["coordinator"]
    if not isinstance(found, dict):
        say(f"coordinator: {trouble}")
        return
    say(f"coordinator {found['id']} {found['version']} at {found['address']}")
    old = "" if found["store_connected"] else f", as {found['id']} knew last: it cannot reach etcd"
    say(f"cluster {found['cluster']}, led by {found['leader'] or 'nobody now'}{old}")
    for item in found["coordinators"]:
        say(f"  {item['id']} {item['version']} at {item['address']}")
