"""What a dev cluster consists of: programs, their arguments and environment. Pure."""

from __future__ import annotations

import os.path
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from formation import grpcenv
from formation.model import ProcessType, RestartPolicy
from formctl.spec import AppSpec

# One letter each, and one slice of ports each below the kernel's ephemeral range.
AGENTS_MAX = 10
AGENT_NAMES = string.ascii_lowercase[:AGENTS_MAX]
_PORTS_FIRST, _PORTS_EACH = 20_000, 1_000
_FOREMAN_STEP = 100
_OUR_PREFIX = "FORMATION_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`exit_on` is "", "any" or "failure"; `port_base` 0 leaves ports to the agents' ranges."""

    spec: AppSpec
    app: str
    quantities: Mapping[str, int]
    agents: int = 1
    port_base: int = 5000
    exit_on: str = ""

    @property
    def host_names(self) -> tuple[str, ...]:
        return tuple(AGENT_NAMES[: self.agents])

    @property
    def grace_max_s(self) -> float:
        return max(spec.stop_grace_s for spec in self.spec.types)

    @property
    def graces(self) -> dict[str, float]:
        """Of the types that are asked to stop before they are killed."""
        return {s.name: s.stop_grace_s for s in self.spec.types if s.stop_signal != "KILL"}

    @property
    def suggestions(self) -> tuple[str, ...]:
        """What to type in a second terminal, about a type of which something runs."""
        running = [name for name, quantity in self.quantities.items() if quantity]
        if not running:
            return ("formctl ps", f"formctl scale {self.spec.type_names[0]}=1")
        first = running[0]
        return ("formctl ps", f"formctl scale {first}+1", f"formctl logs -f {first}")

    @property
    def slots(self) -> list[str]:
        """Every name that will show up in the output, so that its column is wide enough."""
        return [f"{name}.{n or 1}" for name, n in self.quantities.items()]

    def foreman_port(self, type_name: str, ordinal: int) -> int:
        """What foreman would give; 0 where it would collide, and for types that came later."""
        names = self.spec.type_names
        if not self.port_base or ordinal > _FOREMAN_STEP or type_name not in names:
            return 0
        return self.port_base + _FOREMAN_STEP * names.index(type_name) + ordinal - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """`log` takes what it writes to stdout and stderr."""

    name: str
    argv: tuple[str, ...]
    log: str


def coordinator(python: str, run_dir: str) -> Program:
    return Program(
        name="coordinator",
        # -P: a module in the user's project must not replace one of ours.
        argv=(
            *(python, "-P", "-m", "formation_coordinator"),
            *("--etcd", "embedded", "--data-dir", os.path.join(run_dir, "etcd")),
            *("--listen", f"unix:{run_dir}/c.sock", "--id", "dev"),
        ),
        log=os.path.join(run_dir, "coordinator.log"),
    )


def agents(python: str, run_dir: str, plan: Plan) -> list[Program]:
    return [_agent(python, run_dir, plan, index) for index in range(plan.agents)]


def _agent(python: str, run_dir: str, plan: Plan, index: int) -> Program:
    first = _PORTS_FIRST + _PORTS_EACH * index
    foreman = ("--foreman-ports", str(plan.port_base)) if plan.port_base else ()
    return Program(
        name=f"agent {AGENT_NAMES[index]}",
        argv=(
            *(python, "-P", "-m", "formation_agent"),
            *("--coordinator", f"unix:{run_dir}/c.sock", "--name", AGENT_NAMES[index]),
            *("--state-dir", os.path.join(run_dir, f"a{index + 1}"), "--address", "127.0.0.1"),
            *("--port-range", f"{first}-{first + _PORTS_EACH - 1}", *foreman, "--inherit-env"),
            # Their own user's own project, as with any other tool of this kind.
            *("--allow-user", "*", "--allow-new-privileges"),
        ),
        log=os.path.join(run_dir, f"agent-{AGENT_NAMES[index]}.log"),
    )


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The user's own, without what would configure our daemons in other ways than planned."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_OUR_PREFIX) and grpcenv.VARIABLES.get(name) != value
    }


def adapted(
    types: Sequence[ProcessType], *, grace_s: float | None, exit_on: str
) -> tuple[ProcessType, ...]:
    """What ends must not be started once more when its end ends everything."""
    if grace_s is not None:
        types = [replace(spec, stop_grace_s=grace_s) for spec in types]
    if exit_on:
        types = [replace(spec, restart=RestartPolicy.NEVER) for spec in types]
    return tuple(types)
