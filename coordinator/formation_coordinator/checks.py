"""Is what the caller of Apply wants a release? formctl checks too, but others may call. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from formation import builds, wire
from formation.artifacts import problem_with
from formation.manifest_keys import (
    NICE_MAX,
    NICE_MIN,
    PORT_MAX,
    RUNS_KEPT_MAX,
    STOP_SIGNALS,
)
from formation.manifest_rules import (
    constraint,
    contradiction,
    cron_problem,
    is_label,
    is_none,
    zone_problem,
)
from formation.manifest_values import UNLIMITED
from formation.model import (
    QUANTITY_MAX,
    Limits,
    Probe,
    ProbeKind,
    ProcessType,
    Release,
    RestartPolicy,
)
from formation.names import APP_NAME, TYPE_NAME
from formation.releasecommand import RELEASE, ReleaseCommand
from formation.rules import Constraint, Share
from formation.secrets import problem_with_name
from formation.v1 import control_pb2 as pb

UMASK_MAX = 0o777
PERCENT_MAX = 100.0


class BadRelease(ValueError):
    """Every problem, in one line for people."""


def release_wanted(request: pb.ApplyRequest) -> Release:
    """Without number and time. Raises `BadRelease`, and `WireError` for words that we lack."""
    if not APP_NAME.fullmatch(request.app):
        raise BadRelease(
            f"bad app name {request.app!r}: lower-case letters, digits, '.', '_', '-', at most 63"
        )
    types = tuple(wire.process_type_from_pb(spec) for spec in request.types)
    if not types:
        raise BadRelease(f"app {request.app}: no process types defined")
    names = [spec.name for spec in types]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadRelease(f"app {request.app}: type {', '.join(twice)} is defined twice")
    problems = [problem for spec in types for problem in type_problems(spec)]
    problems += _environment_problems(request.env)
    command = wire.command_from_pb(request.release_command)
    problems += command_problems(command, names) if command else []
    artifact = wire.artifact_from_pb(request)
    problems += filter(None, [problem_with(artifact) if artifact else ""])
    build = wire.build_from_pb(request)
    problems += _build_problems(build, names) if build else []
    problems += [
        f"{name}: quantity {quantity} is over {QUANTITY_MAX}"
        for name, quantity in request.formation.items()
        if quantity > QUANTITY_MAX
    ]
    if problems:
        raise BadRelease(f"app {request.app}: {'; '.join(problems)}")
    return Release(
        app=request.app,
        number=0,
        types=types,
        env=dict(request.env),
        workdir="" if artifact else request.workdir,
        reason=request.reason,
        artifact=artifact,
        build=build,
        command=command,
    )


def _build_problems(build: builds.Build, names: Collection[str]) -> list[str]:
    taken = f"{builds.BUILD}: a type of that name beside a build, which is called so in logs"
    return [*filter(None, [builds.problem_with(build)]), *([taken] * (builds.BUILD in names))]


def command_problems(command: ReleaseCommand, types: Collection[str]) -> list[str]:
    """What makes a release command impossible, beside these types."""
    checks = {
        "the release command is empty": command.command.strip(),
        "a NUL byte in the release command": "\0" not in command.command,
        "bad timeout of the release command": 0 < command.timeout_s < math.inf,
        f"the release command has the settings of {command.like!r}, which is no type": (
            not command.like or command.like in types
        ),
        f"a type is called {RELEASE}: runs of the release command need that name": (
            RELEASE not in types
        ),
    }
    return [what for what, passed in checks.items() if not passed]


def _environment_problems(env: Mapping[str, str]) -> list[str]:
    return [f"bad environment variable {name!r}" for name in _bad_variables(env)]


def _bad_variables(env: Mapping[str, str]) -> list[str]:
    return [
        name
        for name, value in env.items()
        if not name or "=" in name or "\0" in name or "\0" in value
    ]


def type_problems(spec: ProcessType) -> list[str]:
    """What makes a type impossible, each in a few words that name it."""
    texts = (spec.command, spec.user, spec.group, spec.workdir)
    checks = {
        "no command": spec.command.strip(),
        f"quantity over {QUANTITY_MAX}": spec.initial_quantity <= QUANTITY_MAX,
        "a NUL byte in the command, user, group or workdir": "\0" not in "".join(texts),
        f"unknown stop signal {spec.stop_signal!r}": spec.stop_signal in STOP_SIGNALS,
        "bad stop grace": _is_time(spec.stop_grace_s),
        "bad stop drain": _is_time(spec.stop_drain_s),
        "bad ready after": _is_time(spec.ready_after_s),
        "bad start grace": _is_time(spec.start_grace_s),
        "bad watchdog": _is_time(spec.watchdog_s),
        "bad port": spec.port <= PORT_MAX,
        "bad nice": NICE_MIN <= spec.nice <= NICE_MAX,
        "bad umask": spec.umask <= UMASK_MAX,
        "bad workdir": ".." not in spec.workdir.split("/"),
        "bad readiness probe": _is_probe(spec.readiness),
        "bad liveness probe": _is_probe(spec.liveness),
        "bad limits": _are_limits(spec.limits),
        "bad on_host_loss after": _is_time(spec.on_host_loss.after_s),
    }
    found = [what for what, passed in checks.items() if not passed]
    found += _environment_problems(spec.env)
    found += [*_resource_problems(spec), *_placement_problems(spec), *_rollout_problems(spec)]
    found += _schedule_problems(spec)
    found += filter(None, map(problem_with_name, (*(spec.secrets or ()), *spec.secret_files)))
    bad_name = [] if TYPE_NAME.fullmatch(spec.name) else [f"bad type name {spec.name!r}"]
    return bad_name + [f"{spec.name}: {what}" for what in found]


def _is_time(seconds: float) -> bool:
    return 0 <= seconds < math.inf


def _is_probe(probe: Probe | None) -> bool:
    if probe is None:
        return True
    if "\0" in probe.target:
        return False
    if probe.kind is ProbeKind.HTTP and not probe.target.startswith("/"):
        return False
    if probe.kind is ProbeKind.EXEC and not probe.target.strip():
        return False
    times = 0 < probe.period_s < math.inf and 0 < probe.timeout_s < math.inf
    return times and probe.port <= PORT_MAX and probe.failures > 0 and probe.successes > 0


def _are_limits(limits: Limits) -> bool:
    return 0 <= limits.cpus < math.inf and all(
        value >= UNLIMITED for value in limits.rlimits.values()
    )


def _resource_problems(spec: ProcessType) -> list[str]:
    kept, most = spec.resources, spec.limits
    checks = {
        "bad resources": 0 <= kept.cpus < math.inf and kept.memory_bytes >= 0,
        "resources keep more cpus than limits allow": not 0 < most.cpus < kept.cpus,
        "resources keep more memory than limits allow": not (
            0 < most.memory_bytes < kept.memory_bytes
        ),
    }
    return [what for what, passed in checks.items() if not passed]


# -- placement -------------------------------------------------------------------------------------


def _placement_problems(spec: ProcessType) -> list[str]:
    where = spec.where
    found = [
        f"bad condition on a label {str(item)!r}"
        for item in (*where.require, *where.prefer)
        if not _is_constraint(item)
    ]
    found += [
        f"bad label {label!r} to spread over" for label in where.spread if not is_label(label)
    ]
    if where.max_per_host < 0:
        found.append("bad max_per_host")
    if together := contradiction(where.require):
        found.append(f"no host can have {together}")
    found += [f"apart from itself, {name}" for name in where.apart_from if name == spec.name]
    found += [
        f"bad type {name!r} to be apart from" for name in where.apart_from if not _is_type(name)
    ]
    return found


def _is_constraint(item: Constraint) -> bool:
    """It can be written down and read again."""
    return is_label(item.label) and constraint(str(item)) is not None


def _is_type(name: str) -> bool:
    app, slash, type_name = name.rpartition("/")
    return bool(TYPE_NAME.fullmatch(type_name) and (not slash or APP_NAME.fullmatch(app)))


# -- rollout and schedule --------------------------------------------------------------------------


def _rollout_problems(spec: ProcessType) -> list[str]:
    rules = spec.rollout
    shares = (rules.surge, rules.unavailable)
    times = _is_time(rules.healthy_s) and _is_time(rules.deadline_s)
    alone = spec.exclusive or spec.per_host
    checks = {
        "bad surge or unavailable": all(map(_is_share, shares)),
        "bad healthy or deadline": times,
        "deadline is not longer than healthy": not times or rules.deadline_s > rules.healthy_s,
        "surge and unavailable are both 0": spec.schedule or not all(map(is_none, shares)),
        "surge with exclusive or per_host, it must be 0": not alone or is_none(rules.surge),
    }
    return [what for what, passed in checks.items() if not passed]


def _is_share(share: Share) -> bool:
    return 0 <= share.count <= QUANTITY_MAX and 0 <= share.percent <= PERCENT_MAX


def _schedule_problems(spec: ProcessType) -> list[str]:
    if (schedule := spec.schedule) is None:
        return []
    found = [
        f"schedule {problem}"
        for problem in (cron_problem(schedule.cron), zone_problem(schedule.zone))
        if problem
    ]
    checks = {
        f"schedule must keep 1 to {RUNS_KEPT_MAX} runs": 1 <= schedule.keep <= RUNS_KEPT_MAX,
        "exclusive or per_host with a schedule": not (spec.exclusive or spec.per_host),
        "restart always with a schedule": spec.restart is not RestartPolicy.ALWAYS,
        "a readiness probe with a schedule": not (spec.readiness or spec.notify),
    }
    return found + [what for what, passed in checks.items() if not passed]
