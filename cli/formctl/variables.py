"""Variables and secrets of an app are changed alike: a release, rolled out and waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from formation import runtime
from formation.v1 import control_pb2 as pb
from formctl.appname import find_app
from formctl.arriving import wait_for_release
from formctl.client import Client
from formctl.settings import Settings, note, say


async def change(
    settings: Settings,
    request: pb.SetConfigRequest | pb.SetSecretsRequest,
    method: Callable[[Any], Any],
    timeout_s: float | None,
) -> None:
    """`request`: all but its app. `timeout_s` None: it is not waited for."""
    target = settings.target()
    async with Client(target) as client:
        request.app = (await find_app(client, settings, target)).app.name
        known = (await client.instances(request.app)).changed
        started_s = runtime.monotonic_s()
        response = await client.change(method, request)
        if response.unchanged:
            note("formctl: it says so already: no release was made")
            return
        say(f"{request.app} v{response.release.number}: {response.release.reason}")
        if timeout_s is not None:
            await wait_for_release(
                client, response, timeout_s=timeout_s, started_s=started_s, baseline=known
            )
