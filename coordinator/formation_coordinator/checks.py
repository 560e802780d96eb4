"""Is what the caller of Apply wants a release? formctl checks too, but others may call. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from formation import wire
from formation.manifest import STOP_SIGNALS
from formation.manifest_rules import LABEL, PERCENT_MAX, cron_problem, zone_exists
from formation.model import (
    APP_NAME,
    QUANTITY_MAX,
    TYPE_NAME,
    Limits,
    Probe,
    ProbeKind,
    ProcessType,
    Release,
)
from formation.rules import Share
from formation.v1 import control_pb2 as pb

PORT_MAX = 65_535
NICE_MIN, NICE_MAX = -20, 19
UMASK_MAX = 0o777
UNLIMITED = -1


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
        workdir=request.workdir,
        reason=request.reason,
    )


def _environment_problems(env: Mapping[str, str]) -> list[str]:
    return [
        f"bad environment variable {name!r}"
        for name, value in env.items()
        if not name or "=" in name or "\0" in name + value
    ]


def type_problems(spec: ProcessType) -> list[str]:
    """What makes a type impossible, each in a few words that name it."""
    texts = (spec.command, spec.user, spec.group, spec.workdir)
    checks = {
        f"bad type name {spec.name!r}": TYPE_NAME.fullmatch(spec.name),
        f"{spec.name}: no command": spec.command.strip(),
        f"{spec.name}: quantity over {QUANTITY_MAX}": spec.initial_quantity <= QUANTITY_MAX,
        f"{spec.name}: a NUL byte in the command, user, group or workdir": "\0"
        not in "".join(texts),
        f"{spec.name}: unknown stop signal {spec.stop_signal!r}": spec.stop_signal in STOP_SIGNALS,
        f"{spec.name}: bad stop grace": _is_time(spec.stop_grace_s),
        f"{spec.name}: bad ready after": _is_time(spec.ready_after_s),
        f"{spec.name}: bad start grace": _is_time(spec.start_grace_s),
        f"{spec.name}: bad watchdog": _is_time(spec.watchdog_s),
        f"{spec.name}: bad port": spec.port <= PORT_MAX,
        f"{spec.name}: bad nice": NICE_MIN <= spec.nice <= NICE_MAX,
        f"{spec.name}: bad umask": spec.umask <= UMASK_MAX,
        f"{spec.name}: bad workdir": ".." not in spec.workdir.split("/"),
        f"{spec.name}: bad readiness probe": _is_probe(spec.readiness),
        f"{spec.name}: bad liveness probe": _is_probe(spec.liveness),
        f"{spec.name}: bad limits": _are_limits(spec.limits),
    }
    all_checks: dict[str, object] = {**checks, **_rule_checks(spec)}
    return [problem for problem, passed in all_checks.items() if not passed]


def _rule_checks(spec: ProcessType) -> dict[str, object]:
    rules, where, schedule = spec.rollout, spec.where, spec.schedule
    constraints = (*where.require, *where.prefer)
    return {
        f"{spec.name}: bad resources": 0 <= spec.resources.cpus < math.inf,
        f"{spec.name}: bad env": not _environment_problems(spec.env),
        f"{spec.name}: bad placement": where.max_per_host >= 0
        and all(LABEL.fullmatch(c.label) for c in constraints)
        and all(LABEL.fullmatch(label) for label in where.spread),
        f"{spec.name}: bad rollout times": _is_time(rules.healthy_s)
        and 0 < rules.deadline_s < math.inf,
        f"{spec.name}: bad rollout shares": _is_share(rules.surge) and _is_share(rules.unavailable),
        f"{spec.name}: bad schedule": schedule is None
        or (not cron_problem(schedule.cron) and zone_exists(schedule.zone) and schedule.keep > 0),
        f"{spec.name}: bad on_host_loss": _is_time(spec.on_host_loss.after_s),
    }


def _is_share(share: Share) -> bool:
    return share.count >= 0 and 0 <= share.percent <= PERCENT_MAX


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
