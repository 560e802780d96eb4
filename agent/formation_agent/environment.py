"""The environment of a child, built from scratch: nothing of the agent's own leaks into it.

Pure: the agent's environment is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from formation.model import Assignment, ProcessType, Release
from formation.secrets import needed

# What a program needs to know about the machine it runs on.
_FROM_AGENT = ("PATH", "HOME", "LANG", "TZ")
# A service manager may start the agent with no PATH at all.
_DEFAULTS = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/"}
_OURS = "FORMATION_"
# Said to our agent by its own service manager, and wrong for anybody else.
_OF_SERVICE = frozenset(
    {
        "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID",
        "LISTEN_FDNAMES", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "MAINPID",
        "MANAGERPID", "CREDENTIALS_DIRECTORY",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all children of one agent share. `inherit` takes the rest of `environ` along."""

    environ: Mapping[str, str]
    host: str
    agent_id: str
    inherit: bool = False


def type_environment(
    around: Surroundings, release: Release, spec: ProcessType, account: Mapping[str, str]
) -> dict[str, str]:
    """What all instances of one type share; `account`: what belongs to the user it runs as.

    A release may change PATH and the like, but not who the instance is. What the operator has
    configured goes before what the type says, and that before what the project says for all.
    Secrets go before all of these; those that it gets as files are not among them.
    """
    watchdog = {"WATCHDOG_USEC": str(int(spec.watchdog_s * 1e6))} if spec.watchdog_s > 0 else {}
    return {
        **_of_machine(around),
        **account,
        **release.env,
        **spec.env,
        **release.config,
        **{
            name: release.secrets[name].value
            for name in needed(spec, release.secrets)
            if name not in spec.secret_files
        },
        "FORMATION_APP": release.app,
        "FORMATION_TYPE": spec.name,
        "FORMATION_RELEASE": f"v{release.number}",
        "FORMATION_HOST": around.host,
        # Leftovers of an agent that was killed are known by this one.
        "FORMATION_AGENT": around.agent_id,
        **watchdog,
    }


def instance_environment(
    of_type: Mapping[str, str], assignment: Assignment, port: int
) -> dict[str, str]:
    return {
        **of_type,
        "PORT": str(port),
        "PS": assignment.slot.short,
        "FORMATION_INSTANCE": assignment.uid,
    }


def _of_machine(around: Surroundings) -> dict[str, str]:
    if around.inherit:
        taken = {
            name: value
            for name, value in around.environ.items()
            if not name.startswith(_OURS) and name not in _OF_SERVICE
        }
    else:
        taken = {name: around.environ[name] for name in _FROM_AGENT if name in around.environ}
    return {**_DEFAULTS, **taken}
