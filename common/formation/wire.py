"""Model ⇄ protobuf, total both ways. Every conversion of the project lives here.

`X_to_pb(model) -> message` and `X_from_pb(message) -> model`; a message that lacks a field gives
the model's default, so older writers are understood. Raises `WireError` for a message that no
version of ours wrote (an instance without a uid, an unknown state).
"""

from __future__ import annotations

from formation import model as m
from formation.requests import ChangeKind, QuantityChange
from formation.v1 import agent_pb2 as agent
from formation.v1 import control_pb2 as control
from formation.v1 import types_pb2 as pb
from formation.wire_artifact import (
    artifact_from_pb,
    build_from_pb,
    code_to_pb,
    workdir_from_pb,
    workdir_to_pb,
)
from formation.wire_assignment import (
    assignment_from_pb,
    assignment_to_pb,
    bundle_from_pb,
    bundle_to_pb,
    document_from_pb,
    document_to_pb,
    move_from_pb,
    move_to_pb,
    rebalance_from_pb,
    rebalance_to_pb,
    run_from_pb,
    run_to_pb,
)
from formation.wire_command import (
    command_end_from_pb,
    command_end_to_pb,
    command_from_pb,
    command_to_pb,
)
from formation.wire_maps import WireError, in_order
from formation.wire_seen import (
    app_from_pb,
    app_to_pb,
    capacity_from_pb,
    capacity_to_pb,
    host_from_pb,
    host_status_from_pb,
    host_status_to_pb,
    host_to_pb,
    instance_status_from_pb,
    instance_status_to_pb,
    usage_from_pb,
    usage_to_pb,
)
from formation.wire_type import (
    process_type_from_pb,
    process_type_to_pb,
    secret_from_pb,
    secret_to_pb,
    secrets_of_type,
)

__all__ = [
    "WireError",
    "app_from_pb",
    "app_to_pb",
    "artifact_from_pb",
    "assignment_from_pb",
    "assignment_to_pb",
    "build_from_pb",
    "bundle_to_pb",
    "capacity_from_pb",
    "capacity_to_pb",
    "code_to_pb",
    "command_from_pb",
    "command_to_pb",
    "document_from_pb",
    "document_to_pb",
    "host_from_pb",
    "host_status_from_pb",
    "host_status_to_pb",
    "host_to_pb",
    "instance_status_from_pb",
    "instance_status_to_pb",
    "move_from_pb",
    "move_to_pb",
    "process_type_from_pb",
    "process_type_to_pb",
    "rebalance_from_pb",
    "rebalance_to_pb",
    "run_from_pb",
    "run_to_pb",
    "usage_from_pb",
    "usage_to_pb",
    "workdir_to_pb",
]


def release_to_pb(release: m.Release) -> pb.Release:
    return pb.Release(
        app=release.app,
        number=release.number,
        types=[process_type_to_pb(spec) for spec in release.types],
        env=dict(release.env),
        workdir=workdir_to_pb(release.workdir, release.artifact),
        created_by=release.created_by,
        created_at_ms=release.created_at_ms,
        reason=release.reason,
        config=dict(release.config),
        secrets={name: secret_to_pb(secret) for name, secret in release.secrets.items()},
        **code_to_pb(release.artifact, release.build),
        command=command_to_pb(release.command),
        command_end=command_end_to_pb(release.command_end),
    )


def release_from_pb(message: pb.Release) -> m.Release:
    return m.Release(
        app=message.app,
        number=message.number,
        types=tuple(process_type_from_pb(spec) for spec in message.types),
        env=in_order(message.env),
        workdir=workdir_from_pb(message),
        created_by=message.created_by,
        created_at_ms=message.created_at_ms,
        reason=message.reason,
        config=in_order(message.config),
        secrets={name: secret_from_pb(item) for name, item in in_order(message.secrets).items()},
        artifact=artifact_from_pb(message),
        build=build_from_pb(message),
        command=command_from_pb(message.command),
        command_end=command_end_from_pb(message),
    )


def as_far_as_secrets(message: pb.Release) -> m.Release:
    """Only who needs which of them: can be read of every version's releases."""
    return m.Release(
        app=message.app,
        number=message.number,
        types=tuple(map(secrets_of_type, message.types)),
        secrets={name: secret_from_pb(item) for name, item in in_order(message.secrets).items()},
    )


def assignments_to_pb(order: m.Assignments) -> agent.Assignments:
    kinds = agent.Assignments
    return agent.Assignments(
        kind=kinds.KIND_COMPLETE if order.complete else kinds.KIND_INCREMENTAL,
        epoch=order.epoch,
        applies_to=order.applies_to,
        results_in=order.results_in,
        instances=[assignment_to_pb(item) for item in order.instances],
        removed_uids=order.removed_uids,
        cluster_epoch=order.cluster_epoch,
        releases=[release_to_pb(release) for release in order.releases],
    )


def assignments_from_pb(message: agent.Assignments) -> m.Assignments:
    if message.kind not in (message.KIND_COMPLETE, message.KIND_INCREMENTAL):
        # To guess would stop processes that are wanted.
        raise WireError(f"assignments of an unknown kind: {message.kind}")
    return m.Assignments(
        complete=message.kind == message.KIND_COMPLETE,
        epoch=message.epoch,
        applies_to=message.applies_to,
        results_in=message.results_in,
        instances=(
            *map(assignment_from_pb, message.instances),
            *(stay for item in message.bundles for stay in bundle_from_pb(item).stays()),
        ),
        removed_uids=tuple(message.removed_uids),
        cluster_epoch=message.cluster_epoch,
        releases=tuple(release_from_pb(release) for release in message.releases),
    )


def session_to_pb(session: m.Session) -> pb.Session:
    return pb.Session(
        session_id=session.session_id,
        coordinator_id=session.coordinator_id,
        agent_id=session.agent_id,
        since_ms=session.since_ms,
    )


def session_from_pb(message: pb.Session) -> m.Session:
    return m.Session(
        session_id=message.session_id,
        coordinator_id=message.coordinator_id,
        agent_id=message.agent_id,
        since_ms=message.since_ms,
    )


def coordinator_to_pb(coordinator: m.Coordinator) -> pb.Coordinator:
    return pb.Coordinator(
        id=coordinator.id,
        address=coordinator.address,
        version=coordinator.version,
        since_ms=coordinator.since_ms,
        insecure=coordinator.insecure,
    )


def coordinator_from_pb(message: pb.Coordinator) -> m.Coordinator:
    return m.Coordinator(
        id=message.id,
        address=message.address,
        version=message.version,
        since_ms=message.since_ms,
        insecure=message.insecure,
    )


def cluster_to_pb(cluster: m.Cluster) -> pb.Cluster:
    return pb.Cluster(
        id=cluster.id,
        schema_version=cluster.schema_version,
        created_at_ms=cluster.created_at_ms,
        epoch=cluster.epoch,
        held=cluster.held,
    )


def cluster_from_pb(message: pb.Cluster) -> m.Cluster:
    return m.Cluster(
        id=message.id,
        schema_version=message.schema_version,
        created_at_ms=message.created_at_ms,
        epoch=message.epoch,
        held=message.held,
    )


def audit_to_pb(record: m.AuditRecord) -> pb.AuditRecord:
    return pb.AuditRecord(
        at_ms=record.at_ms,
        who=record.who,
        action=record.action,
        subject=record.subject,
        detail=record.detail,
        before=record.before,
        after=record.after,
        why=record.why,
    )


def audit_from_pb(message: pb.AuditRecord) -> m.AuditRecord:
    return m.AuditRecord(
        at_ms=message.at_ms,
        who=message.who,
        action=message.action,
        subject=message.subject,
        detail=message.detail,
        before=message.before,
        after=message.after,
        why=message.why,
    )


_CHANGE_KINDS = {
    ChangeKind.SET: control.QuantityChange.KIND_SET,
    ChangeKind.ADD: control.QuantityChange.KIND_ADD,
    ChangeKind.SUBTRACT: control.QuantityChange.KIND_SUBTRACT,
}


def quantity_change_to_pb(change: QuantityChange) -> control.QuantityChange:
    return control.QuantityChange(
        type=change.type, kind=_CHANGE_KINDS[change.kind], quantity=change.quantity
    )


def quantity_change_from_pb(message: control.QuantityChange) -> QuantityChange:
    for kind, value in _CHANGE_KINDS.items():
        if value == message.kind:
            return QuantityChange(type=message.type, kind=kind, quantity=message.quantity)
    raise WireError(f"unknown kind of quantity change: {message.kind}")
