"""Which app a command is about, when it is not said: from the nearest hint to the farthest.

--app, FORMATION_APP, `app =` in ./formation.toml, the dev cluster's app, the only app of the
cluster, the app named like this directory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from formation.builds import BUILD
from formation.names import ONE_OFF
from formation.releasecommand import RELEASE
from formctl import naming
from formctl.errors import InputError

# Another coordinator may have been told of a new app a moment ago.
_TRIES = 5
_PAUSE_S = 0.1
# What runs are called that are no type's.
_RUNS = (ONE_OFF, RELEASE)

if TYPE_CHECKING:
    from formation.discovery import Target
    from formctl.client import Client
    from formctl.settings import Settings
    from formctl.views import AppLine


async def find_app(client: Client, settings: Settings, target: Target) -> AppLine:
    """With its formation; InputError when the cluster has no such app."""
    named = settings.named_app() or naming.named_app(settings.directory) or target.app
    return await known_app(client, named, naming.app_name(settings.directory))


async def known_app(client: Client, named: str, directory_name: str = "") -> AppLine:
    """The app of this name; without one, the only app or the one named like the directory."""
    for _ in range(_TRIES):
        found = await client.apps()
        name = named or choose(found, directory_name)
        for line in found:
            if line.app.name == name:
                return line
        await asyncio.sleep(_PAUSE_S)
    raise InputError(f"no app {name}; there is {_names(found)}")


async def known_type(client: Client, app: str, type_name: str) -> None:
    """InputError for a type that no release of the app has ever defined."""
    # Newest first, so that today's types come first.
    releases = await client.releases(app)
    names = dict.fromkeys(item.name for release in releases for item in release.types)
    if type_name not in names:
        raise InputError(no_type(type_name, names))


async def known_writer(client: Client, app: str, name: str) -> None:
    """As `known_type`, of whatever writes into logs: runs and builds are nobody's instances."""
    if name in _RUNS:
        return
    if name != BUILD or not any(release.build for release in await client.releases(app)):
        await known_type(client, app, name)


def no_type(name: str, known: Iterable[str]) -> str:
    return f"no process type {name}: there is {', '.join(known) or 'none'}"


def choose(found: Sequence[AppLine], directory_name: str) -> str:
    names = [line.app.name for line in found]
    if len(names) == 1:
        return names[0]
    if directory_name in names:
        return directory_name
    if not names:
        raise InputError("this cluster has no apps; add one with: formctl apply")
    raise InputError(f"which app? give --app NAME; there is {_names(found)}")


def _names(found: Sequence[AppLine]) -> str:
    return ", ".join(line.app.name for line in found) or "none; add one with: formctl apply"
