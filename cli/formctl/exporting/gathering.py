"""Which instances are written: of an app's files, or of what runs on a host now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from formation.model import ProcessType, Release
from formctl.exporting.work import Formation, Work
from formctl.spec import AppSpec
from formctl.views import Instance

# foreman's: the first type begins at --port, the next a hundred later.
STEP = 100
OF_CONFIG, OF_PROJECT = "config", "project"
# (name, value, origin): `origin` is one of these, or a type's name.
Variables = Iterable[tuple[str, str, str]]


def of_files(
    app: str, found: AppSpec, quantities: Mapping[str, int], first_port: int, user: str
) -> Formation:
    works = tuple(
        Work(spec=spec, ordinal=ordinal, port=spec.port or first_port + STEP * place + ordinal - 1)
        for place, spec in enumerate(found.types)
        for ordinal in range(1, _count(spec, quantities) + 1)
    )
    return Formation(
        app=app,
        workdir=found.workdir,
        works=works,
        env=found.env,
        user=user,
        command=found.command.command if found.command else "",
    )


def _count(spec: ProcessType, quantities: Mapping[str, int]) -> int:
    """What has a schedule is written once for each that would start at its times."""
    return quantities.get(spec.name, spec.initial_quantity)


def directory_of(release: Release) -> str:
    """Code that was deployed lies where only our agents put it: it needs another place."""
    return f"/srv/{release.app}" if release.artifact else release.workdir


def of_host(
    release: Release, instances: Iterable[Instance], variables: Variables, user: str
) -> Formation:
    """`instances`: those on the host. One that is not of the release any more is left out."""
    known = tuple(variables)
    config = {name: value for name, value, origin in known if origin == OF_CONFIG}
    project = {name: value for name, value, origin in known if origin == OF_PROJECT}
    types = {
        spec.name: replace(
            spec,
            env={n: v for n, v, origin in known if origin == spec.name and n not in config},
        )
        for spec in release.types
    }
    wanted = sorted(
        (item for item in instances if not item.surplus and not item.run),
        key=lambda item: item.slot,
    )
    works = tuple(
        Work(
            spec=types[item.slot.type],
            ordinal=item.slot.ordinal,
            port=item.status.port,
        )
        for item in wanted
        if item.slot.type in types
    )
    return Formation(
        app=release.app,
        workdir=directory_of(release),
        works=works,
        env={**project, **config},
        user=user,
        command=release.command.command if release.command else "",
    )
