"""Waits for a release to arrive: what `apply`, `config` and `rollback` have in common."""

from __future__ import annotations

from collections.abc import Iterable

from formation import wire
from formation.v1 import control_pb2 as pb
from formctl.client import Client, irregular
from formctl.views import AppLine, Instance, formation_of
from formctl.waiting import wait_until
from formctl.watching import Goal


async def wait_for_release(
    client: Client,
    response: pb.ApplyResponse | pb.SetConfigResponse | pb.RollbackResponse | pb.SetSecretsResponse,
    *,
    timeout_s: float,
    started_s: float,
    baseline: Iterable[Instance],
) -> None:
    """Until it runs everywhere, is held on purpose, or (CommandError) is taken back."""
    app = wire.app_from_pb(response.app)
    odd = irregular(response.release.types)
    regular = (spec.name for spec in response.release.types if spec.name not in odd)
    goal = Goal(
        app=app.name,
        wanted=formation_of(app, regular),
        whole=True,
        release=response.release.number,
        ignored=odd,
    )
    await wait_until(
        client,
        goal,
        revision=response.revision,
        timeout_s=timeout_s,
        started_s=started_s,
        baseline=baseline,
    )


async def wait_for_current(
    client: Client, line: AppLine, *, timeout_s: float, started_s: float
) -> None:
    """The same for the release that was made last, which may be there already."""
    types, odd = await _types(client, line)
    goal = Goal(
        app=line.app.name,
        wanted=formation_of(line.app, (name for name in types if name not in odd)),
        whole=True,
        release=line.app.newest,
        ignored=odd,
    )
    before = await client.instances(line.app.name)
    await wait_until(
        client,
        goal,
        revision=0,
        timeout_s=timeout_s,
        started_s=started_s,
        baseline=before.changed,
    )


async def _types(client: Client, line: AppLine) -> tuple[tuple[str, ...], frozenset[str]]:
    """Of that release, and those of which the quantity does not say how many run."""
    if line.app.newest == line.app.release:
        return line.types, line.irregular
    releases = await client.releases(line.app.name)
    newest = next((item for item in releases if item.number == line.app.newest), None)
    specs = newest.types if newest else ()
    odd = frozenset(spec.name for spec in specs if spec.per_host or spec.schedule)
    return tuple(spec.name for spec in specs), odd
