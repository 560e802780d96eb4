"""A command that runs once for each release, before anything of it starts. Data only.

Light: whoever shows apps loads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# The name of its runs and of their slots: `release.7` is that of v7. No type may be called so
# beside a release command.
RELEASE = "release"
TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseCommand:
    """`like`: the type whose settings it has, "": none's. `timeout_s`: from when it was asked
    for."""

    command: str
    like: str = ""
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEnd:
    """`passed`: it ended with 0. `how`: for people."""

    passed: bool
    how: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A release that becomes the app's when its command has passed. `canary`: as in `Rollout`;
    `formation`: quantities of types that the app has not met yet."""

    release: int
    canary: int = 0
    formation: Mapping[str, int] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """The id of its run."""
        return run_id(self.release)


def run_id(release: int) -> str:
    return f"{RELEASE}.{release}"
