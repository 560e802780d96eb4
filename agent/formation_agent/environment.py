"""The environment of a child, built from scratch: nothing of the agent's own leaks into it.

Pure: the agent's environment is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from formation.model import Assignment, Release

# What a program needs to know about the machine it runs on.
_FROM_AGENT = ("PATH", "HOME", "LANG", "TZ")
# A service manager may start the agent with no PATH at all.
_DEFAULTS = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/"}
_OURS = "FORMATION_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all children of one agent share. `inherit` takes the rest of `environ` along."""

    environ: Mapping[str, str]
    host: str
    agent_id: str
    inherit: bool = False


def child_environment(
    around: Surroundings, release: Release, assignment: Assignment, port: int
) -> dict[str, str]:
    """A release may change PATH and the like, but not who the instance is or its port."""
    slot = assignment.slot
    return {
        **_of_machine(around),
        **release.env,
        "PORT": str(port),
        "PS": slot.short,
        "FORMATION_APP": slot.app,
        "FORMATION_TYPE": slot.type,
        "FORMATION_INSTANCE": assignment.uid,
        "FORMATION_RELEASE": f"v{assignment.release}",
        "FORMATION_HOST": around.host,
        # Leftovers of an agent that was killed are known by this one.
        "FORMATION_AGENT": around.agent_id,
    }


def _of_machine(around: Surroundings) -> dict[str, str]:
    if around.inherit:
        taken = {k: v for k, v in around.environ.items() if not k.startswith(_OURS)}
    else:
        taken = {k: around.environ[k] for k in _FROM_AGENT if k in around.environ}
    return {**_DEFAULTS, **taken}
