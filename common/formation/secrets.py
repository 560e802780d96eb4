"""Values that nobody shall read but the processes that need them. Pure.

A release names its secrets and holds them sealed; only a coordinator can open them, and does for
agents that run something that needs them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from formation.model import ProcessType, Release

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# One string of an environment has at most 128 KiB; all of an app's are in each of its releases.
VALUE_MAX_BYTES = 64 * 1024
ALL_MAX_BYTES = 512 * 1024
# Where a process finds the path of a secret that is given to it as a file.
FILE_SUFFIX = "_FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """`version`: the release with which it was set. `key`: which one has sealed it. `value` is
    known to agents alone, `sealed` to coordinators alone."""

    version: int
    key: str = ""
    sealed: bytes = field(default=b"", repr=False)
    value: str = field(default="", repr=False)


def needed(spec: ProcessType, names: Mapping[str, object]) -> set[str]:
    """Which of a release's secrets a type gets: all, if it does not say."""
    if spec.secrets is None:
        return set(names)
    return (set(spec.secrets) | set(spec.secret_files)) & names.keys()


def needed_by(release: Release, types: Collection[str]) -> set[str]:
    """Which of a release's secrets any of these types needs. A command of its own, which is of no
    type, has no settings to say which it needs: it gets all."""
    known = [release.type_named(name) for name in types]
    found = [needed(spec, release.secrets) if spec else set(release.secrets) for spec in known]
    return set().union(*found)


def for_agent(release: Release, types: Collection[str], known: Release | None) -> Release:
    """What an agent keeps of a release: the secrets that its types need. A value that it knew stays
    when the one that comes is empty, since no coordinator could open it: releases never change."""
    names = needed_by(release, types)
    kept = {name: secret for name, secret in release.secrets.items() if name in names}
    for name, secret in kept.items():
        before = known.secrets.get(name) if known else None
        if not secret.value and before is not None and before.version == secret.version:
            kept[name] = before
    return replace(release, secrets=kept)


def missing(spec: ProcessType, names: Mapping[str, object]) -> list[str]:
    """Which it names that nobody has set."""
    named = dict.fromkeys((*(spec.secrets or ()), *spec.secret_files))
    return [name for name in named if name not in names]


def versions(secrets: Mapping[str, Secret], names: set[str]) -> dict[str, int]:
    """What tells one set of secrets from another: never the values, nor how they are sealed."""
    return {name: secret.version for name, secret in secrets.items() if name in names}


def changed_secrets(before: Mapping[str, Secret], after: Mapping[str, Secret]) -> list[str]:
    """Names of those that are in both and say something else, as far as one may know."""
    both = before.keys() & after.keys()
    return sorted(name for name in both if before[name].version != after[name].version)


def problem_with_name(name: str) -> str:
    """Why this is no name for a secret; or ""."""
    if not NAME.fullmatch(name):
        return f"{name!r} is no name of a variable: letters, digits and _ are"
    if name in ("PORT", "PS") or name.startswith("FORMATION_"):
        return f"{name} is set by Formation for each instance"
    return ""


def problem_with_value(name: str, value: str) -> str:
    """Why this cannot be a secret, without repeating it; or ""."""
    if not value:
        return f"{name}: the value is empty"
    if "\0" in value:
        return f"{name}: the value has a NUL in it, which no environment can hold"
    if len(value.encode("utf-8", "surrogatepass")) > VALUE_MAX_BYTES:
        return f"{name}: the value has more than {VALUE_MAX_BYTES // 1024} KiB"
    return ""
