"""How an app's code is made ready on a host before anything runs from it. Pure.

docs/design/artifacts.md says how a build goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

# What a build is called where instances have the names of their types: in logs, and as `PS`.
BUILD = "build"
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A command that runs once on each host in the code of a release, before its instances do, for
    `timeout_s` at most. `user`, `group` "": the agent's own, as for types."""

    command: str
    timeout_s: float = TIMEOUT_S
    user: str = ""
    group: str = ""


def outcome_of(build: Build | None) -> Build | None:
    """What makes a difference to what comes of it: not how long it may take."""
    return build and replace(build, timeout_s=TIMEOUT_S)


def problem_with(build: Build) -> str:
    """Why it cannot be one; or ""."""
    if not build.command.strip():
        return "build: no command"
    if "\0" in build.command + build.user + build.group:
        return "build: a NUL byte in the command, user or group"
    if not math.isfinite(build.timeout_s) or build.timeout_s <= 0:
        return "build: bad timeout"
    return ""
