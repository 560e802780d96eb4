"""Model ⇄ protobuf of what is seen of a cluster. A part of `formation.wire`, in a file of its own
for those who show it and load nothing else.
"""

from __future__ import annotations

from formation import seen as s
from formation.v1 import types_pb2 as pb
from formation.wire_command import candidate_from_pb, candidate_to_pb
from formation.wire_maps import WireError, in_order

_ABILITIES = frozenset(s.Ability)


def app_to_pb(app: s.App) -> pb.App:
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
        candidate=candidate_to_pb(app.candidate),
    )


def app_from_pb(message: pb.App) -> s.App:
    return s.App(
        name=message.name,
        formation=in_order(message.formation),
        release=message.release,
        latest_release=message.latest_release,
        restart_marks=in_order(message.restart_marks),
        created_at_ms=message.created_at_ms,
        retry_marks=in_order(message.retry_marks),
        stable_release=message.stable_release,
        rollout=s.Rollout(
            paused=message.rollout.paused,
            canary=message.rollout.canary,
            undone_release=message.rollout.undone_release,
            reason=message.rollout.reason,
        ),
        formation_history=tuple(
            s.FormationChange(before=dict(change.before), who=change.who, at_ms=change.at_ms)
            for change in message.formation_history
        ),
        runs_made=message.runs_made,
        candidate=candidate_from_pb(message),
    )


def instance_status_to_pb(status: s.InstanceStatus) -> pb.InstanceStatus:
    slot, draining = status.slot, status.state is s.InstanceState.DRAINING
    state = s.InstanceState.STOPPING if draining else status.state
    return pb.InstanceStatus(
        uid=status.uid,
        app=slot.app,
        type=slot.type,
        ordinal=slot.ordinal,
        release=status.release,
        state=pb.InstanceState.ValueType(int(state)),
        draining=draining,
        pid=status.pid,
        port=status.port,
        attempt=status.attempt,
        started_at_ms=status.started_at_ms,
        reason=status.reason,
        last_exit=status.last_exit,
        retry_at_ms=status.retry_at_ms,
        failures=status.failures,
        crash_looping=status.crash_looping,
        unbuildable=status.unbuildable,
        told=status.told,
    )


def instance_status_from_pb(message: pb.InstanceStatus) -> s.InstanceStatus:
    if not message.uid:
        raise WireError("an instance status without a uid")
    try:
        state = s.InstanceState(message.state)
    except ValueError as error:
        raise WireError(f"instance {message.uid}: unknown state {message.state}") from error
    draining = message.draining and state is s.InstanceState.STOPPING
    return s.InstanceStatus(
        uid=message.uid,
        slot=s.Slot(message.app, message.type, message.ordinal),
        release=message.release,
        state=s.InstanceState.DRAINING if draining else state,
        pid=message.pid,
        port=message.port,
        attempt=message.attempt,
        started_at_ms=message.started_at_ms,
        reason=message.reason,
        last_exit=message.last_exit,
        retry_at_ms=message.retry_at_ms,
        failures=message.failures,
        crash_looping=message.crash_looping,
        unbuildable=message.unbuildable,
        told=message.told,
    )


def usage_to_pb(usage: s.Usage) -> pb.InstanceUsage:
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


def usage_from_pb(message: pb.InstanceUsage) -> s.Usage:
    return s.Usage(
        uid=message.uid,
        cpu_s=message.cpu_s,
        cpu_share=message.cpu_share,
        memory_bytes=message.memory_bytes,
        processes=message.processes,
        files=message.files,
        log_bytes=message.log_bytes,
        log_bytes_per_s=message.log_bytes_per_s,
    )


def capacity_to_pb(capacity: s.Capacity) -> pb.Capacity:
    return pb.Capacity(
        instances_max=capacity.instances_max,
        cpus=capacity.cpus,
        memory_bytes=capacity.memory_bytes,
    )


def capacity_from_pb(message: pb.Capacity) -> s.Capacity:
    return s.Capacity(
        instances_max=message.instances_max,
        cpus=message.cpus,
        memory_bytes=message.memory_bytes,
    )


def host_status_to_pb(status: s.HostStatus) -> pb.HostStatus:
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


def host_status_from_pb(message: pb.HostStatus) -> s.HostStatus:
    return s.HostStatus(
        host=message.host,
        agent_id=message.agent_id,
        boot_id=message.boot_id,
        agent_version=message.agent_version,
        capacity=capacity_from_pb(message.capacity),
        labels=in_order(message.labels),
        address=message.address,
        instances=tuple(instance_status_from_pb(item) for item in message.instances),
        departed=message.departed,
        complaint=message.complaint,
        # Those of a newer agent cannot be required of it here, so they need not be known.
        abilities=tuple(s.Ability(item) for item in message.abilities if item in _ABILITIES),
        inability=message.inability,
        generation=message.generation,
        cluster_epoch=message.cluster_epoch,
        ahead=message.ahead,
    )


def host_to_pb(host: s.Host) -> pb.Host:
    return pb.Host(
        name=host.name,
        joined_at_ms=host.joined_at_ms,
        cordoned=host.cordoned,
        draining=host.draining,
        drain_deadline_s=host.drain_deadline_s,
        labels=dict(host.labels),
    )


def host_from_pb(message: pb.Host) -> s.Host:
    return s.Host(
        name=message.name,
        joined_at_ms=message.joined_at_ms,
        cordoned=message.cordoned,
        draining=message.draining,
        drain_deadline_s=message.drain_deadline_s,
        labels=in_order(message.labels),
    )
