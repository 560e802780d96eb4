"""What a build is on this host: the name of what comes of it, and how it is run. Pure.

A build runs like an instance of a type that nobody has written: as its user, with the variables of
the app and no secrets, with what the largest type may use, and after everything else (`nice`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping

from formation.artifacts import DIGEST
from formation.builds import BUILD
from formation.model import Limits, ProcessType, Release

NICE = 10
UMASK = 0o022
_MARK_DIGITS = 16
_BUILT = "-"
NAME = re.compile(rf"{DIGEST.pattern}(?:{_BUILT}[0-9a-f]{{{_MARK_DIGITS}}})?")
_UNLIMITED = -1


def code_name(release: Release) -> str:
    """What the directory of a release's code is called: the digest, and where it is built a mark
    of all that may make a difference to what comes of it. "" for code that lies on the host."""
    if release.artifact is None:
        return ""
    if release.build is None:
        return release.artifact.digest
    build = release.build
    seen = [build.command, build.user, build.group, sorted(_variables(release).items())]
    mark = hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:_MARK_DIGITS]
    return f"{release.artifact.digest}{_BUILT}{mark}"


def is_built(name: str) -> bool:
    """Must what has this name be built before it is whole?"""
    return _BUILT in name


def _variables(release: Release) -> dict[str, str]:
    """The machine's own are not among them: they are the same for each build here."""
    return {**release.env, **release.config}


def build_type(release: Release) -> ProcessType:
    build = release.build
    assert build is not None
    return ProcessType(
        name=BUILD,
        command=build.command,
        user=build.user,
        group=build.group,
        limits=largest(spec.limits for spec in release.types),
        nice=NICE,
        umask=UMASK,
        secrets=(),
    )


def largest(limits: Iterable[Limits]) -> Limits:
    """What at least one of them allows: nobody gets more by building than by running."""
    found = list(limits)
    if not found:
        return Limits()
    names = set.intersection(*(set(item.rlimits) for item in found))
    return Limits(
        cpus=_most([item.cpus for item in found], none=0.0),
        memory_bytes=int(_most([item.memory_bytes for item in found], none=0)),
        pids=int(_most([item.pids for item in found], none=0)),
        rlimits={
            name: int(_most([item.rlimits[name] for item in found], none=_UNLIMITED))
            for name in sorted(names)
        },
    )


def _most(values: list[float] | list[int], none: float) -> float:
    return none if none in values else max(values)


def build_environment(of_type: Mapping[str, str], uid: str, slot: str) -> dict[str, str]:
    """Of the variables of `build_type`. The release's number is not among them: the next one may
    use what comes of it. `uid` marks the processes of this one build."""
    env = {name: value for name, value in of_type.items() if name != "FORMATION_RELEASE"}
    return {**env, "PS": slot, "FORMATION_INSTANCE": uid}


def failed(how: str, last_line: str) -> str:
    """`its build failed: exit 1: ERROR: No matching distribution found for foo`."""
    return f"its build failed: {how}" + (f": {last_line}" if last_line else "")
