"""Process types ⇄ protobuf: a part of `formation.wire`, through which everybody else comes.

A message that lacks a field gives the model's default.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from formation import model as m
from formation.v1 import types_pb2 as pb

# What an older writer did not know is read as this.
_DEFAULTS = m.ProcessType(name="default", command="true")

Word = TypeVar("Word", bound=StrEnum)


class WireError(ValueError):
    """Bytes or a message that cannot be one of ours."""


def process_type_to_pb(spec: m.ProcessType) -> pb.ProcessType:
    return pb.ProcessType(
        name=spec.name,
        command=spec.command,
        initial_quantity=spec.initial_quantity,
        restart=spec.restart.value,
        stop_signal=spec.stop_signal,
        stop_grace_s=spec.stop_grace_s,
        stop_to=spec.stop_to.value,
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
    )


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
        rlimits=dict(message.rlimits),
    )


def _word(words: type[Word], text: str, where: str) -> Word:
    """A word that only a newer version knows cannot be obeyed, so it is not guessed at."""
    try:
        return words(text)
    except ValueError as error:
        raise WireError(f"process type {where}: {text!r} is unknown to this version") from error
