"""Which artifacts a coordinator keeps, and whom it gives one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from formation.artifacts import Artifact
from formation.model import App, Release
from formation_coordinator.world import World

RELEASES_KEPT = 20
# What nothing refers to: an upload comes before its release.
UNUSED_FOR_S = 3600.0
PART_FOR_S = 86400.0

Name = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A file of the store: an artifact, or as much of one as has come. `age_s`: since it was used
    or written to."""

    app: str
    digest: str
    is_part: bool
    age_s: float


def kept(world: World) -> dict[Name, Artifact]:
    """By app and digest: of each app those of the current and the stable release, of its candidate,
    and of the newest ones."""
    found: dict[Name, Artifact] = {}
    by_app: dict[str, list[Release]] = {}
    for release in world.releases.values():
        if release.artifact is not None and release.app in world.apps:
            by_app.setdefault(release.app, []).append(release)
    for name, releases in by_app.items():
        for release in _kept_of(world.apps[name], releases):
            if release.artifact is not None:
                found[name, release.artifact.digest] = release.artifact
    return found


def _kept_of(app: App, releases: Iterable[Release]) -> list[Release]:
    newest = sorted(releases, key=lambda release: -release.number)
    named = (app.release, app.stable_release, app.newest)
    return newest[:RELEASES_KEPT] + [r for r in newest[RELEASES_KEPT:] if r.number in named]


def known(world: World, app: str, digest: str) -> Artifact | None:
    """As any release names it."""
    for (name, _), release in world.releases.items():
        found = release.artifact
        if name == app and found is not None and found.digest == digest:
            return found
    return None


def assigned_to(world: World, host: str, app: str, digest: str) -> bool:
    """Does a release that this host is to run refer to it?"""
    entry = world.hosts.get(host)
    for bundle in entry.bundles if entry else ():
        if bundle.terms.app == app:
            release = world.releases.get((app, bundle.terms.release))
            if release and release.artifact and release.artifact.digest == digest:
                return True
    return False


def collected(held: Iterable[Held], wanted: Mapping[Name, Artifact]) -> list[Held]:
    """Those that may go."""
    return [
        item
        for item in held
        if (item.app, item.digest) not in wanted
        and item.age_s > (PART_FOR_S if item.is_part else UNUSED_FOR_S)
    ]
