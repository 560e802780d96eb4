"""Model ⇄ protobuf, total both ways. Every conversion of the project lives here.

`X_to_pb(model) -> message` and `X_from_pb(message) -> model`; a message that lacks a field gives
the model's default, so older writers are understood. Raises `WireError` for a message that no
version of ours wrote (an instance without a uid, an unknown state).
"""

from __future__ import annotations

from formation import model as m
from formation import rules
from formation.memory import AgentMemory, Tries
from formation.requests import ChangeKind, QuantityChange
from formation.v1 import agent_pb2 as agent
from formation.v1 import control_pb2 as control
from formation.v1 import journal_pb2 as journal
from formation.v1 import types_pb2 as pb
from formation.wire_assignment import (
    assignment_from_pb,
    assignment_to_pb,
    document_from_pb,
    document_to_pb,
    move_from_pb,
    move_to_pb,
    rebalance_from_pb,
    rebalance_to_pb,
    run_from_pb,
    run_to_pb,
)
from formation.wire_type import (
    WireError,
    process_type_from_pb,
    process_type_to_pb,
    secret_from_pb,
    secret_to_pb,
    secrets_of_type,
)

__all__ = [
    "WireError",
    "assignment_from_pb",
    "assignment_to_pb",
    "document_from_pb",
    "document_to_pb",
    "move_from_pb",
    "move_to_pb",
    "process_type_from_pb",
    "process_type_to_pb",
    "rebalance_from_pb",
    "rebalance_to_pb",
    "run_from_pb",
    "run_to_pb",
]

_ABILITIES = frozenset(m.Ability)


def release_to_pb(release: m.Release) -> pb.Release:
    return pb.Release(
        app=release.app,
        number=release.number,
        types=[process_type_to_pb(spec) for spec in release.types],
        env=dict(release.env),
        workdir=release.workdir,
        created_by=release.created_by,
        created_at_ms=release.created_at_ms,
        reason=release.reason,
        config=dict(release.config),
        secrets={name: secret_to_pb(secret) for name, secret in release.secrets.items()},
    )


def release_from_pb(message: pb.Release) -> m.Release:
    return m.Release(
        app=message.app,
        number=message.number,
        types=tuple(process_type_from_pb(spec) for spec in message.types),
        env=dict(message.env),
        workdir=message.workdir,
        created_by=message.created_by,
        created_at_ms=message.created_at_ms,
        reason=message.reason,
        config=dict(message.config),
        secrets={name: secret_from_pb(item) for name, item in message.secrets.items()},
    )


def as_far_as_secrets(message: pb.Release) -> m.Release:
    """Only who needs which of them: can be read of every version's releases."""
    return m.Release(
        app=message.app,
        number=message.number,
        types=tuple(map(secrets_of_type, message.types)),
        secrets={name: secret_from_pb(item) for name, item in message.secrets.items()},
    )


def app_to_pb(app: m.App) -> pb.App:
    return pb.App(
        name=app.name,
        formation=dict(app.formation),
        release=app.release,
        latest_release=app.latest_release,
        restart_marks=dict(app.restart_marks),
        created_at_ms=app.created_at_ms,
        retry_marks=dict(app.retry_marks),
        stable_release=app.stable_release,
        rollout=pb.Rollout(
            paused=app.rollout.paused,
            canary=app.rollout.canary,
            undone_release=app.rollout.undone_release,
            reason=app.rollout.reason,
        ),
        formation_history=[
            pb.FormationChange(before=dict(change.before), who=change.who, at_ms=change.at_ms)
            for change in app.formation_history
        ],
        runs_made=app.runs_made,
    )


def app_from_pb(message: pb.App) -> m.App:
    return m.App(
        name=message.name,
        formation=dict(message.formation),
        release=message.release,
        latest_release=message.latest_release,
        restart_marks=dict(message.restart_marks),
        created_at_ms=message.created_at_ms,
        retry_marks=dict(message.retry_marks),
        stable_release=message.stable_release,
        rollout=rules.Rollout(
            paused=message.rollout.paused,
            canary=message.rollout.canary,
            undone_release=message.rollout.undone_release,
            reason=message.rollout.reason,
        ),
        formation_history=tuple(
            rules.FormationChange(before=dict(change.before), who=change.who, at_ms=change.at_ms)
            for change in message.formation_history
        ),
        runs_made=message.runs_made,
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
        instances=tuple(assignment_from_pb(item) for item in message.instances),
        removed_uids=tuple(message.removed_uids),
        cluster_epoch=message.cluster_epoch,
        releases=tuple(release_from_pb(release) for release in message.releases),
    )


def instance_status_to_pb(status: m.InstanceStatus) -> pb.InstanceStatus:
    slot = status.slot
    return pb.InstanceStatus(
        uid=status.uid,
        app=slot.app,
        type=slot.type,
        ordinal=slot.ordinal,
        release=status.release,
        state=pb.InstanceState.ValueType(int(status.state)),
        pid=status.pid,
        port=status.port,
        attempt=status.attempt,
        started_at_ms=status.started_at_ms,
        reason=status.reason,
        last_exit=status.last_exit,
        retry_at_ms=status.retry_at_ms,
        failures=status.failures,
        crash_looping=status.crash_looping,
        told=status.told,
    )


def instance_status_from_pb(message: pb.InstanceStatus) -> m.InstanceStatus:
    if not message.uid:
        raise WireError("an instance status without a uid")
    try:
        state = m.InstanceState(message.state)
    except ValueError as error:
        raise WireError(f"instance {message.uid}: unknown state {message.state}") from error
    return m.InstanceStatus(
        uid=message.uid,
        slot=m.Slot(message.app, message.type, message.ordinal),
        release=message.release,
        state=state,
        pid=message.pid,
        port=message.port,
        attempt=message.attempt,
        started_at_ms=message.started_at_ms,
        reason=message.reason,
        last_exit=message.last_exit,
        retry_at_ms=message.retry_at_ms,
        failures=message.failures,
        crash_looping=message.crash_looping,
        told=message.told,
    )


def usage_to_pb(usage: m.Usage) -> pb.InstanceUsage:
    return pb.InstanceUsage(
        uid=usage.uid,
        cpu_s=usage.cpu_s,
        cpu_share=usage.cpu_share,
        memory_bytes=usage.memory_bytes,
        processes=usage.processes,
        files=usage.files,
        log_bytes=usage.log_bytes,
        log_bytes_per_s=usage.log_bytes_per_s,
    )


def usage_from_pb(message: pb.InstanceUsage) -> m.Usage:
    return m.Usage(
        uid=message.uid,
        cpu_s=message.cpu_s,
        cpu_share=message.cpu_share,
        memory_bytes=message.memory_bytes,
        processes=message.processes,
        files=message.files,
        log_bytes=message.log_bytes,
        log_bytes_per_s=message.log_bytes_per_s,
    )


def capacity_to_pb(capacity: m.Capacity) -> pb.Capacity:
    return pb.Capacity(
        instances_max=capacity.instances_max,
        cpus=capacity.cpus,
        memory_bytes=capacity.memory_bytes,
    )


def capacity_from_pb(message: pb.Capacity) -> m.Capacity:
    return m.Capacity(
        instances_max=message.instances_max,
        cpus=message.cpus,
        memory_bytes=message.memory_bytes,
    )


def host_status_to_pb(status: m.HostStatus) -> pb.HostStatus:
    return pb.HostStatus(
        host=status.host,
        agent_id=status.agent_id,
        boot_id=status.boot_id,
        agent_version=status.agent_version,
        capacity=capacity_to_pb(status.capacity),
        labels=dict(status.labels),
        address=status.address,
        instances=[instance_status_to_pb(item) for item in status.instances],
        departed=status.departed,
        complaint=status.complaint,
        abilities=[item.value for item in status.abilities],
        inability=status.inability,
        generation=status.generation,
        cluster_epoch=status.cluster_epoch,
        ahead=status.ahead,
    )


def host_status_from_pb(message: pb.HostStatus) -> m.HostStatus:
    return m.HostStatus(
        host=message.host,
        agent_id=message.agent_id,
        boot_id=message.boot_id,
        agent_version=message.agent_version,
        capacity=capacity_from_pb(message.capacity),
        labels=dict(message.labels),
        address=message.address,
        instances=tuple(instance_status_from_pb(item) for item in message.instances),
        departed=message.departed,
        complaint=message.complaint,
        # Those of a newer agent cannot be required of it here, so they need not be known.
        abilities=tuple(m.Ability(item) for item in message.abilities if item in _ABILITIES),
        inability=message.inability,
        generation=message.generation,
        cluster_epoch=message.cluster_epoch,
        ahead=message.ahead,
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


def host_to_pb(host: m.Host) -> pb.Host:
    return pb.Host(
        name=host.name,
        joined_at_ms=host.joined_at_ms,
        cordoned=host.cordoned,
        draining=host.draining,
        drain_deadline_s=host.drain_deadline_s,
        labels=dict(host.labels),
    )


def host_from_pb(message: pb.Host) -> m.Host:
    return m.Host(
        name=message.name,
        joined_at_ms=message.joined_at_ms,
        cordoned=message.cordoned,
        draining=message.draining,
        drain_deadline_s=message.drain_deadline_s,
        labels=dict(message.labels),
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


def agent_memory_to_pb(memory: AgentMemory) -> journal.AgentJournal:
    return journal.AgentJournal(
        agent_id=memory.agent_id,
        cluster_id=memory.cluster_id,
        epoch=memory.epoch,
        generation=memory.generation,
        assigned=[assignment_to_pb(item) for item in memory.assigned],
        ending=[assignment_to_pb(item) for item in memory.ending],
        releases=[release_to_pb(release) for release in memory.releases],
        ports=[
            journal.SlotPort(app=slot.app, type=slot.type, ordinal=slot.ordinal, port=port)
            for slot, port in memory.ports.items()
        ],
        tries=[
            journal.StayTries(
                uid=uid,
                attempt=tries.attempt,
                failures=tries.failures,
                pid=tries.pid,
                start_ticks=tries.start_ticks,
                over=tries.over,
                last_exit=tries.last_exit,
                ready=tries.ready,
            )
            for uid, tries in memory.tries.items()
        ],
        boot_id=memory.boot_id,
        cluster_epoch=memory.cluster_epoch,
    )


def agent_memory_from_pb(message: journal.AgentJournal) -> AgentMemory:
    if not message.agent_id:
        raise WireError("an agent's journal without its id")
    return AgentMemory(
        agent_id=message.agent_id,
        cluster_id=message.cluster_id,
        epoch=message.epoch,
        generation=message.generation,
        assigned=tuple(assignment_from_pb(item) for item in message.assigned),
        ending=tuple(assignment_from_pb(item) for item in message.ending),
        releases=tuple(release_from_pb(release) for release in message.releases),
        ports={m.Slot(item.app, item.type, item.ordinal): item.port for item in message.ports},
        tries={
            item.uid: Tries(
                attempt=item.attempt,
                failures=item.failures,
                pid=item.pid,
                start_ticks=item.start_ticks,
                over=item.over,
                last_exit=item.last_exit,
                ready=item.ready,
            )
            for item in message.tries
        },
        boot_id=message.boot_id,
        cluster_epoch=message.cluster_epoch,
    )
