"""Process types and secrets ⇄ protobuf: a part of `formation.wire`, through which everybody else
comes.

A message that lacks a field gives the model's default.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from formation import model as m
from formation import rules
from formation.secrets import Secret
from formation.v1 import types_pb2 as pb
from formation.wire_maps import WireError, in_order

# What an older writer did not know is read as this.
_DEFAULTS = m.ProcessType(name="default", command="true")

Word = TypeVar("Word", bound=StrEnum)


def process_type_to_pb(spec: m.ProcessType) -> pb.ProcessType:
    return pb.ProcessType(
        name=spec.name,
        command=spec.command,
        initial_quantity=spec.initial_quantity,
        restart=spec.restart.value,
        stop_signal=spec.stop_signal,
        stop_grace_s=spec.stop_grace_s,
        stop_to=spec.stop_to.value,
        stop_drain_s=spec.stop_drain_s,
        ready_after_s=spec.ready_after_s,
        readiness=_probe_to_pb(spec.readiness),
        liveness=_probe_to_pb(spec.liveness),
        notify=spec.notify,
        watchdog_s=spec.watchdog_s,
        start_grace_s=spec.start_grace_s,
        port=spec.port,
        limits=_limits_to_pb(spec.limits),
        nice=spec.nice,
        user=spec.user,
        group=spec.group,
        workdir=spec.workdir,
        umask=spec.umask if spec.umask >= 0 else None,
        requires=[ability.value for ability in spec.requires],
        env=dict(spec.env),
        resources=pb.Resources(cpus=spec.resources.cpus, memory_bytes=spec.resources.memory_bytes),
        where=_where_to_pb(spec.where),
        rollout=_rollout_to_pb(spec.rollout),
        exclusive=spec.exclusive,
        per_host=spec.per_host,
        schedule=_schedule_to_pb(spec.schedule),
        on_host_loss=pb.HostLoss(
            action=spec.on_host_loss.action.value,
            after_s=spec.on_host_loss.after_s,
            keep=spec.on_host_loss.keep.value,
        ),
        secrets=None if spec.secrets is None else pb.SecretNames(names=spec.secrets),
        secret_files=spec.secret_files,
    )


def process_type_from_pb(message: pb.ProcessType) -> m.ProcessType:
    has = message.HasField
    return m.ProcessType(
        name=message.name,
        command=message.command,
        initial_quantity=message.initial_quantity,
        restart=_word(m.RestartPolicy, message.restart or _DEFAULTS.restart, message.name),
        stop_signal=message.stop_signal or _DEFAULTS.stop_signal,
        stop_grace_s=message.stop_grace_s if has("stop_grace_s") else _DEFAULTS.stop_grace_s,
        stop_to=_word(m.StopTo, message.stop_to or _DEFAULTS.stop_to, message.name),
        stop_drain_s=message.stop_drain_s,
        ready_after_s=message.ready_after_s if has("ready_after_s") else _DEFAULTS.ready_after_s,
        readiness=_probe_from_pb(message.readiness, message.name) if has("readiness") else None,
        liveness=_probe_from_pb(message.liveness, message.name) if has("liveness") else None,
        notify=message.notify,
        watchdog_s=message.watchdog_s,
        start_grace_s=message.start_grace_s if has("start_grace_s") else _DEFAULTS.start_grace_s,
        port=message.port,
        limits=_limits_from_pb(message.limits),
        nice=message.nice,
        user=message.user,
        group=message.group,
        workdir=message.workdir,
        umask=message.umask if has("umask") else _DEFAULTS.umask,
        requires=tuple(_word(m.Ability, item, message.name) for item in message.requires),
        env=in_order(message.env),
        resources=rules.Resources(
            cpus=message.resources.cpus, memory_bytes=message.resources.memory_bytes
        ),
        where=_where_from_pb(message.where) if has("where") else _DEFAULTS.where,
        rollout=_rollout_from_pb(message.rollout) if has("rollout") else _DEFAULTS.rollout,
        exclusive=message.exclusive,
        per_host=message.per_host,
        schedule=_schedule_from_pb(message.schedule, message.name) if has("schedule") else None,
        on_host_loss=_loss_from_pb(message.on_host_loss, message.name),
        secrets=_secret_names(message),
        secret_files=tuple(message.secret_files),
    )


def secrets_of_type(message: pb.ProcessType) -> m.ProcessType:
    """Its name and which secrets it needs, and nothing else of it."""
    return m.ProcessType(
        name=message.name,
        command=message.command,
        secrets=_secret_names(message),
        secret_files=tuple(message.secret_files),
    )


def secret_to_pb(secret: Secret) -> pb.Secret:
    return pb.Secret(
        version=secret.version, key=secret.key, sealed=secret.sealed, value=secret.value
    )


def secret_from_pb(message: pb.Secret) -> Secret:
    return Secret(
        version=message.version, key=message.key, sealed=message.sealed, value=message.value
    )


def _secret_names(message: pb.ProcessType) -> tuple[str, ...] | None:
    return tuple(message.secrets.names) if message.HasField("secrets") else None


def _probe_to_pb(probe: m.Probe | None) -> pb.Probe | None:
    if probe is None:
        return None
    return pb.Probe(
        kind=probe.kind.value,
        target=probe.target,
        port=probe.port,
        period_s=probe.period_s,
        timeout_s=probe.timeout_s,
        failures=probe.failures,
        successes=probe.successes,
    )


def _probe_from_pb(message: pb.Probe, where: str) -> m.Probe:
    return m.Probe(
        kind=_word(m.ProbeKind, message.kind, where),
        target=message.target,
        port=message.port,
        period_s=message.period_s,
        timeout_s=message.timeout_s,
        failures=message.failures,
        successes=message.successes,
    )


def _limits_to_pb(limits: m.Limits) -> pb.Limits | None:
    if limits == _DEFAULTS.limits:
        return None
    return pb.Limits(
        cpus=limits.cpus,
        memory_bytes=limits.memory_bytes,
        pids=limits.pids,
        rlimits=dict(limits.rlimits),
    )


def _limits_from_pb(message: pb.Limits) -> m.Limits:
    return m.Limits(
        cpus=message.cpus,
        memory_bytes=message.memory_bytes,
        pids=message.pids,
        rlimits=in_order(message.rlimits),
    )


def _where_to_pb(where: rules.Where) -> pb.Where:
    return pb.Where(
        require=[_constraint_to_pb(item) for item in where.require],
        prefer=[_constraint_to_pb(item) for item in where.prefer],
        spread=where.spread,
        spread_by_host_only=not where.spread,
        max_per_host=where.max_per_host,
        apart_from=where.apart_from,
    )


def _where_from_pb(message: pb.Where) -> rules.Where:
    spread = tuple(message.spread) or _DEFAULTS.where.spread
    return rules.Where(
        require=tuple(_constraint_from_pb(item) for item in message.require),
        prefer=tuple(_constraint_from_pb(item) for item in message.prefer),
        spread=() if message.spread_by_host_only else spread,
        max_per_host=message.max_per_host,
        apart_from=tuple(message.apart_from),
    )


def _constraint_to_pb(constraint: rules.Constraint) -> pb.Constraint:
    return pb.Constraint(
        label=constraint.label,
        negated=constraint.operator is rules.Operator.NOT_IN,
        patterns=constraint.patterns,
    )


def _constraint_from_pb(message: pb.Constraint) -> rules.Constraint:
    return rules.Constraint(
        label=message.label,
        operator=rules.Operator.NOT_IN if message.negated else rules.Operator.IN,
        patterns=tuple(message.patterns),
    )


def _rollout_to_pb(rollout: rules.RolloutRules) -> pb.RolloutRules:
    return pb.RolloutRules(
        surge=pb.Share(count=rollout.surge.count, percent=rollout.surge.percent),
        unavailable=pb.Share(count=rollout.unavailable.count, percent=rollout.unavailable.percent),
        healthy_s=rollout.healthy_s,
        deadline_s=rollout.deadline_s,
        rollback=rollout.rollback,
    )


def _rollout_from_pb(message: pb.RolloutRules) -> rules.RolloutRules:
    return rules.RolloutRules(
        surge=rules.Share(count=message.surge.count, percent=message.surge.percent),
        unavailable=rules.Share(
            count=message.unavailable.count, percent=message.unavailable.percent
        ),
        healthy_s=message.healthy_s,
        deadline_s=message.deadline_s,
        rollback=message.rollback,
    )


def _schedule_to_pb(schedule: rules.Schedule | None) -> pb.Schedule | None:
    if schedule is None:
        return None
    return pb.Schedule(
        cron=schedule.cron,
        zone=schedule.zone,
        overlap=schedule.overlap.value,
        missed=schedule.missed.value,
        keep=schedule.keep,
    )


def _schedule_from_pb(message: pb.Schedule, where: str) -> rules.Schedule:
    return rules.Schedule(
        cron=message.cron,
        zone=message.zone or "UTC",
        overlap=_word(rules.Overlap, message.overlap or rules.Overlap.SKIP, where),
        missed=_word(rules.Missed, message.missed or rules.Missed.SKIP, where),
        keep=message.keep,
    )


def _loss_from_pb(message: pb.HostLoss, where: str) -> rules.HostLoss:
    return rules.HostLoss(
        action=_word(rules.LossAction, message.action or rules.LossAction.REPLACE, where),
        after_s=message.after_s,
        keep=_word(rules.Keep, message.keep or rules.Keep.BEST, where),
    )


def _word(words: type[Word], text: str, where: str) -> Word:
    """A word that only a newer version knows cannot be obeyed, so it is not guessed at."""
    try:
        return words(text)
    except ValueError as error:
        raise WireError(f"process type {where}: {text!r} is unknown to this version") from error
